"""Records of a small made-up stream, and what a faultless worker makes of them, for tests of the checker."""

from dataclasses import dataclass, replace
from typing import Any

import orjson

from worker.audit.ledger import Bounds, Ledger

SOURCE, OUTPUT, DEAD = "reviews.raw", "enriched", "enriched.dead-letters"


@dataclass(frozen=True, slots=True)
class Rec:
    topic: str
    partition: int
    offset: int
    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp: int = 1_000


def raw(offset: int, value: bytes | None = None, **changes: Any) -> Rec:
    if value is None:
        value = orjson.dumps({"review_id": str(offset), "text": "이병헌 최고"})
    return replace(Rec(SOURCE, 0, offset, value), **changes)


def tombstone(offset: int, **changes: Any) -> Rec:
    return replace(Rec(SOURCE, 0, offset, None), **changes)


def enriched(record: Rec, offset: int, *, members: dict[str, Any] | None = None, **changes: Any) -> Rec:
    """What a worker publishes for `record`; `members` replace those of the value."""
    added = {
        "entities": [
            {"field": "text", "start": 0, "end": 3, "text": "이병헌", "type": "PER", "label": "PER", "score": 1}
        ],
        "enrichment": {"source": {"topic": record.topic, "partition": record.partition, "offset": record.offset}},
    }
    value = None
    if record.value is not None:
        value = orjson.dumps({**orjson.loads(record.value), **added, **(members or {})})
    return replace(Rec(OUTPUT, 0, offset, value, record.key, record.headers, record.timestamp), **changes)


def dead(record: Rec, offset: int, **changes: Any) -> Rec:
    ours = (
        ("koner-reason", b"schema"),
        ("koner-detail", b"/text: missing"),
        ("koner-topic", record.topic.encode()),
        ("koner-partition", b"%d" % record.partition),
        ("koner-offset", b"%d" % record.offset),
        ("koner-failed-at", b"2026-03-04T12:00:01.204Z"),
    )
    return replace(Rec(DEAD, 0, offset, record.value, record.key, record.headers + ours, record.timestamp), **changes)


def check(
    raws: list[Rec],
    outputs: list[Rec],
    *,
    first: int = 0,
    due: int | None = None,
    allow_doubles: bool = False,
    trimmed=None,
):
    """The report of a ledger that got these."""
    ledger = Ledger({SOURCE: OUTPUT}, DEAD)
    for partition in {0} | {record.partition for record in raws}:
        end = max((record.offset for record in raws if record.partition == partition), default=-1) + 1
        end = max(end, first)
        ledger.open(SOURCE, partition, Bounds(first, first, end, end if due is None else due))
    for record in raws:
        ledger.add_raw(record)
    for record in outputs:
        ledger.add_output(record)
    return ledger.report(allow_doubles=allow_doubles, trimmed=trimmed)


def faults(report) -> dict[str, int]:
    """The faults that were found, by name."""
    found: dict[str, int] = {}
    for partition in report.partitions:
        for name, finding in partition.faults.items():
            if finding.count:
                found[name] = found.get(name, 0) + finding.count
    if report.unreadable.count:
        found["unreadable"] = report.unreadable.count
    return found
