"""How produced batches get to the broker: what is under way and for how long, and what was refused for its size."""

import sys
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from time import monotonic

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    BrokerResponseError,
    ConcurrentTransactions,
    CorruptRecordException,
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    InvalidTxnState,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    RecordListTooLargeError,
    TransactionCoordinatorFenced,
    UnknownError,
    UnknownProducerId,
    kafka_errors,
)
from aiokafka.producer.message_accumulator import BatchBuilder, MessageBatch

from worker.observe.metrics import Metrics
from worker.observe.tracing import NoTracer, Tracer
from worker.stream.errors import StreamError
from worker.stream.permission import NO_PERMISSION
from worker.stream.work import Output


class InvalidRecordError(BrokerResponseError):  # type: ignore[misc]
    """A batch holds a record that the topic takes from nobody; aiokafka has no class for it, and calls it unknown."""

    errno = 87
    message = "INVALID_RECORD"


kafka_errors.setdefault(InvalidRecordError.errno, InvalidRecordError)

# What the broker says of itself, the way to it, a producer or its rights, and not of the records in a batch.
_OF_OTHERS = (
    *NO_PERMISSION,
    ConcurrentTransactions,
    CorruptRecordException,
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    InvalidTxnState,
    OutOfOrderSequenceNumber,
    TransactionCoordinatorFenced,
    UnknownError,
    UnknownProducerId,
)


def refuses_records(error: BaseException) -> bool:
    """Whether a broker refused a batch for good for what it holds."""
    return isinstance(error, BrokerResponseError) and not error.retriable and not isinstance(error, _OF_OTHERS)


class BatchRefused(Exception):
    """The broker refused a batch for good: `records` of them, of `size` bytes together before compression."""

    def __init__(self, topic: str, records: int, size: int, reason: str) -> None:
        super().__init__(f"{topic} took no batch of {records} records and {size} bytes: {reason}")
        self.topic = topic
        self.records = records
        self.size = size
        self.reason = reason


class TooLarge(BatchRefused):
    """The broker refused a batch for its size."""

    def __init__(self, topic: str, records: int, size: int) -> None:
        super().__init__(topic, records, size, "too large")


class SizeLimits:
    """What topics were found to take, in bytes before compression: the largest record, the largest batch of several.

    A refused batch is tried again in halves, whatever it was refused for, so that only a record which was refused alone
    is blamed.
    """

    def __init__(self) -> None:
        self._records: dict[str, int] = {}
        self._batches: dict[str, int] = {}

    def record(self, topic: str) -> int:
        """The largest record to send to `topic`, as far as the broker has told."""
        return self._records.get(topic, sys.maxsize)

    def batch(self, topic: str) -> int:
        """The largest batch of more than one record to send to `topic`, as far as the broker has told."""
        return self._batches.get(topic, sys.maxsize)

    def learn(self, refused: BatchRefused, dead_letter_topic: str) -> str:
        """Remember a refusal; returns what it tells, in a line.

        Raises `StreamError` for a record alone that no dead letter can stand in for: a dead letter, or a tombstone.
        """
        topic = refused.topic
        if refused.records > 1:
            self._batches[topic] = min(self.batch(topic), refused.size // 2)
            return (
                f"{topic} refused a batch of {refused.records} records and {refused.size} bytes ({refused.reason}); "
                f"sending at most {self._batches[topic]} bytes at a time"
            )
        if topic == dead_letter_topic:
            raise StreamError(
                f"{topic}: refuses a dead letter of {refused.size} bytes; nothing was skipped, "
                "raise its max.message.bytes"
            )
        if refused.size > self.record(topic):  # it was known to be too large, and nothing else could be sent for it
            raise StreamError(
                f"{topic}: refuses a tombstone of {refused.size} bytes (key and headers); nothing was skipped, "
                "raise its max.message.bytes"
            )
        self._records[topic] = min(self.record(topic), refused.size - 1)
        return f"{topic} takes records of at most {self._records[topic]} bytes"


class Deliveries:
    """Sends batches, and knows which one the broker has not taken for how long."""

    def __init__(self, metrics: Metrics, limits: SizeLimits, tracer: Tracer | None = None) -> None:
        self._metrics = metrics
        self._tracer = tracer or NoTracer()
        self._limits = limits
        self._under_way: dict[object, tuple[str, float]] = {}  # topic and monotonic start, the oldest first

    def watch(self, producer: AIOKafkaProducer) -> None:
        """Count what `producer` sends again: aiokafka does so without a word to its caller."""
        accumulator = producer._message_accumulator
        again = accumulator.reenqueue

        def reenqueue(batch: MessageBatch) -> None:
            self._metrics.publish_retries.inc()
            again(batch)

        accumulator.reenqueue = reenqueue

    async def send_next(
        self, producer: AIOKafkaProducer, destination: TopicPartition, queue: deque[Output]
    ) -> Sequence[Output]:
        """Take what fits in a batch off the queue, and return it when the broker has it.

        Raises `TooLarge` where the broker takes no batch of that size, `BatchRefused` where it refuses several records
        for what they are, `StreamError` where it refuses one, and aiokafka's errors where it is not the records' fault.
        """
        outputs, batch = self._fill_batch(producer, destination.topic, queue)
        size = batch.size()
        delivery = object()
        self._under_way[delivery] = destination.topic, monotonic()
        try:
            with self._trace(destination, outputs):
                await (await producer.send_batch(batch, destination.topic, partition=destination.partition))
        except (MessageSizeTooLargeError, RecordListTooLargeError):
            raise TooLarge(destination.topic, len(outputs), size if len(outputs) > 1 else outputs[0].size) from None
        except BrokerResponseError as error:
            if not refuses_records(error):
                raise
            reason = type(error).__name__
            if len(outputs) > 1:
                raise BatchRefused(destination.topic, len(outputs), size, reason) from None
            record = outputs[0].record
            raise StreamError(
                f"{destination.topic}: refuses what comes of {record.topic}[{record.partition}] at offset "
                f"{record.offset} ({reason}); nothing was skipped. Check the topic's settings (compacted, it takes no "
                "record without a key; message.timestamp.before.max.ms bounds timestamps) and the broker's log"
            ) from None
        finally:
            del self._under_way[delivery]
        return outputs

    def _trace(self, destination: TopicPartition, outputs: Sequence[Output]) -> AbstractContextManager[None]:
        if not self._tracer.enabled:
            return nullcontext()
        attributes = {
            "messaging.destination.name": destination.topic,
            "messaging.destination.partition.id": str(destination.partition),
            "messaging.batch.message_count": len(outputs),
        }
        return self._tracer.span("send", attributes, (output.headers for output in outputs))

    def slowest(self) -> tuple[str, float]:
        """The topic that a batch has waited for longest, and for how many seconds; "" and 0 where none is under way."""
        for topic, since in self._under_way.values():
            return topic, monotonic() - since
        return "", 0.0

    def _fill_batch(
        self, producer: AIOKafkaProducer, topic: str, queue: deque[Output]
    ) -> tuple[list[Output], BatchBuilder]:
        builder = producer.create_batch()
        most = self._limits.batch(topic)
        limited = most < sys.maxsize
        outputs: list[Output] = []
        while queue:
            output = queue[0]
            if limited and outputs and builder.size() + output.size > most:
                break
            if outputs and outputs[0].timestamp == -1 and output.timestamp != -1:
                break  # a batch that begins without a timestamp takes the next one for all its records
            headers = list(output.headers)  # aiokafka's own builder takes nothing else
            appended = builder.append(key=output.key, value=output.value, timestamp=output.timestamp, headers=headers)
            if appended is None:
                break
            outputs.append(queue.popleft())
        builder.close()
        return outputs, builder
