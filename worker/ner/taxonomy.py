"""Taxonomies: which types an operator gets out of a model's labels. They are data, in TOML files.

layer = "fine"            # the label layer of the model that is read; may be left out
dropped = ["QUANTITY"]    # labels that give no entity
[types]                   # label = type; types keep this order
PER = "PER"
WORK = "PRODUCT"
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from worker.ner.errors import ModelError

OWN: Final = "own"
SHIPPED: Final = ("seed", "movies", "klue")


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """A fold of one label layer: a type for each label, or None where the label gives no entity."""

    name: str
    layer: str
    fold: Mapping[str, str | None]

    @property
    def types(self) -> tuple[str, ...]:
        """Every type once, in the taxonomy's order."""
        return tuple(dict.fromkeys(kind for kind in self.fold.values() if kind is not None))


def load_taxonomy(name: str, layers: Mapping[str, tuple[str, ...]], model: str) -> Taxonomy:
    """Read `seed`, `movies`, `klue`, `own` (the model's labels as they are) or a TOML file, for a model's label layers.

    `layers` holds the labels of each layer; a model with one layer is read by it whatever the taxonomy calls it.
    Raises `ModelError` with one line: no such taxonomy, not a taxonomy, or labels that don't match `model`'s.
    """
    if name == OWN:
        layer = next(iter(layers))
        return Taxonomy(OWN, layer, {label: label for label in layers[layer]})
    known = ", ".join((*SHIPPED, OWN))
    if name in SHIPPED:
        title, place = name, f"taxonomy {name}"
        text = (files("worker.ner") / "taxonomies" / f"{name}.toml").read_text("utf-8")
    else:
        path = Path(name)
        if not path.is_file():
            raise ModelError(f"taxonomy {name}: neither one of {known} nor a TOML file")
        title, place = path.stem, str(path)
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{place}: cannot be read ({type(error).__name__})") from None
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ModelError(f"{place}: not TOML ({error})") from None
    fold, asked = _fold(table, place)
    layer = _choose_layer(asked, layers, place, model)
    _compare(fold, layers[layer], place, layer, model)
    return Taxonomy(title, layer, fold)


def _fold(table: Mapping[str, Any], place: str) -> tuple[dict[str, str | None], str | None]:
    unknown = sorted(set(table) - {"layer", "dropped", "types"})
    if unknown:
        raise ModelError(f"{place}: unknown key {', '.join(unknown)}; a taxonomy has layer, dropped and [types]")
    types = table.get("types")
    if not isinstance(types, dict) or not types:
        raise ModelError(f'{place}: no [types] table; it says the type of each label, as in PER = "person"')
    for label, kind in types.items():
        if not isinstance(kind, str) or not kind:
            raise ModelError(
                f"{place}: the type of {label} must be a word in quotes; labels to leave out go in dropped"
            )
    dropped = table.get("dropped", [])
    if not isinstance(dropped, list) or not all(isinstance(label, str) for label in dropped):
        raise ModelError(f"{place}: dropped must be a list of labels")
    both = sorted(set(dropped) & set(types))
    if both:
        raise ModelError(f"{place}: {', '.join(both)} cannot be in [types] and in dropped")
    layer = table.get("layer")
    if layer is not None and not isinstance(layer, str):
        raise ModelError(f"{place}: layer must be the name of a label layer")
    return {**types, **dict.fromkeys(dropped)}, layer


def _choose_layer(asked: str | None, layers: Mapping[str, tuple[str, ...]], place: str, model: str) -> str:
    if asked is None or len(layers) == 1:
        return next(iter(layers))
    if asked not in layers:
        raise ModelError(f"{place}: no label layer {asked} in {model}; it has {', '.join(layers)}")
    return asked


def _compare(fold: Mapping[str, str | None], labels: tuple[str, ...], place: str, layer: str, model: str) -> None:
    foreign = [label for label in fold if label not in labels]
    missing = [label for label in labels if label not in fold]
    if not foreign and not missing:
        return
    parts = []
    if foreign:
        parts.append(f"it names {', '.join(foreign)}, which the model does not tell apart")
    if missing:
        parts.append(f"it says nothing of {', '.join(missing)}")
    raise ModelError(
        f"{place} does not fit the labels of {model} ({layer}: {', '.join(labels)}): {' and '.join(parts)}; "
        f"take a taxonomy file for these labels, or {OWN} for the labels as they are"
    )
