"""The labels: how shared/data's fine labels fold into the eleven, and spans into a tag per character."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.ner.layers import LabelLayer

Tags = NDArray[np.int16]

FINE: Final = LabelLayer.of(
    "fine", ("PER", "LOC", "ORG", "DATE", "TIME", "MONEY", "PERCENT", "EVENT", "PRODUCT", "WORK", "QUANTITY")
)
KLUE: Final = LabelLayer.of("klue", ("PS", "LC", "OG", "DT", "TI", "QT"))
LAYERS: Final = (FINE, KLUE)
UNLABELLED: Final = -100  # the target that a loss leaves out

# The first prefix that fits decides.
_FOLDS: Final = (
    ("PS_", "PER"),
    ("LC", "LOC"),
    ("OG", "ORG"),
    ("DT_", "DATE"),
    ("TI_", "TIME"),
    ("QT_PRICE", "MONEY"),
    ("QT_PERCENTAGE", "PERCENT"),
    ("QT_", "QUANTITY"),
    ("AFA_", "WORK"),
    ("AF", "PRODUCT"),
    ("TMI_SW", "PRODUCT"),
    ("TMI_HW", "PRODUCT"),
    ("TMI_MODEL", "PRODUCT"),
    ("EV_", "EVENT"),
)


@dataclass(frozen=True, slots=True, order=True)
class LabelledSpan:
    """Half-open, in code points."""

    start: int
    end: int
    label: str


def fold(fine_label: str) -> str | None:
    """The one of the eleven that a label such as `LCP_CITY` belongs to, or None."""
    return next((label for prefix, label in _FOLDS if fine_label.startswith(prefix)), None)


def tags_of(layer: LabelLayer, length: int, spans: Iterable[LabelledSpan]) -> Tags:
    """A tag index for each of `length` characters. Spans must not overlap; KeyError for a label not of the layer."""
    index = {tag: i for i, tag in enumerate(layer.tags)}
    tags = np.zeros(length, np.int16)
    for span in spans:
        tags[span.start : span.end] = index[f"I-{span.label}"]
        tags[span.start] = index[f"B-{span.label}"]
    return tags
