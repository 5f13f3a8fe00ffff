"""A histogram that takes many values at a time: recording one by one would cost more than enriching a record does."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from threading import Lock

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

INFINITY = float("inf")


class BulkHistogram(Collector):
    """A Prometheus histogram with one label, exposed as `prometheus_client.Histogram` is."""

    def __init__(
        self, name: str, documentation: str, label: str, *, buckets: Sequence[float], registry: CollectorRegistry
    ) -> None:
        """`buckets` are upper bounds in ascending order; the one of infinity is added."""
        self._name, self._documentation, self._label = name, documentation, label
        self._bounds = [*buckets, INFINITY]
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}
        self._lock = Lock()
        registry.register(self)

    def observe(self, label: str, values: Iterable[float]) -> None:
        """Record values under a label's value."""
        with self._lock:
            counts = self._counts.setdefault(label, [0] * len(self._bounds))
            total = self._sums.get(label, 0.0)
            for value in values:
                counts[bisect_left(self._bounds, value)] += 1
                total += value
            self._sums[label] = total

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """The family without samples, by which the registry knows the name."""
        yield HistogramMetricFamily(self._name, self._documentation, labels=[self._label])

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The family with a cumulative count for each bucket."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=[self._label])
        with self._lock:
            for label, counts in self._counts.items():
                names = map(floatToGoString, self._bounds)
                buckets = list(zip(names, map(float, accumulate(counts)), strict=True))
                family.add_metric([label], buckets, self._sums[label])
        yield family
