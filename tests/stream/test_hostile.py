"""Records made to do harm, among ordinary ones, on their way through the whole pipeline."""

import os
import re
import time

import psutil
import pytest
from brokers import Produced, Record
from hostile_records import HOSTILE, PASSES
from kafka_broker import KafkaBroker
from running import Stream, review, running

SECONDS = 60.0
MEMORY_BYTES = 512 * 1024 * 1024  # that the process may grow by

STRANGE = {
    "a key of 900,000 bytes": Produced(review(1), key=os.urandom(900_000)),
    "an empty key": Produced(review(2), key=b""),
    "a key that is no text": Produced(review(3), key=b"\xff\xfe\x00\n"),
    "10,000 headers": Produced(review(4), headers=tuple((f"h{n}", b"x") for n in range(10_000))),
    "headers of one name, and none": Produced(review(5), headers=(("", b""), ("h", b"1"), ("h", b"2"), ("h", b""))),
    "a header of 500,000 bytes": Produced(review(6), headers=(("h" * 30_000, os.urandom(500_000)),)),
    "headers that the worker writes": Produced(
        b"{", headers=(("koner-reason", b"too_long"), ("koner-offset", b"\xff"), ("koner-topic", b"\n"))
    ),
    "a time before all others": Produced(review(7), timestamp_ms=0),
    "a time that is not yet": Produced(review(8), timestamp_ms=int((time.time() + 3000) * 1000)),
    "no value": Produced(None, key=b"gone"),
    "an empty value": Produced(b""),
}


def last_reason(record: Record) -> str:
    return [value for name, value in record.headers if name == "koner-reason"][-1].decode()


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
async def test_hostile_records_hold_nobody_up(kafka: KafkaBroker, delivery: str) -> None:
    stream = Stream(kafka.bootstrap_servers, options={"delivery": delivery})
    await stream.create(partitions=1)
    produced: list[Produced] = []
    for number, value in enumerate([hostile.value for hostile in HOSTILE.values()]):
        produced += [Produced(value), Produced(review(number))]
    produced += STRANGE.values()
    records = await stream.produce_reviews(produced)
    refused = {
        at.offset: hostile.outcome
        for at, hostile in zip(records[: 2 * len(HOSTILE) : 2], HOSTILE.values(), strict=True)
        if hostile.outcome != PASSES
    }
    refused |= {at.offset: "not_json" for at in records if at.value in (b"{", b"")}
    process = psutil.Process()
    before, started = process.memory_info().rss, time.monotonic()
    async with running(stream.settings()) as worker:
        dead_letters = await stream.read_dead_letters(len(refused))
        enriched = await stream.read_enriched(len(records) - len(refused))
        assert time.monotonic() - started < SECONDS
        assert process.memory_info().rss - before < MEMORY_BYTES
        await worker.until(lambda: worker.value("koner_in_flight_records") == 0)
    check(records, refused, enriched, dead_letters)


def check(records: list[Record], refused: dict[int, str], enriched: list[Record], dead_letters: list[Record]) -> None:
    """Every raw record is in one place, untouched, for the true reason, in order."""
    by_offset = {at.offset: at for at in records}
    assert sorted(last_reason(letter) for letter in dead_letters) == sorted(refused.values())
    assert sorted(letter.value or b"" for letter in dead_letters) == sorted(
        by_offset[at].value or b"" for at in refused
    )
    assert [record.key for record in enriched if record.value is None] == [b"gone"]
    passed = {offset_of(record): record for record in enriched if record.value is not None}
    assert list(passed) == sorted(passed)
    assert {offset: (record.key, record.headers) for offset, record in passed.items()} == {
        at.offset: (at.key, at.headers) for at in records if at.offset not in refused and at.value is not None
    }


def offset_of(record: Record) -> int:
    """The offset of the raw record; Python's own parser would not take all of these."""
    assert record.value is not None
    found = re.search(rb'"source":{"topic":"[^"]+","partition":0,"offset":(\d+)}', record.value.rstrip()[-300:])
    assert found is not None
    return int(found[1])
