"""What the live page tells, as one JSON object, computed from the metrics' recent past."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Protocol

from worker.observe.history import History, Labels, Sample, growth, merged_growth, quantile, values
from worker.observe.live import Recent
from worker.observe.metrics import Metrics

RATE_SECONDS = 5.0  # what rates, busy share and batch fill are taken over
LATENCY_SECONDS = 30.0  # a quantile needs more observations than a rate
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


class Status(Protocol):
    """How the data plane is doing."""

    @property
    def alive(self) -> bool:
        """The event loop and the engine move: a restart would not help."""
        ...

    @property
    def ready(self) -> bool:
        """Records that arrive now are enriched now."""
        ...

    @property
    def problems(self) -> tuple[str, ...]:
        """What is in the way, a clause each."""
        ...


class Summary:
    """The live page's figures. `tick` is to be called every second or so, `tell` whenever somebody looks."""

    def __init__(
        self,
        model: Mapping[str, str],
        metrics: Metrics,
        recent: Recent,
        status: Callable[[], Status],
        *,
        version: str,
        records: bool,
        clock: Callable[[], float],
    ) -> None:
        self._model = model
        self._metrics = metrics
        self._recent = recent
        self._status = status
        self._version = version
        self._records = records
        self._clock = clock
        self._history = History(metrics)
        self._begun = clock()
        self.tick()

    def tick(self) -> None:
        """Take a sample of the metrics."""
        self._history.sample(self._clock())

    def tell(self, *, trusted: bool) -> dict[str, Any]:
        """Everything the page shows now; people's words only to a `trusted` reader, and if the settings let them."""
        old, new = self._history.window(RATE_SECONDS)
        status = self._status()
        shown = self._records and trusted
        return {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "version": self._version,
            "uptime_seconds": round(self._clock() - self._begun, 1),
            "alive": status.alive,
            "ready": status.ready,
            "problems": list(status.problems),
            "model": dict(self._model),
            **_flow(old, new),
            "latency": self._latency(),
            "batches": _batches(old, new),
            "in_flight": {
                "records": self._gauge(self._metrics.in_flight_records),
                "bytes": self._gauge(self._metrics.in_flight_bytes),
            },
            "lanes": {labels[0]: count for labels, count in values(self._metrics.lane_windows).items()},
            "lag": sum(new.lag.values()),
            "partitions": [
                {"topic": topic, "partition": int(partition), "lag": lag}
                for (topic, partition), lag in sorted(new.lag.items(), key=_by_partition)
            ],
            "assigned_partitions": self._gauge(self._metrics.assigned_partitions),
            "paused_partitions": self._gauge(self._metrics.paused_partitions),
            "entities": _counts(("type",), new.entities),
            "dead_letters": _counts(("source", "reason"), new.dead_letters),
            "history": _series(list(self._history.samples)),
            "records_shown": "yes" if shown else "off" if not self._records else "local",
            "records": self._recent.views() if shown else [],
        }

    def _latency(self) -> dict[str, Any]:
        old, new = self._history.window(LATENCY_SECONDS)

        def of(kind: str, sources: Iterable[Labels]) -> dict[str, float | None]:
            return _quantiles(merged_growth(getattr(old, kind), getattr(new, kind), sources))

        return {
            "fetch_to_ack": of("latency", new.latency),
            "end_to_end": of("end_to_end", new.end_to_end),
            "by_source": [
                {"source": labels[0], "fetch_to_ack": of("latency", [labels])} for labels in sorted(new.latency)
            ],
        }

    @staticmethod
    def _gauge(metric: Any) -> float:
        return sum(values(metric).values())


def _flow(old: Sample, new: Sample) -> dict[str, Any]:
    seconds = max(new.at - old.at, 1e-9)
    read, done = growth(old.records_in, new.records_in), growth(old.records_out, new.records_out)
    sources = sorted({source for source, *_ in (*new.records_in, *new.records_out)})
    outcomes = sorted({outcome for _, outcome in new.records_out})
    return {
        "rates": {"in": sum(read.values()) / seconds, "out": sum(done.values()) / seconds},
        "totals": {
            "in": sum(new.records_in.values()),
            "out": sum(new.records_out.values()),
            **{
                outcome: sum(count for labels, count in new.records_out.items() if labels[1] == outcome)
                for outcome in outcomes
            },
        },
        "sources": [
            {
                "source": source,
                "in": read.get((source,), 0.0) / seconds,
                "out": sum(count for labels, count in done.items() if labels[0] == source) / seconds,
                "total": new.records_in.get((source,), 0.0),
            }
            for source in sources
        ],
    }


def _batches(old: Sample, new: Sample) -> dict[str, float | None]:
    seconds = max(new.at - old.at, 1e-9)
    tokens, padding = new.tokens - old.tokens, new.padding - old.padding
    return {
        "fill": tokens / (tokens + padding) if tokens + padding > 0 else None,
        "tokens_per_second": tokens / seconds,
        "batches_per_second": (new.batches - old.batches) / seconds,
        "busy": min(1.0, (new.busy_seconds - old.busy_seconds) / seconds),
    }


def _quantiles(cumulative: Mapping[float, float]) -> dict[str, float | None]:
    return {name: quantile(share, cumulative) for name, share in QUANTILES.items()}


def _counts(names: tuple[str, ...], series: Mapping[Labels, float]) -> list[dict[str, Any]]:
    ranked = sorted(
        ((labels, count) for labels, count in series.items() if count), key=lambda item: (-item[1], item[0])
    )
    return [{**dict(zip(names, labels, strict=True)), "count": count} for labels, count in ranked]


def _by_partition(item: tuple[Labels, float]) -> tuple[str, int]:
    (topic, partition), _ = item
    return topic, int(partition)


def _series(samples: list[Sample]) -> dict[str, list[float | None]]:
    """What the sparklines draw: a point for each pair of samples, oldest first."""
    series: dict[str, list[float | None]] = {"in": [], "out": [], "lag": [], "busy": [], "fill": [], "p95": []}
    for old, new in pairwise(samples):
        seconds = max(new.at - old.at, 1e-9)
        batches = _batches(old, new)
        series["in"].append(sum(growth(old.records_in, new.records_in).values()) / seconds)
        series["out"].append(sum(growth(old.records_out, new.records_out).values()) / seconds)
        series["lag"].append(sum(new.lag.values()))
        series["busy"].append(batches["busy"])
        series["fill"].append(batches["fill"])
        series["p95"].append(quantile(0.95, merged_growth(old.latency, new.latency, new.latency)))
    return series
