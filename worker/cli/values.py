"""What options hold, read: times, places in topics, ranges of offsets. What cannot be read is a wrong call."""

import re
from collections.abc import Sequence
from datetime import datetime

from worker.cli.answers import WRONG_CALL, fail

_PLACE = re.compile(r"(\d{1,9})@(\d{1,18})")
_TOPIC_PLACE = re.compile(r"(.+)\[(\d{1,9})\]@(\d{1,18})")
_RANGE = re.compile(r"(\d{1,9})(?::(\d{1,18})?-(\d{1,18})?)?")


def times_of(since: str | None, until: str | None) -> tuple[datetime | None, datetime | None]:
    """Read the options `--since` and `--until`."""
    first, last = _time("--since", since), _time("--until", until)
    if first is not None and last is not None and first >= last:
        fail(f"--since {since} is not before --until {until}", WRONG_CALL)
    return first, last


def place_of(option: str, value: str) -> tuple[int, int]:
    """Read PARTITION@OFFSET."""
    found = _PLACE.fullmatch(value)
    if found is None:
        fail(f"{option} {value}: give PARTITION@OFFSET, as 0@118", WRONG_CALL)
    return int(found[1]), int(found[2])


def starts_of(option: str, values: Sequence[str]) -> dict[tuple[str, int], int]:
    """Read several TOPIC[PARTITION]@OFFSET."""
    starts = {}
    for value in values:
        found = _TOPIC_PLACE.fullmatch(value)
        if found is None:
            fail(f"{option} {value}: give TOPIC[PARTITION]@OFFSET, as reviews.raw[0]@118", WRONG_CALL)
        starts[found[1], int(found[2])] = int(found[3])
    return starts


def ranges_of(option: str, values: Sequence[str]) -> dict[int, tuple[int | None, int | None]]:
    """Read several PARTITION:FIRST-END, by partition; either offset may be left out, and both with the colon."""
    ranges: dict[int, tuple[int | None, int | None]] = {}
    for value in values:
        found = _RANGE.fullmatch(value)
        if found is None:
            fail(f"{option} {value}: give PARTITION:FIRST-END, as 0:100-200, 0:100- or 0", WRONG_CALL)
        first, end = (None if offset is None else int(offset) for offset in (found[2], found[3]))
        if first is not None and end is not None and first >= end:
            fail(f"{option} {value}: END is the offset after the last, so it is larger than FIRST", WRONG_CALL)
        if int(found[1]) in ranges:
            fail(f"{option} {value}: partition {found[1]} is given twice", WRONG_CALL)
        ranges[int(found[1])] = first, end
    return ranges


def _time(option: str, value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        fail(f"{option} {value}: give a time with its zone, as 2026-03-04T12:00:00Z", WRONG_CALL)
    return time
