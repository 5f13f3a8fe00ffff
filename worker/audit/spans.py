"""Whether an enriched record's entities say of its text what stands there."""

from typing import Any

from worker.audit.meaning import Meaning


def are_exact(record: Meaning) -> bool:
    """Whether `entities` holds spans that are in bounds, sorted, apart, scored in [0, 1], and quote their text.

    Offsets are half-open and in code points: `record[field][start:end] == entity["text"]`.
    """
    entities = record.member("entities")
    if not isinstance(entities, list):
        return False
    texts: dict[str, Any] = {}
    ends: dict[str, int] = {}
    for entity in entities:
        if not isinstance(entity, dict):
            return False
        field, start, end = entity.get("field"), entity.get("start"), entity.get("end")
        if not isinstance(field, str) or type(start) is not int or type(end) is not int:
            return False
        if field not in texts:
            texts[field] = record.member(field)
        text = texts[field]
        if not isinstance(text, str) or not ends.get(field, 0) <= start < end <= len(text):
            return False
        if entity.get("text") != text[start:end] or not _is_probability(entity.get("score")):
            return False
        ends[field] = end
    return True


def _is_probability(score: Any) -> bool:
    return type(score) in (int, float) and 0 <= score <= 1
