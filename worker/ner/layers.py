"""The label layers of a tagger: one encoder, several conventions of what to mark."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LabelLayer:
    """One way to label a character: a name and its tags, `O` first, then `B-` and `I-` of each label."""

    name: str
    tags: tuple[str, ...]

    @classmethod
    def of(cls, name: str, labels: tuple[str, ...]) -> "LabelLayer":
        """The layer whose tags are IOB2 over `labels`."""
        return cls(name, ("O", *(f"{prefix}-{label}" for label in labels for prefix in "BI")))
