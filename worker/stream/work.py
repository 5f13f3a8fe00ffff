"""A record on its way through the worker, and what leaves for it."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from aiokafka import TopicPartition

from worker.ner.engine import Encoded
from worker.records import Document, Span
from worker.settings import Source
from worker.stream.checkpoint import Checkpoint

Outcome = Literal["enriched", "dead_letter", "tombstone"]
Headers = Sequence[tuple[str, bytes | None]]

HEADER_OVERHEAD = 100  # bytes of memory of a header's tuple and the objects in it, beyond its name and value


class Partition:
    """One assignment of one input partition. Once `forgotten`, what is still under way for it counts for nothing."""

    __slots__ = ("bytes", "checkpoint", "forgotten", "records", "source", "topic_partition")

    def __init__(self, topic_partition: TopicPartition, source: Source) -> None:
        self.topic_partition = topic_partition
        self.source = source
        self.checkpoint: Checkpoint[Output] = Checkpoint()
        self.forgotten = False
        self.records = 0  # in flight
        self.bytes = 0  # of raw records in flight


class Work:
    """A record that passed its contract, between its fetch and its result."""

    __slots__ = ("document", "encoded", "error", "fetched_at", "missing", "partition", "record", "spans")

    def __init__(self, record: Any, partition: Partition, document: Document, fetched_at: float) -> None:
        self.record = record  # the raw ConsumerRecord
        self.partition = partition
        self.document = document
        self.fetched_at = fetched_at  # monotonic seconds
        self.encoded: Encoded | None = None
        self.spans: list[list[Span]] = []  # one list a window, filled as windows come back
        self.missing = 0  # windows not yet back
        self.error: Exception | None = None  # why the model could not do this text


class Output(NamedTuple):  # several times cheaper to make than a frozen dataclass, and one is made for every record
    """What is published for a record: an enriched record, a dead letter or a tombstone."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int  # milliseconds since the epoch, the raw record's own
    outcome: Outcome
    partition: Partition
    record: Any  # the raw ConsumerRecord
    fetched_at: float  # monotonic seconds
    reason: str = ""  # of a dead letter

    @property
    def size(self) -> int:
        """Bytes of key, value and headers."""
        size = len(self.key or b"") + len(self.value or b"")
        if self.headers:
            size += sum(len(name) + len(value or b"") for name, value in self.headers)
        return size


def raw_size(record: Any) -> int:
    """Bytes of a raw record that count as in flight: value, key and headers, with what Python adds to headers."""
    size = len(record.value or b"") + len(record.key or b"")
    if record.headers:
        size += sum(HEADER_OVERHEAD + len(name) + len(value or b"") for name, value in record.headers)
    return size
