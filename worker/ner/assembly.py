"""The last step of every engine: spans of a text's windows to entities of the text as it was received."""

from collections.abc import Sequence
from dataclasses import dataclass

from worker.ner.engine import Encoded
from worker.ner.taxonomy import Taxonomy
from worker.records import Entity, Span
from worker.text.normalise import Normalised
from worker.text.windows import Range, join_spans

FIELD = "text"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a text's windows lie: what `Encoded.payload` is."""

    normalised: Normalised
    windows: tuple[Range, ...]  # characters of the normalised text


def assemble(encoded: Encoded, spans: Sequence[Sequence[Span]], taxonomy: Taxonomy) -> list[Entity]:
    """Join, map back and fold; entities are sorted by start and never overlap, in the text as received.

    Spans with a score below the taxonomy's least are left out.
    Two spans can share a received character that was folded into several (㈜ is three): the likelier one stays.
    Scores are rounded to four decimals.
    """
    layout = encoded.payload
    if not isinstance(layout, Layout) or len(spans) != len(layout.windows):
        raise ValueError("spans must be those of the text's own windows. This is a bug.")
    if not spans:
        return []
    length = len(layout.normalised.text)
    joined = spans[0] if layout.windows == ((0, length),) else join_spans(spans, layout.windows, length)
    entities: list[Entity] = []
    for span in joined:
        kind = taxonomy.fold.get(span.label)
        if kind is None or span.score < taxonomy.least_score:
            continue
        start, end = layout.normalised.span(span.start, span.end)
        score = round(span.score, 4)
        if entities and start < entities[-1].end:
            if score <= entities[-1].score:
                continue
            entities.pop()
        entities.append(Entity(FIELD, start, end, encoded.text[start:end], kind, span.label, score))
    return entities
