"""What a model's tags mean: which label, and whether a span may begin or must end there."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_OPENING = frozenset("BSU")
_CLOSING = frozenset("ESLU")
_PREFIXES = frozenset("BIESLUM")


@dataclass(frozen=True, slots=True)
class TagTable:
    """The tags of one label layer, as arrays over the tag's index."""

    labels: tuple[str, ...]  # in order of first appearance
    label_of: NDArray[np.int64]  # [K] index into `labels`; -1 outside
    opens: NDArray[np.bool_]  # [K] a span begins here whatever stands before
    closes: NDArray[np.bool_]  # [K] a span ends here whatever comes after
    strict: bool  # IOB2: inside is legal only after begin or inside of the same label

    @classmethod
    def of(cls, tags: Sequence[str], *, strict: bool) -> "TagTable":
        """Read `O`, `B-X`, `I-X` (or BIOES, BILOU, and bare names as in IO tagging).

        With `strict`, the tags are those of IOB2 and only its legal sequences are decoded. Without, any sequence has a
        meaning: an inside tag after another label, or after nothing, begins a span, as CoNLL's evaluation has it.
        Raises ValueError for tags that hold no `O`, or, with `strict`, are not IOB2.
        """
        parts = [_split(tag) for tag in tags]
        labels = tuple(dict.fromkeys(label for _, label in parts if label))
        if all(label for _, label in parts):
            raise ValueError("no tag O")
        if strict and sorted(tags) != sorted(["O", *(f"{prefix}-{label}" for label in labels for prefix in "BI")]):
            raise ValueError("the tags are not O and B- and I- of each label")
        return cls(
            labels=labels,
            label_of=np.array([labels.index(label) if label else -1 for _, label in parts], np.int64),
            opens=np.array([prefix in _OPENING for prefix, _ in parts], bool),
            closes=np.array([prefix in _CLOSING for prefix, _ in parts], bool),
            strict=strict,
        )


def _split(tag: str) -> tuple[str, str]:
    if tag == "O":
        return "", ""
    for separator in "-_":
        prefix, found, label = tag.partition(separator)
        if found and prefix in _PREFIXES and label:
            return prefix, label
    for separator in "-_":  # KLUE's own checkpoints and many Korean ones write PER-B
        label, found, prefix = tag.rpartition(separator)
        if found and prefix in _PREFIXES and label:
            return prefix, label
    return "I", tag
