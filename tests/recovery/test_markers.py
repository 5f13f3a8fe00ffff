"""Markers say which offsets were replayed, and nothing that is no marker says anything."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.audit.coordinates import is_marker
from worker.recovery.markers import MARKER_HEADERS, Offsets, marker, read_marker


@dataclass
class Rec:
    value: bytes | None
    headers: list = field(default_factory=lambda: list(MARKER_HEADERS))
    offset: int = 1_000


@given(ranges=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6)), max_size=15))
def test_offsets_hold_what_a_set_holds(ranges):
    offsets, expected = Offsets(), set()
    for first, more in ranges:
        offsets.add(first, first + more)
        expected |= set(range(first, first + more + 1))
    assert {offset for offset in range(60) if offset in offsets} == expected
    assert all(one[1] + 1 < other[0] for one, other in zip(offsets.ranges, offsets.ranges[1:], strict=False))


@given(st.sets(st.integers(0, 99)))
def test_a_marker_says_what_was_put_into_it(offsets):
    read = Offsets()
    read_marker(Rec(marker(offsets)), read)
    assert {offset for offset in range(100) if offset in read} == offsets


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"offsets": 7}',
        b'{"offsets": [[3]]}',
        b'{"offsets": [["1", "2"]]}',
        b'{"offsets": [[5, 4]]}',
        b'{"offsets": [[0, 1000]]}',  # it lies behind what it speaks of
    ],
)
def test_a_marker_that_cannot_be_read_speaks_of_nothing(value):
    read = Offsets()
    read_marker(Rec(value), read)
    assert read.ranges == []


def test_a_dead_letter_whose_raw_record_had_a_marker_header_is_no_marker():
    assert is_marker(MARKER_HEADERS)
    assert not is_marker([*MARKER_HEADERS, ("koner-reason", b"schema")])
    assert not is_marker([])
