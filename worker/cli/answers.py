"""How commands answer: JSON on stdout for programs, tables and progress on stderr for people, one line for an error."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import typer

WRONG_CALL = 2
FAILED = 1
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # what a terminal may obey: C0, DEL, C1


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn what a user can cause into one line and an exit code."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read stdout has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        fail(f"{where}{error.strerror or error}")
    except KeyboardInterrupt:
        fail("interrupted")


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Say in one line on stderr why the command ends, and end it with `code`."""
    print(f"koner: {' '.join(message.split())}", file=sys.stderr)
    raise typer.Exit(code) from None


def print_json(value: Any) -> None:
    """Print a value as one line of JSON on stdout; a terminal finds nothing to obey in it."""
    line = json.dumps(value, ensure_ascii=False, default=str)
    print(_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", line))


def answer(value: Any, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print `value` as JSON on stdout for a program, and `rows` as a table on stderr where a person looks on."""
    if sys.stderr.isatty():
        _table(rows, columns)
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        print_json(value)


def details(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print a further table on stderr where a person looks on, of what the JSON on stdout holds already."""
    if rows and sys.stderr.isatty():
        _table(rows, columns)


def note(message: str) -> None:
    """Say something on stderr that a user should know and that ends nothing."""
    print(f"koner: {message}", file=sys.stderr)


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    folding = (Column(column, overflow="fold") for column in columns)  # a place that is cut short is of no use
    table = Table(*folding, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(_cell(row[column])) for column in columns))
    Console(stderr=True).print(table)


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:,.4g}"
        case int():
            return f"{value:,}" if abs(value) >= 10_000 else str(value)
        case list():
            return ", ".join(_cell(one) for one in value)
        case dict():
            return "; ".join(f"{_cell(name)}: {_cell(one)}" for name, one in value.items())
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", str(value))


@contextmanager
def progress_in_offsets(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar as `progress`; the function takes how many offsets are done, and how many there are in all."""
    with progress(what) as advance:
        yield lambda done, total: advance(done / total if total else 1.0, f"{done:,} of {total:,} offsets")


@contextmanager
def progress(what: str, total: float | None = 1.0) -> Iterator[Callable[[float, str], None]]:
    """A bar on stderr where that is a terminal; the function takes how much of `total` is done, and a word on it."""
    if not sys.stderr.isatty():
        yield lambda done, word: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[word]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, word="")
        yield lambda done, word: bar.update(task, completed=done, word=word)
