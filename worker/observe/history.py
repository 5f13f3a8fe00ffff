"""The metrics over the last two minutes: what rates and recent quantiles are computed from.

Counters only grow; a rate is the difference of two samples. A quantile is read from a histogram's buckets the way
Prometheus' `histogram_quantile` does: linear within the bucket it falls into.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from prometheus_client.metrics import MetricWrapperBase

from worker.observe.histogram import BulkHistogram
from worker.observe.metrics import Metrics

Labels = tuple[str, ...]
Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Sample:
    """The metrics at one moment, each by the values of its labels in the order they were declared."""

    at: float  # seconds of a clock that only goes forward
    records_in: Mapping[Labels, float]  # source
    records_out: Mapping[Labels, float]  # source, outcome
    entities: Mapping[Labels, float]  # type
    dead_letters: Mapping[Labels, float]  # source, reason
    lag: Mapping[Labels, float]  # topic, partition
    tokens: float
    padding: float
    batches: float
    busy_seconds: float
    latency: Mapping[Labels, Mapping[float, float]]  # source; upper bound in seconds to cumulative count
    end_to_end: Mapping[Labels, Mapping[float, float]]


class History:
    """The last `size` samples, oldest first; at one a second, so many seconds."""

    def __init__(self, metrics: Metrics, size: int = 120) -> None:
        self._metrics = metrics
        self.samples: deque[Sample] = deque(maxlen=size)

    def sample(self, now: float) -> Sample:
        """Take a sample at `now`, in seconds of a monotonic clock, and keep it."""
        metrics = self._metrics
        taken = Sample(
            at=now,
            records_in=values(metrics.records_in),
            records_out=values(metrics.records_out),
            entities=values(metrics.entities),
            dead_letters=values(metrics.dead_letters),
            lag=values(metrics.consumer_lag),
            tokens=sum(values(metrics.batch_tokens).values()),
            padding=sum(values(metrics.batch_padding).values()),
            batches=sum(values(metrics.batches).values()),
            busy_seconds=sum(values(metrics.engine_busy_seconds).values()),
            latency=buckets(metrics.latency_seconds),
            end_to_end=buckets(metrics.end_to_end_seconds),
        )
        self.samples.append(taken)
        return taken

    def window(self, seconds: float) -> tuple[Sample, Sample]:
        """The newest sample and the newest one at least `seconds` older, or the oldest there is."""
        newest = self.samples[-1]
        for sample in reversed(self.samples):
            if newest.at - sample.at >= seconds:
                return sample, newest
        return self.samples[0], newest


def values(metric: MetricWrapperBase) -> dict[Labels, float]:
    """The value of each series of a counter or gauge."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in metric.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def buckets(histogram: BulkHistogram) -> dict[Labels, dict[float, float]]:
    """The cumulative count of each bucket by its upper bound, for each series of a histogram."""
    series: dict[Labels, dict[float, float]] = {}
    for family in histogram.collect():
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                labels = dict(sample.labels)
                bound = float(labels.pop("le"))
                series.setdefault(tuple(labels.values()), {})[bound] = sample.value
    return series


def growth(old: Mapping[Key, float], new: Mapping[Key, float]) -> dict[Key, float]:
    """How much each series grew; one that is new began at 0."""
    return {key: value - old.get(key, 0.0) for key, value in new.items()}


def merged_growth(
    old: Mapping[Labels, Mapping[float, float]], new: Mapping[Labels, Mapping[float, float]], of: Iterable[Labels]
) -> dict[float, float]:
    """The growth of the buckets of several series, added up."""
    total: dict[float, float] = {}
    for labels in of:
        for bound, count in growth(old.get(labels, {}), new[labels]).items():
            total[bound] = total.get(bound, 0.0) + count
    return total


def quantile(share: float, cumulative: Mapping[float, float]) -> float | None:
    """The value that `share` of the observations stay under, from cumulative counts by upper bound.

    None without observations; the greatest finite bound where the value lies beyond it.
    """
    bounds: Sequence[float] = sorted(cumulative)
    if not bounds or cumulative[bounds[-1]] <= 0:
        return None
    rank = share * cumulative[bounds[-1]]
    lower, below = 0.0, 0.0
    for bound in bounds:
        count = cumulative[bound]
        if count >= rank and count > below:
            return lower if math.isinf(bound) else lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = (lower if math.isinf(bound) else bound), count
    return lower
