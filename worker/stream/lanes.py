"""Where encoded windows wait for the engine: short texts overtake bulk ones, and neither starves.

A batch is formed at the moment an engine thread asks for one, so that a query which arrives while a batch runs is in
the very next one. Safe across threads: the encoding thread puts, the forward threads take, the loop discards.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from threading import Condition
from time import monotonic
from typing import NamedTuple

from worker.ner.batching import pick
from worker.ner.engine import Window
from worker.stream.work import Partition, Work

SHORT, BULK = "short", "bulk"
LANES = (SHORT, BULK)
LOOK_AHEAD = 1024  # windows a batch is picked from


class Waiting(NamedTuple):
    """A window that waits, and the work it belongs to."""

    work: Work
    number: int  # of the window in the work's text
    window: Window
    since: float  # monotonic seconds


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows of one lane that run together."""

    lane: str
    waiting: Sequence[Waiting]

    @property
    def tokens(self) -> int:
        """Tokens of all windows, padding aside."""
        return sum(entry.window.tokens for entry in self.waiting)

    @property
    def padding(self) -> int:
        """Tokens the device runs for nothing."""
        return max(entry.window.tokens for entry in self.waiting) * len(self.waiting) - self.tokens


class Lanes:
    """Two queues of windows, bounded in tokens.

    While both lanes hold windows, `bulk` gets `bulk_share` of the tokens and `short` the rest; a lane that is alone
    gets everything.
    """

    def __init__(self, *, bulk_share: float, most_tokens: int) -> None:
        """`most_tokens` bounds each lane: `put` waits while a lane holds that many."""
        self._bulk_share = bulk_share
        self._most_tokens = most_tokens
        self._queues: dict[str, deque[Waiting]] = {lane: deque() for lane in LANES}
        self._tokens = dict.fromkeys(LANES, 0)
        self._served = dict.fromkeys(LANES, 0)  # tokens taken since both lanes last held windows
        self._changed = Condition()
        self._closed = False

    def depth(self, lane: str) -> int:
        """How many windows wait in `lane`."""
        return len(self._queues[lane])

    def has_room(self, lane: str) -> bool:
        """Whether `lane` holds fewer tokens than its bound."""
        return self._tokens[lane] < self._most_tokens

    def put(self, lane: str, works: Sequence[Work]) -> None:
        """Queue every window of `works`."""
        now = monotonic()
        entries = [
            Waiting(work, number, window, now)
            for work in works
            if work.encoded is not None
            for number, window in enumerate(work.encoded.windows)
        ]
        with self._changed:
            self._queues[lane].extend(entries)
            self._tokens[lane] += sum(entry.window.tokens for entry in entries)
            self._changed.notify_all()

    def take(self, budget: int) -> Batch | None:
        """Wait for windows and take the next batch of at most `budget` tokens, padding counted; None once closed."""
        with self._changed:
            while not any(self._queues.values()):
                if self._closed:
                    return None
                self._changed.wait()
            lane = self._next_lane()
            queue = self._queues[lane]
            look_ahead = list(islice(queue, LOOK_AHEAD))
            chosen = pick([entry.window.tokens for entry in look_ahead], budget)
            batch = Batch(lane, [look_ahead[index] for index in chosen])
            taken = set(chosen)
            for _ in look_ahead:
                queue.popleft()
            queue.extendleft(reversed([entry for index, entry in enumerate(look_ahead) if index not in taken]))
            self._tokens[lane] -= batch.tokens
            self._served[lane] += batch.tokens
            self._changed.notify_all()
            return batch

    def wait_for_room(self, lane: str) -> bool:
        """Wait until `lane` has room; False once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self.has_room(lane))
            return not self._closed

    def discard(self, partition: Partition) -> None:
        """Drop what waits for `partition`."""
        with self._changed:
            for lane, queue in self._queues.items():
                kept = [entry for entry in queue if entry.work.partition is not partition]
                queue.clear()
                queue.extend(kept)
                self._tokens[lane] = sum(entry.window.tokens for entry in kept)
            self._changed.notify_all()

    def close(self) -> None:
        """Wake every thread that waits; what is left in the lanes is forgotten."""
        with self._changed:
            self._closed = True
            for queue in self._queues.values():
                queue.clear()
            self._changed.notify_all()

    def _next_lane(self) -> str:
        if not (self._queues[SHORT] and self._queues[BULK]):
            self._served = dict.fromkeys(LANES, 0)
            return SHORT if self._queues[SHORT] else BULK
        both = self._served[SHORT] + self._served[BULK]
        return BULK if self._served[BULK] < self._bulk_share * both else SHORT
