"""Taxonomies: which types an operator gets out of a model's labels. They are data, in TOML files.

layer = "fine"            # the label layer of the model that is read; may be left out
dropped = ["QUANTITY"]    # labels that give no entity
least_score = 0.6         # what is found with a lower score gives no entity; may be left out: 0
marked = ["GENRE"]        # only read by `koner train --from`: labels that the user's texts are marked for
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
    """A fold of one label layer: a type for each label, or None where the label gives no entity.

    Nor does a span whose score is below `least_score`.
    """

    name: str
    layer: str
    fold: Mapping[str, str | None]
    least_score: float = 0.0

    @property
    def types(self) -> tuple[str, ...]:
        """Every type once, in the taxonomy's order."""
        return tuple(dict.fromkeys(kind for kind in self.fold.values() if kind is not None))


@dataclass(frozen=True, slots=True)
class TaxonomyFile:
    """What a taxonomy file says, not yet held against a model."""

    fold: Mapping[str, str | None]
    layer: str | None
    marked: tuple[str, ...] | None
    least_score: float


def read_taxonomy(path: Path) -> TaxonomyFile:
    """Read a TOML file. Raises `ModelError` with one line where it isn't a taxonomy."""
    try:
        return _file(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read ({type(error).__name__})") from None


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
        read = _file((files("worker.ner") / "taxonomies" / f"{name}.toml").read_text("utf-8"), place)
    else:
        path = Path(name)
        if not path.is_file():
            raise ModelError(f"taxonomy {name}: neither one of {known} nor a TOML file")
        title, place = path.stem, str(path)
        read = read_taxonomy(path)
    layer = choose_layer(read.layer, layers, place, model)
    _compare(read.fold, layers[layer], place, layer, model)
    return Taxonomy(title, layer, read.fold, read.least_score)


def _file(text: str, place: str) -> TaxonomyFile:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ModelError(f"{place}: not TOML ({error})") from None
    fold, layer = _fold(table, place)
    least = table.get("least_score", 0.0)
    if isinstance(least, bool) or not isinstance(least, (int, float)) or not 0 <= least <= 1:
        raise ModelError(f"{place}: least_score must be a number from 0 to 1")
    marked = table.get("marked")
    if marked is None:
        return TaxonomyFile(fold, layer, None, float(least))
    known = isinstance(marked, list) and all(isinstance(label, str) and label in fold for label in marked)
    if not known or not marked:
        raise ModelError(f"{place}: marked must be a list of labels that stand in [types] or in dropped")
    return TaxonomyFile(fold, layer, tuple(dict.fromkeys(marked)), float(least))


def _fold(table: Mapping[str, Any], place: str) -> tuple[dict[str, str | None], str | None]:
    unknown = sorted(set(table) - {"layer", "dropped", "least_score", "marked", "types"})
    if unknown:
        raise ModelError(
            f"{place}: unknown key {', '.join(unknown)}; a taxonomy has layer, dropped, least_score and [types]"
        )
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


def choose_layer(asked: str | None, layers: Mapping[str, tuple[str, ...]], place: str, model: str) -> str:
    """The layer that a taxonomy asks for; the first if it doesn't. Raises `ModelError` for one the model lacks."""
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
