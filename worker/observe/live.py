"""The last few enriched records, as the live page shows them.

A record is kept as the bytes that were published and only read when somebody looks, so that adding one costs nothing.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

SHOWN_CHARS = 280  # code points of a text that the page shows


class Recent:
    """The newest `size` enriched records, newest last; 0 keeps none."""

    def __init__(self, size: int = 20) -> None:
        self._records: deque[tuple[int, bytes]] = deque(maxlen=size)
        self._added = 0

    def add(self, value: bytes) -> None:
        """Remember an enriched record's JSON; constant time, the record is not read."""
        self._added += 1
        self._records.append((self._added, value))

    def views(self) -> list[dict[str, Any]]:
        """What the page shows of each record, newest first: see `view`; `number` tells records apart."""
        views = []
        for number, value in reversed(self._records):
            shown = view(value)
            if shown is not None:
                views.append({"number": number, **shown})
        return views


def view(value: bytes) -> dict[str, Any] | None:
    """An enriched record cut into the pieces a page shows one after another, or None if it is not one.

    `segments` holds `{"text": …}` for plain text and `{"text": …, "type": …, "score": …}` for an entity; joined, they
    are the record's text, or its first `SHOWN_CHARS` code points with `truncated` set. Cutting happens here because
    offsets count code points, and a browser's strings count UTF-16 units.
    """
    try:
        record = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        return None
    text: str = record["text"]
    enrichment = record.get("enrichment") or {}
    entities = [entity for entity in record.get("entities") or [] if entity.get("field") == "text"]
    return {
        "kind": enrichment.get("kind"),
        "source": enrichment.get("source"),
        "enriched_at": enrichment.get("enriched_at"),
        "segments": list(_segments(text, entities)),
        "truncated": len(text) > SHOWN_CHARS,
    }


def _segments(text: str, entities: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    limit = min(len(text), SHOWN_CHARS)
    position = 0
    for entity in sorted(entities, key=lambda entity: int(entity["start"])):
        start, end = int(entity["start"]), min(int(entity["end"]), limit)
        if not position <= start < end:
            continue
        if start > position:
            yield {"text": text[position:start]}
        yield {"text": text[start:end], "type": entity["type"], "score": entity["score"]}
        position = end
    if position < limit:
        yield {"text": text[position:limit]}
