"""The figures of the demo's summary, counted as results arrive."""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from math import ceil

from worker.demo.results import Result
from worker.records import Origin


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` of them do not exceed (nearest rank); NaN for none."""
    if not values:
        return float("nan")
    return sorted(values)[max(ceil(share * len(values)), 1) - 1]


class Tally:
    """Counts each raw record once, however often its result comes: delivery is at least once."""

    def __init__(self) -> None:
        self.records: Counter[str] = Counter()  # enriched, by kind
        self.entities: Counter[str] = Counter()  # by type
        self.dead_letters: Counter[str] = Counter()  # by reason
        self.repeated = 0
        self.seconds: dict[str, array[float]] = {}  # latency, by kind
        self._seen: dict[tuple[str, int], set[int]] = {}

    @property
    def done(self) -> int:
        """Raw records that have a result."""
        return self.records.total() + self.dead_letters.total()

    def add(self, results: Iterable[Result]) -> list[Result]:
        """Count `results`; returns those whose raw record had none so far."""
        new = [result for result in results if self._is_new(result.origin)]
        for result in new:
            if result.record is None:
                self.dead_letters[result.reason or ""] += 1
                continue
            kind = result.record["enrichment"]["kind"]
            self.records[kind] += 1
            self.entities.update(entity["type"] for entity in result.record["entities"])
            self.seconds.setdefault(kind, array("d")).append(result.seconds)
        return new

    def _is_new(self, origin: Origin) -> bool:
        offsets = self._seen.setdefault((origin.topic, origin.partition), set())
        if origin.offset in offsets:
            self.repeated += 1
            return False
        offsets.add(origin.offset)
        return True
