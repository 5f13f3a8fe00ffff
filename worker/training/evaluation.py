"""Scores: exact spans by type, and KLUE's own protocol."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from worker.training.labels import KLUE, LabelledSpan

Predict = Callable[[Sequence[str]], Sequence[Sequence[LabelledSpan]]]
"""Texts to the spans of each, in the texts' code points."""


@dataclass(frozen=True, slots=True)
class Score:
    """Right, found and true spans (or characters) of one type or of all."""

    right: int
    found: int
    true: int

    @property
    def precision(self) -> float:
        return self.right / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        return self.right / self.true if self.true else 0.0

    @property
    def f1(self) -> float:
        return 2 * self.right / (self.found + self.true) if self.found + self.true else 0.0


@dataclass(frozen=True, slots=True)
class SpanScores:
    """Exact match: a span counts only if start, end and type are all right."""

    by_type: Mapping[str, Score]

    @property
    def micro(self) -> Score:
        """All types' spans in one pot."""
        scores = self.by_type.values()
        return Score(sum(s.right for s in scores), sum(s.found for s in scores), sum(s.true for s in scores))

    @property
    def macro_f1(self) -> float:
        """The mean of the types' F1, types that occur in gold or prediction."""
        return sum(score.f1 for score in self.by_type.values()) / max(len(self.by_type), 1)


@dataclass(frozen=True, slots=True)
class KlueScores:
    """KLUE-NER's two figures (Park et al. 2021, "KLUE", section 3.4): one tag per character that isn't a space."""

    entities: SpanScores  # strict IOB2 spans over those characters
    characters: Mapping[str, Score]  # each of the 13 tags that occurs in gold or prediction, O included

    @property
    def entity_macro_f1(self) -> float:
        return self.entities.macro_f1

    @property
    def character_macro_f1(self) -> float:
        """The mean over all 13 tags, O included. As in KLUE's own code, a tag that never occurs counts 1."""
        absent = len(KLUE.tags) - len(self.characters)
        return (sum(score.f1 for score in self.characters.values()) + absent) / len(KLUE.tags)


def evaluate(
    predict: Predict,
    sentences: Sequence[tuple[str, Sequence[LabelledSpan]]],
    *,
    leave_out: Sequence[str] = (),
    fold: Mapping[str, str] | None = None,
) -> SpanScores:
    """Predict the texts and score against their gold spans.

    `fold` maps the types of both sides to those scored (WORK to PRODUCT, say); types in `leave_out` (before folding)
    are dropped from both sides.
    """
    found = predict([text for text, _ in sentences])
    return score_spans(
        [_folded(spans, leave_out, fold or {}) for spans in found],
        [_folded(spans, leave_out, fold or {}) for _, spans in sentences],
    )


def score_spans(found: Iterable[Sequence[LabelledSpan]], true: Iterable[Sequence[LabelledSpan]]) -> SpanScores:
    """Exact-match counts by type over all texts."""
    right: Counter[str] = Counter()
    found_of: Counter[str] = Counter()
    true_of: Counter[str] = Counter()
    for found_here, true_here in zip(found, true, strict=True):
        known = set(true_here)
        for span in set(found_here):
            found_of[span.label] += 1
            right[span.label] += span in known
        true_of.update(span.label for span in known)
    types = sorted(found_of | true_of)
    return SpanScores({label: Score(right[label], found_of[label], true_of[label]) for label in types})


BOUNDARY: Final = "boundary"
NOTHING: Final = "none"


def confusion(
    found: Iterable[Sequence[LabelledSpan]], true: Iterable[Sequence[LabelledSpan]]
) -> dict[str, dict[str, int]]:
    """How often each true type was taken for which: true type -> type found -> count.

    A span found at the very same place counts under its type. Else `boundary` means that one of the right type
    overlaps, and `none` that none does. Under the true type `none` stand the spans found that are neither at the place
    of a true one nor overlap one of their own type. So each row but `none` adds up to that type's true spans.
    """
    table: dict[str, Counter[str]] = {}
    for found_here, true_here in zip(found, true, strict=True):
        for span in set(true_here):
            table.setdefault(span.label, Counter())[_taken_for(span, found_here)] += 1
        for span in set(found_here):
            if _taken_for(span, true_here) == NOTHING:
                table.setdefault(NOTHING, Counter())[span.label] += 1
    return {kind: dict(sorted(table[kind].items())) for kind in sorted(table)}


def _taken_for(span: LabelledSpan, others: Sequence[LabelledSpan]) -> str:
    beside = [other for other in others if other.start < span.end and span.start < other.end]
    for other in beside:
        if (other.start, other.end) == (span.start, span.end):
            return other.label
    return BOUNDARY if any(other.label == span.label for other in beside) else NOTHING


def evaluate_klue(predict: Predict, sentences: Sequence[tuple[str, Sequence[LabelledSpan]]]) -> KlueScores:
    """KLUE's protocol: spaces are left out, and a span that is only spaces is none.

    Entities are strict IOB2 over the flattened data, as `seqeval` has it with `mode="strict", scheme=IOB2`; characters
    are compared tag by tag. KLUE's code strings all sentences together to one sequence; as a strict span begins with
    `B-`, and each sentence's spans do, none runs on over the end of a sentence, and counting by sentence is the same.

    Two things of that code are not about characters and are left out: the two O's that it adds to each sentence for
    the marks around it, and the limit on a sentence's length.
    """
    found = predict([text for text, _ in sentences])
    tags: dict[str, list[int]] = {tag: [0, 0, 0] for tag in KLUE.tags}
    pairs = []
    for (text, true_spans), found_spans in zip(sentences, found, strict=True):
        true_tags, found_tags = klue_tags(text, true_spans), klue_tags(text, found_spans)
        for true_tag, found_tag in zip(true_tags, found_tags, strict=True):
            tags[true_tag][0] += true_tag == found_tag
            tags[found_tag][1] += 1
            tags[true_tag][2] += 1
        pairs.append((strict_spans(found_tags), strict_spans(true_tags)))
    entities = score_spans((found for found, _ in pairs), (true for _, true in pairs))
    occurring = {tag: Score(*counts) for tag, counts in tags.items() if counts[1] + counts[2]}
    return KlueScores(entities, occurring)


def klue_tags(text: str, spans: Iterable[LabelledSpan]) -> list[str]:
    """An IOB2 tag for each character of `text` that isn't white space."""
    tags = ["O"] * len(text)
    for span in spans:
        inside = [i for i in range(span.start, span.end) if not text[i].isspace()]
        for i in inside:
            tags[i] = f"I-{span.label}"
        if inside:
            tags[inside[0]] = f"B-{span.label}"
    return [tag for tag, character in zip(tags, text, strict=True) if not character.isspace()]


def strict_spans(tags: Sequence[str]) -> list[LabelledSpan]:
    """The spans of strict IOB2: `B-`, then `I-` of the same type. Any other `I-` is nothing."""
    spans = []
    start, label = -1, ""
    for place, tag in enumerate([*tags, "O"]):
        if start >= 0 and tag != f"I-{label}":
            spans.append(LabelledSpan(start, place, label))
            start = -1
        if tag.startswith("B-"):
            start, label = place, tag[2:]
    return spans


def _folded(spans: Sequence[LabelledSpan], leave_out: Sequence[str], fold: Mapping[str, str]) -> list[LabelledSpan]:
    kept = (span for span in spans if span.label not in leave_out)
    return [LabelledSpan(span.start, span.end, fold.get(span.label, span.label)) for span in kept]
