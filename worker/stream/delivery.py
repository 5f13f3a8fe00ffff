"""How produced batches get to the broker: what is under way and for how long, and what was refused for its size."""

import sys
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from time import monotonic

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.producer.message_accumulator import BatchBuilder, MessageBatch

from worker.observe.metrics import Metrics
from worker.observe.tracing import NoTracer, Tracer
from worker.stream.errors import StreamError
from worker.stream.work import Output


class TooLarge(Exception):
    """The broker refused a batch for its size: `records` of them, of `size` bytes together before compression."""

    def __init__(self, topic: str, records: int, size: int) -> None:
        super().__init__(f"{topic} took no batch of {records} records and {size} bytes")
        self.topic = topic
        self.records = records
        self.size = size


class SizeLimits:
    """What topics were found to take, in bytes before compression: the largest record, the largest batch of several.

    A refused batch is tried again in halves, so that only a record which was refused alone counts as too large.
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

    def learn(self, refused: TooLarge, dead_letter_topic: str) -> str:
        """Remember a refusal; returns what it tells, in a line. Raises `StreamError` for one dead letter alone."""
        topic = refused.topic
        if refused.records > 1:
            self._batches[topic] = min(self.batch(topic), refused.size // 2)
            return f"{topic} refused a batch of {refused.size} bytes; sending at most {self._batches[topic]} at a time"
        if topic == dead_letter_topic:
            raise StreamError(
                f"{topic}: refuses a dead letter of {refused.size} bytes; nothing was skipped, "
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

        Raises `TooLarge` where the broker takes no batch of that size, and aiokafka's errors where a retry won't help.
        """
        outputs, batch = self._fill_batch(producer, destination.topic, queue)
        size = batch.size()
        delivery = object()
        self._under_way[delivery] = destination.topic, monotonic()
        try:
            with self._trace(destination, outputs):
                await (await producer.send_batch(batch, destination.topic, partition=destination.partition))
        except MessageSizeTooLargeError:
            raise TooLarge(destination.topic, len(outputs), size if len(outputs) > 1 else outputs[0].size) from None
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
            headers = list(output.headers)  # aiokafka's own builder takes nothing else
            appended = builder.append(key=output.key, value=output.value, timestamp=output.timestamp, headers=headers)
            if appended is None:
                break
            outputs.append(queue.popleft())
        builder.close()
        return outputs, builder
