"""A dead letter is read from its headers, and a selection holds what was asked for."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import orjson
import pytest

from worker.records import Origin
from worker.recovery.letters import DeadLetter, Selection, read_dead_letter

OURS = [
    ("koner-reason", b"schema"),
    ("koner-detail", b"/text: missing, but required"),
    ("koner-topic", b"reviews.raw"),
    ("koner-partition", b"3"),
    ("koner-offset", b"1182"),
    ("koner-failed-at", b"2026-03-04T12:00:01.204Z"),
]


@dataclass
class Rec:
    headers: list
    value: bytes | None = "비밀".encode()
    key: bytes | None = b"\xff"
    topic: str = "dead"
    partition: int = 1
    offset: int = 5
    timestamp: int = 77


def letter(**changes) -> DeadLetter:
    return replace(read_dead_letter(Rec(OURS)), **changes)


def test_a_letter_says_where_it_came_from_and_keeps_the_raw_records_headers():
    trace = [("trace", b"1"), ("trace", None), ("koner-tenant", b"acme")]
    found = read_dead_letter(Rec([*trace, *OURS]))
    assert (found.source, found.place) == (Origin("reviews.raw", 3, 1182), Origin("dead", 1, 5))
    assert (found.reason, found.detail, found.replays) == ("schema", "/text: missing, but required", 0)
    assert found.failed_at == datetime(2026, 3, 4, 12, 0, 1, 204_000, UTC)
    assert list(found.headers) == trace


def test_of_a_letter_that_failed_before_the_last_headers_count():
    former = [(name, b"9" if name == "koner-offset" else value) for name, value in OURS]
    found = read_dead_letter(Rec([*former, ("koner-replayed", b"2"), *OURS]))
    assert (found.source.offset, found.replays) == (1182, 2)
    assert list(found.headers) == former  # whoever wrote the raw record gave it these


@pytest.mark.parametrize("left_out", ["koner-reason", "koner-topic", "koner-partition", "koner-offset"])
def test_what_lacks_its_headers_is_no_dead_letter(left_out):
    assert read_dead_letter(Rec([header for header in OURS if header[0] != left_out])) is None


@pytest.mark.parametrize(
    ("name", "value"), [("koner-partition", b"x"), ("koner-offset", b""), ("koner-topic", b"\xff")]
)
def test_coordinates_that_cannot_be_read_make_no_dead_letter(name, value):
    assert read_dead_letter(Rec([*OURS, (name, value)])) is None


def test_words_are_told_only_when_asked_for():
    assert "비밀" not in orjson.dumps(letter().as_json()).decode()
    shown = letter(headers=[("h", None)]).as_json(words=True)
    assert shown["value"] == "비밀"
    assert shown["key"] == {"base64": "/w=="}
    assert shown["headers"] == [["h", None]]
    orjson.dumps(shown)


AT = datetime(2026, 3, 4, 12, 0, 1, 204_000, UTC)


@pytest.mark.parametrize(
    ("selection", "held"),
    [
        (Selection(), True),
        (Selection(reasons=frozenset({"schema", "not_json"})), True),
        (Selection(reasons=frozenset({"not_json"})), False),
        (Selection(sources=frozenset({"reviews.raw"})), True),
        (Selection(sources=frozenset({"queries.raw"})), False),
        (Selection(since=AT), True),
        (Selection(until=AT), False),
        (Selection(since=AT.replace(minute=1)), False),
        (Selection(until=AT.replace(minute=1)), True),
        (Selection(places=frozenset({(1, 5), (0, 0)})), True),
        (Selection(places=frozenset({(5, 1)})), False),
        (Selection(reasons=frozenset({"schema"}), sources=frozenset({"queries.raw"})), False),
    ],
)
def test_a_selection_holds_what_meets_all_of_it(selection, held):
    assert selection.holds(letter()) is held


def test_a_letter_without_a_time_is_meant_only_where_no_time_is_asked_for():
    timeless = letter(failed_at=None)
    assert Selection().holds(timeless)
    assert not Selection(since=AT).holds(timeless)
