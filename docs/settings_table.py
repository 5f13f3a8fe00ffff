"""Write the README's table of settings from worker/settings.py: `python docs/settings_table.py`."""

import re
import types
import typing
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from worker.settings import DEFAULT_SOURCES, Settings

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"(<!-- settings -->\n).*?(<!-- /settings -->)", re.DOTALL)


def table() -> str:
    """The Markdown table: a row a setting, in the order of the source."""
    rows = [f"| `{name}` | {_default(field)} | {_sentence(field)} |" for name, field in Settings.model_fields.items()]
    return "\n".join(["| setting | default | what |", "|---|---|---|", *rows]) + "\n"


def _default(field: FieldInfo) -> str:
    if field.default == DEFAULT_SOURCES:
        return "see below"
    if field.default is None:
        return ""
    return f"`{field.default}`" if not isinstance(field.default, bool) else f"`{str(field.default).lower()}`"


def _sentence(field: FieldInfo) -> str:
    choices = [f"`{choice}`" for choice in _choices(field.annotation)]
    return "; ".join(part for part in (field.description, ", ".join(choices)) if part)


def _choices(annotation: Any) -> tuple[str, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(choice for part in typing.get_args(annotation) for choice in _choices(part))
    return typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()


def main() -> None:
    """Replace the table between the README's two markers."""
    text = README.read_text(encoding="utf-8")
    README.write_text(BLOCK.sub(lambda found: found[1] + table() + found[2], text), encoding="utf-8")


if __name__ == "__main__":
    main()
