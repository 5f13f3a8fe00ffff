"""Records made to do harm: what becomes of them, how long it takes, and how much memory."""

import json
import time
import tracemalloc

import pytest
from hostile_records import HOSTILE, PASSES, deep_recursion, read_or_refuse

from worker.contracts import Contracts, Refused
from worker.records import Enrichment, Entity, Origin

CONTRACTS = Contracts()
LIMIT = 20_000
SECONDS = 2.0  # for one record; the slowest takes a twentieth of this
MEMORY_BYTES = 64 * 1024 * 1024  # beside the record itself

ENTITIES = [Entity("text", 0, 1, "a", "PER", "PER", 0.9)]
ENRICHMENT = Enrichment("review", "fake", "0", "seed")
ORIGIN = Origin("reviews.raw", 0, 0)


def outcome(value: bytes) -> tuple[str, bytes | None]:
    """What becomes of a record: `passes` and what it is published as, or the reason of its refusal."""
    read = read_or_refuse(CONTRACTS, "review", value, LIMIT)
    if isinstance(read, Refused):
        return read.reason, None
    return PASSES, CONTRACTS.encode(read, ENTITIES, ENRICHMENT, ORIGIN, "2026-03-04T12:00:00Z")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_record_passes_or_is_refused_in_time(name: str) -> None:
    hostile = HOSTILE[name]
    started = time.perf_counter()
    became, published = outcome(hostile.value)
    taken = time.perf_counter() - started
    assert became == hostile.outcome
    assert taken < SECONDS
    if published is not None:
        with deep_recursion():
            record = json.loads(published, parse_int=str, parse_float=str)
        assert [entity["text"] for entity in record["entities"]] == ["a"]
        assert record["enrichment"]["kind"] == "review"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_record_takes_a_bounded_amount_of_memory(name: str) -> None:
    value = HOSTILE[name].value
    tracemalloc.start()
    try:
        outcome(value)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_BYTES
