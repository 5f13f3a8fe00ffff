"""What the audit keeps of a partition's raw records: digests and counts in flat arrays, never the records."""

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

NOTHING = 0  # stands for the digest of a null, of no headers, and of what is not JSON

_MOST = 65_535


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A raw record's digests, 64 bits each."""

    meaning: int
    value: int
    key: int
    headers: int
    timestamp: int  # itself, milliseconds


def digest(content: bytes | None) -> int:
    """64 bits of BLAKE2b: two different records are taken for the same once in 10^19 comparisons."""
    return NOTHING if content is None else int.from_bytes(blake2b(content, digest_size=8).digest(), "big") or 1


def digest_headers(headers: Sequence[tuple[str, bytes | None]]) -> int:
    """The digest of headers: names and values in order."""
    return digest(repr([(name, value) for name, value in headers]).encode()) if headers else NOTHING


class RawPartition:
    """The raw records of one partition, by offset: 60 bytes a record."""

    __slots__ = (
        "_first_output_offset",
        "_first_output_place",
        "_headers",
        "_keys",
        "_meanings",
        "_offsets",
        "_outputs",
        "_timestamps",
        "_values",
    )

    def __init__(self) -> None:
        self._offsets = array("q")
        self._meanings = array("Q")
        self._values = array("Q")
        self._keys = array("Q")
        self._headers = array("Q")
        self._timestamps = array("q")
        self._outputs = array("H")
        self._first_output_place = array("H")
        self._first_output_offset = array("q")

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, offset: int, record: Fingerprint) -> int:
        """Take up the record at `offset`, which must lie after those before it; returns its index."""
        if self._offsets and offset <= self._offsets[-1]:
            raise ValueError(f"offset {offset} is read after {self._offsets[-1]}. This is a bug.")
        self._offsets.append(offset)
        self._meanings.append(record.meaning)
        self._values.append(record.value)
        self._keys.append(record.key)
        self._headers.append(record.headers)
        self._timestamps.append(record.timestamp)
        self._outputs.append(0)
        self._first_output_place.append(0)
        self._first_output_offset.append(0)
        return len(self._offsets) - 1

    def find(self, offset: int) -> int | None:
        """The index of the record at `offset`, or None where there is none."""
        index = bisect_left(self._offsets, offset)
        return index if index < len(self._offsets) and self._offsets[index] == offset else None

    def offset(self, index: int) -> int:
        """The offset of the record at `index`."""
        return self._offsets[index]

    def fingerprint(self, index: int) -> Fingerprint:
        """The digests of the record at `index`."""
        return Fingerprint(
            self._meanings[index],
            self._values[index],
            self._keys[index],
            self._headers[index],
            self._timestamps[index],
        )

    def outputs(self, index: int) -> int:
        """How many outputs the record at `index` was found to have."""
        return self._outputs[index]

    def note_output(self, index: int, place: int, offset: int) -> None:
        """Count an output, which lies at `offset` of the output partition numbered `place`."""
        if not self._outputs[index]:
            self._first_output_place[index] = place
            self._first_output_offset[index] = offset
        self._outputs[index] = min(self._outputs[index] + 1, _MOST)

    def without_output(self) -> list[int]:
        """The indices of the records that have no output, ascending."""
        return [int(index) for index in np.flatnonzero(np.frombuffer(self._outputs, np.uint16) == 0)]

    def late(self, unplaced: set[int]) -> list[tuple[int, int, int]]:
        """Records whose first output comes after that of a later record with the same key, in one output partition.

        `unplaced` are indices of records of which the output's place is not known. Returns index, place and output
        offset of each.
        """
        placed = np.frombuffer(self._outputs, np.uint16) > 0
        if unplaced:
            placed[list(unplaced)] = False
        indices: NDArray[np.int64] = np.flatnonzero(placed).astype(np.int64)
        if not len(indices):
            return []
        keys = np.frombuffer(self._keys, np.uint64)[indices]
        places = np.frombuffer(self._first_output_place, np.uint16)[indices]
        offsets = np.frombuffer(self._first_output_offset, np.int64)[indices]
        order = np.lexsort((offsets, places, keys))
        indices, keys, places, offsets = indices[order], keys[order], places[order], offsets[order]
        starts_group = np.ones(len(indices), bool)
        starts_group[1:] = (keys[1:] != keys[:-1]) | (places[1:] != places[:-1])
        # With each group raised above those before it, one running maximum serves all of them.
        raised = indices + (np.cumsum(starts_group) - 1) * len(self._offsets)
        late = np.flatnonzero(raised < np.maximum.accumulate(raised))
        return [(int(indices[at]), int(places[at]), int(offsets[at])) for at in late]
