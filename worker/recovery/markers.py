"""Which dead letters were replayed already: told by marker records in the dead-letter topic itself.

A marker lies behind the letters it speaks of, in the same partition, so it is kept as long as they are, needs no topic
and no rights of its own, and can share a transaction with what was replayed. It has the header `koner-marker: replayed`
and no `koner-reason`; its value is a JSON object: `{"offsets": [[first, last], …], "replayed_at": RFC 3339}`.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from worker.audit.coordinates import MARKER_HEADER
from worker.records import Origin
from worker.stream.outputs import rfc3339_now

MARKER_HEADERS = [(MARKER_HEADER, b"replayed")]


class Offsets:
    """A set of offsets, kept as ranges."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, offsets: Iterable[int] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for offset in offsets:
            self.add(offset, offset)

    def __contains__(self, offset: int) -> bool:
        at = bisect_right(self._firsts, offset) - 1
        return at >= 0 and offset <= self._lasts[at]

    def add(self, first: int, last: int) -> None:
        """Add every offset from `first` to `last`."""
        begin = bisect_right(self._lasts, first - 2)  # the first range that overlaps or touches
        end = bisect_right(self._firsts, last + 1)
        if begin < end:
            first, last = min(first, self._firsts[begin]), max(last, self._lasts[end - 1])
        self._firsts[begin:end] = [first]
        self._lasts[begin:end] = [last]

    @property
    def ranges(self) -> Sequence[tuple[int, int]]:
        """First and last of each range, ascending, apart from each other."""
        return list(zip(self._firsts, self._lasts, strict=True))


class Origins:
    """A set of records' coordinates."""

    def __init__(self) -> None:
        self._offsets: defaultdict[tuple[str, int], Offsets] = defaultdict(Offsets)

    def __contains__(self, origin: Origin) -> bool:
        return origin.offset in self._offsets.get((origin.topic, origin.partition), ())

    def add(self, origin: Origin) -> None:
        """Add a record."""
        self._offsets[origin.topic, origin.partition].add(origin.offset, origin.offset)


def marker(offsets: Iterable[int]) -> bytes:
    """The value of a marker for letters at these offsets of its partition."""
    return orjson.dumps({"offsets": Offsets(offsets).ranges, "replayed_at": rfc3339_now()})


def read_marker(record: Any, into: Offsets) -> None:
    """Add the offsets that a marker speaks of; a marker that cannot be read speaks of none."""
    try:
        for first, last in orjson.loads(record.value or b"")["offsets"]:
            if type(first) is int and type(last) is int and first <= last < record.offset:
                into.add(first, last)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return
