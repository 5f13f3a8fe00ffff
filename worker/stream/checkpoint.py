"""What of a partition is done: which outputs may leave, in order, and which offset may be committed.

Knows offsets and nothing of Kafka clients. One checkpoint serves one assignment of one partition; a new assignment gets
a new one, so that what an old one still finishes can never be committed.
"""

from collections import deque
from typing import Generic, TypeVar

Output = TypeVar("Output")


class Checkpoint(Generic[Output]):
    """The progress of one partition.

    1. `begin` an offset when its record is fetched, in ascending order (gaps are fine: compaction, transactions).
    2. `finish` it with its output, in any order; the outputs that may now leave come back, in offset order.
    3. `acknowledge` it when the broker has its output, in any order.

    `position` is then the offset to commit: every record before it is acknowledged, none after it is skipped.
    """

    __slots__ = ("_acknowledged", "_finished", "_last", "_released", "_waiting", "committed", "position")

    def __init__(self) -> None:
        self._waiting: deque[int] = deque()  # begun, their outputs not yet released
        self._finished: dict[int, Output] = {}  # outputs that an earlier record holds back
        self._released: deque[int] = deque()  # released, in order, up to the first not acknowledged
        self._acknowledged: set[int] = set()
        self._last = -1
        self.position: int | None = None
        self.committed: int | None = None

    @property
    def unfinished(self) -> int:
        """How many records were begun and lie at or after the first that is not acknowledged."""
        return len(self._waiting) + len(self._released)

    @property
    def reached(self) -> int | None:
        """The first offset not acknowledged, as far as it is known."""
        if self._released:
            return self._released[0]
        return self._waiting[0] if self._waiting else self.position

    @property
    def to_commit(self) -> int | None:
        """The offset to commit now, or None where the committed one still stands."""
        return self.position if self.position != self.committed else None

    def begin(self, offset: int) -> None:
        """Take up the record at `offset`, which must lie after every one begun before."""
        if offset <= self._last:
            raise ValueError(f"offset {offset} begins after {self._last}. This is a bug.")
        self._last = offset
        self._waiting.append(offset)

    def finish(self, offset: int, output: Output) -> list[Output]:
        """Hand in the output of `offset`; returns every output that may leave now, in offset order."""
        waiting, finished = self._waiting, self._finished
        finished[offset] = output
        leaving = []
        while waiting and waiting[0] in finished:
            first = waiting.popleft()
            self._released.append(first)
            leaving.append(finished.pop(first))
        return leaving

    def acknowledge(self, offset: int) -> None:
        """Note that the broker has the output of `offset`."""
        released, acknowledged = self._released, self._acknowledged
        acknowledged.add(offset)
        while released and released[0] in acknowledged:
            first = released.popleft()
            acknowledged.remove(first)
            self.position = first + 1

    def pass_over(self, position: int) -> None:
        """Move past offsets that hold no record (a transaction's markers), once nothing is unfinished before them."""
        if not self.unfinished and (self.position or 0) < position:
            self.position = position
            self._last = max(self._last, position - 1)
