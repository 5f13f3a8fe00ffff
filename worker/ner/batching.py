"""Which windows run together: alike in length, within a budget of tokens that counts padding.

A batch is as wide as its longest window, so it costs `longest * count` tokens. Filling it with windows of other lengths
runs padding; past a point two smaller batches are cheaper than one, so padding may be at most a quarter of a batch.
"""

from collections.abc import Sequence
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray

SMALLEST_BUDGET: Final = 16
_GROWTH_STEPS: Final = 256  # clean passes from nothing back to the limit
_MOST_PADDING: Final = 0.25  # share of a batch's tokens


def default_tokens(device: str) -> int:
    """A batch's tokens where none are set: few on a CPU, which gains nothing by more, many on `cuda` or `cuda:0`."""
    return 16384 if device.startswith("cuda") else 512


def pick(tokens: Sequence[int], budget: int) -> list[int]:
    """Indices of the next batch out of waiting windows, whose lengths `tokens` holds in order of arrival.

    The batch always holds index 0, so that nothing waits for ever; the windows nearest to it in length join while
    `longest * count` stays within `budget`, of equal ones the earliest. A window over the budget goes alone. Indices
    come in order of arrival; none for no windows.
    """
    if not tokens:
        return []
    first = tokens[0]
    lengths = np.asarray(tokens)
    most = max(budget // first, 1)  # no batch with index 0 holds more
    longer = _by_length(lengths, np.flatnonzero(lengths >= first)[1:], most)
    shorter = _by_length(-lengths, np.flatnonzero(lengths < first), most)
    chosen, longest, real = [0], first, first
    up = down = 0
    while up < len(longer) or down < len(shorter):
        count = len(chosen)
        above = tokens[longer[up]] if up < len(longer) else None
        below = tokens[shorter[down]] if down < len(shorter) else None
        options = []  # (padding it would add, longest afterwards, its own length)
        if above is not None and _fits(above, count + 1, real + above, budget):
            options.append(((above - longest) * count, above, above))
        if below is not None and _fits(longest, count + 1, real + below, budget):
            options.append((longest - below, longest, below))
        if not options:
            break
        _, wide, own = min(options)
        if own >= first:
            chosen.append(longer[up])
            up += 1
        else:
            chosen.append(shorter[down])
            down += 1
        longest, real = wide, real + own
    return sorted(chosen)


def cut(tokens: Sequence[int], budget: int) -> list[list[int]]:
    """Share out all windows into batches, the longest first; every index is in exactly one batch."""
    batches: list[list[int]] = []
    longest = real = 0
    for index in sorted(range(len(tokens)), key=tokens.__getitem__, reverse=True):
        own = tokens[index]
        if batches and _fits(longest, len(batches[-1]) + 1, real + own, budget):
            batches[-1].append(index)
            real += own
        else:
            batches.append([index])
            longest = real = own
    return batches


class TokenBudget:
    """How many tokens a batch may hold now: the limit, less after the device ran out of memory. Safe across threads."""

    def __init__(self, limit: int) -> None:
        """`limit` is in tokens, padding counted; at least 16."""
        self.limit = max(limit, SMALLEST_BUDGET)
        self._tokens = self.limit
        self._lock = Lock()

    @property
    def tokens(self) -> int:
        """Tokens a batch may hold, padding counted."""
        return self._tokens

    def shrink(self) -> None:
        """Halve the budget, down to 16 tokens."""
        with self._lock:
            self._tokens = max(self._tokens // 2, SMALLEST_BUDGET)

    def grow(self) -> None:
        """Take back a 256th of the limit: to be called after a pass that went well."""
        if self._tokens == self.limit:
            return
        with self._lock:
            self._tokens = min(self._tokens + max(self.limit // _GROWTH_STEPS, 1), self.limit)


def _by_length(lengths: NDArray[np.int64], indices: NDArray[np.int64], most: int) -> list[int]:
    """The `most` first of `indices` by length; of equal ones the earliest first."""
    order: list[int] = indices[np.argsort(lengths[indices], kind="stable")[:most]].tolist()
    return order


def _fits(longest: int, count: int, real: int, budget: int) -> bool:
    area = longest * count
    return area <= budget and area - real <= area * _MOST_PADDING
