"""What is measured: every metric of the worker, made once and handed to the code that records it.

Names follow https://prometheus.io/docs/practices/naming/. Labels only ever hold what the operator configured (topics,
partitions), the taxonomy's types, or a fixed set of words, so that no series grows without bound.
"""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from worker.observe.histogram import BulkHistogram

STAGES = ("decode", "encode", "queue", "forward", "assemble", "publish")

_STAGE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 86400)


class Metrics:
    """The worker's metrics in a registry of their own, so that two workers of one process do not meet."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

        self.records_in = Counter("koner_records_in_total", "Raw records fetched.", ["source"], registry=registry)
        self.records_out = Counter(
            "koner_records_out_total",
            "Records acknowledged by the broker, by outcome: enriched, dead_letter, tombstone.",
            ["source", "outcome"],
            registry=registry,
        )
        self.bytes_in = Counter(
            "koner_in_bytes_total",
            "Bytes of raw records fetched, as max_in_flight_bytes counts them.",
            ["source"],
            registry=registry,
        )
        self.dead_letters = Counter(
            "koner_dead_letters_total", "Records refused, by reason.", ["source", "reason"], registry=registry
        )
        self.lost_records = Counter(
            "koner_lost_records_total",
            "Records the broker deleted (retention) before they were read.",
            ["source"],
            registry=registry,
        )
        self.entities = Counter("koner_entities_total", "Entities found, by type.", ["type"], registry=registry)

        self.batch_windows = Histogram(
            "koner_batch_windows",
            "Windows (most texts are one) in a batch.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
            registry=registry,
        )
        self.batch_tokens = Counter(
            "koner_batch_tokens_total", "Tokens the engine ran, padding aside.", ["lane"], registry=registry
        )
        self.batch_padding = Counter(
            "koner_batch_padding_tokens_total", "Padding tokens the engine ran.", ["lane"], registry=registry
        )
        self.batches = Counter("koner_batches_total", "Batches the engine ran.", ["lane"], registry=registry)
        self.token_budget = Gauge("koner_batch_token_budget", "Tokens a batch may hold, now.", registry=registry)

        self.stage_seconds = Histogram(
            "koner_stage_seconds",
            "Time in a stage: decode (a fetch), encode (a chunk), queue (a text), forward (a batch), "
            "assemble (a batch), publish (a produced batch).",
            ["stage"],
            buckets=_STAGE_BUCKETS,
            registry=registry,
        )
        self.latency_seconds = BulkHistogram(
            "koner_latency_seconds",
            "Time from a record's fetch to its result's acknowledgement.",
            "source",
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.end_to_end_seconds = BulkHistogram(
            "koner_end_to_end_seconds",
            "Time from a record's own timestamp to its result's acknowledgement.",
            "source",
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.engine_busy_seconds = Counter(
            "koner_engine_busy_seconds_total", "Time the engine spent in forward passes.", registry=registry
        )
        self.engine_errors = Counter(
            "koner_engine_errors_total",
            "Failed forward passes, by kind: error, out_of_memory.",
            ["kind"],
            registry=registry,
        )

        self.lane_windows = Gauge("koner_lane_windows", "Windows that wait in a lane.", ["lane"], registry=registry)
        self.in_flight_records = Gauge(
            "koner_in_flight_records", "Records between fetch and acknowledgement.", registry=registry
        )
        self.in_flight_bytes = Gauge(
            "koner_in_flight_bytes", "Bytes of raw records between fetch and acknowledgement.", registry=registry
        )
        self.paused_partitions = Gauge(
            "koner_paused_partitions", "Partitions not fetched because of the bounds in flight.", registry=registry
        )
        self.assigned_partitions = Gauge(
            "koner_assigned_partitions", "Partitions this worker reads.", registry=registry
        )
        self.consumer_lag = Gauge(
            "koner_consumer_lag_records",
            "Records of a partition that are not yet acknowledged in its output.",
            ["topic", "partition"],
            registry=registry,
        )
        self.commits = Counter(
            "koner_commits_total", "Commits of offsets, by outcome: done, failed.", ["outcome"], registry=registry
        )
        self.transactions = Counter(
            "koner_transactions_total",
            "Transactions under exactly once, by outcome: committed, aborted, abandoned to the broker's own abort.",
            ["outcome"],
            registry=registry,
        )
        self.rebalances = Counter("koner_rebalances_total", "Assignments taken from the group.", registry=registry)
        self.publish_retries = Counter(
            "koner_publish_retries_total", "Produced batches the broker did not take at first.", registry=registry
        )
        self.broker_up = Gauge("koner_broker_up", "1 while the broker answers, else 0.", registry=registry)
        self.model_info = Gauge(
            "koner_model_info",
            "The model that runs; the value is always 1.",
            ["model", "revision", "taxonomy", "engine", "device"],
            registry=registry,
        )

        for stage in STAGES:  # a series that exists from the start can be told from one that is missing
            self.stage_seconds.labels(stage)
        for kind in ("error", "out_of_memory"):
            self.engine_errors.labels(kind)
        for outcome in ("done", "failed"):
            self.commits.labels(outcome)
        for outcome in ("committed", "aborted", "abandoned"):
            self.transactions.labels(outcome)
        for lane in ("short", "bulk"):
            self.lane_windows.labels(lane)
            self.batches.labels(lane)
            self.batch_tokens.labels(lane)
            self.batch_padding.labels(lane)
