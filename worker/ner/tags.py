"""What a model's tags mean: which label, and whether a span may begin or must end there."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_OPENING = frozenset("BSU")
_CLOSING = frozenset("ESLU")
_PREFIXES = frozenset("BIESLUM")


@dataclass(frozen=True, slots=True)
class Transitions:
    """What a step from one place to the next adds to the logits of a path through IOB2 tags, as a CRF learns it.

    A place is in one of the L labels or outside, which is the last of L + 1 states. Before a text, and after it, is
    outside. (Lafferty et al. 2001, "Conditional Random Fields".)
    """

    moves: NDArray[np.float32]  # [L + 1, L + 1] from any state to outside, or to the beginning of a label
    stays: NDArray[np.float32]  # [L] from a label to its inside

    @classmethod
    def none(cls, labels: int) -> "Transitions":
        """Steps that add nothing: what is legal is as good as any other."""
        return cls(np.zeros((labels + 1, labels + 1), np.float32), np.zeros(labels, np.float32))

    @property
    def any(self) -> bool:
        """Whether a step adds something."""
        return bool(self.moves.any() or self.stays.any())


@dataclass(frozen=True, slots=True)
class TagTable:
    """The tags of one label layer, as arrays over the tag's index."""

    labels: tuple[str, ...]  # in order of first appearance
    label_of: NDArray[np.int64]  # [K] index into `labels`; -1 outside
    opens: NDArray[np.bool_]  # [K] a span begins here whatever stands before
    closes: NDArray[np.bool_]  # [K] a span ends here whatever comes after
    strict: bool  # IOB2: inside is legal only after begin or inside of the same label
    transitions: Transitions  # of `strict` ones

    @classmethod
    def of(cls, tags: Sequence[str], *, strict: bool, transitions: Transitions | None = None) -> "TagTable":
        """Read `O`, `B-X`, `I-X` (or BIOES, BILOU, and bare names as in IO tagging).

        With `strict`, the tags are those of IOB2 and only its legal sequences are decoded. Without, any sequence has a
        meaning: an inside tag after another label, or after nothing, begins a span, as CoNLL's evaluation has it.
        Raises ValueError for tags that hold no `O`, or, with `strict`, are not IOB2, and for transitions between
        another number of labels, or that are not finite.
        """
        parts = [_split(tag) for tag in tags]
        labels = tuple(dict.fromkeys(label for _, label in parts if label))
        if all(label for _, label in parts):
            raise ValueError("no tag O")
        if strict and sorted(tags) != sorted(["O", *(f"{prefix}-{label}" for label in labels for prefix in "BI")]):
            raise ValueError("the tags are not O and B- and I- of each label")
        none = Transitions.none(len(labels))
        if transitions:
            if (transitions.moves.shape, transitions.stays.shape) != (none.moves.shape, none.stays.shape):
                raise ValueError(f"the transitions are not between {len(labels)} labels and outside")
            if not (np.isfinite(transitions.moves).all() and np.isfinite(transitions.stays).all()):
                raise ValueError("the transitions are not finite")
        return cls(
            labels=labels,
            label_of=np.array([labels.index(label) if label else -1 for _, label in parts], np.int64),
            opens=np.array([prefix in _OPENING for prefix, _ in parts], bool),
            closes=np.array([prefix in _CLOSING for prefix, _ in parts], bool),
            strict=strict,
            transitions=transitions or none,
        )

    @property
    def outside(self) -> int:
        """The tag `O`."""
        return int(np.flatnonzero(self.label_of < 0)[0])

    @property
    def begins(self) -> NDArray[np.int64]:
        """[L] the tag that begins each label; of `strict` tables."""
        return self._by_label(self.opens)

    @property
    def insides(self) -> NDArray[np.int64]:
        """[L] the tag inside each label; of `strict` tables."""
        return self._by_label(~self.opens)

    def _by_label(self, wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
        tags = np.flatnonzero(wanted & (self.label_of >= 0))
        return tags[np.argsort(self.label_of[tags])]


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
