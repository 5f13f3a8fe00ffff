"""Where outputs go: one queue an output partition, one produced batch under way in each.

Guarantees: outputs handed in for one output partition are written in that order; each is reported acknowledged only
after the broker said so (acks=all). A batch the broker does not take ends the sink with the error, and whoever owns it
reads again from the last commit.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from time import monotonic

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.partitioner import murmur2
from aiokafka.producer.message_accumulator import BatchBuilder

from worker.observe.metrics import Metrics
from worker.settings import Settings
from worker.stream.connection import client_options
from worker.stream.work import Output

log = logging.getLogger(__name__)

BATCH_BYTES = 256 * 1024
REQUEST_TIMEOUT_MILLISECONDS = 30_000
_positive_murmur2 = lru_cache(maxsize=16_384)(lambda key: murmur2(key) & 0x7FFFFFFF)


class TooLarge(Exception):
    """The broker refused a batch for its size: `topic` takes less than `limit` bytes at a time."""

    def __init__(self, topic: str, limit: int) -> None:
        super().__init__(f"{topic} takes no batch of {limit} bytes")
        self.topic = topic
        self.limit = limit


def partition_for(key: bytes | None, input_partition: int, partitions: int) -> int:
    """The output partition of a record, as Kafka's own producers choose it for a key (murmur2).

    A record without a key follows its input partition, which keeps the order of those too.
    """
    if key is None:
        return input_partition % partitions
    return int(_positive_murmur2(key)) % partitions


class Sink:
    """Publishes outputs through one producer. `on_acknowledged` gets those of a batch that the broker has."""

    def __init__(
        self, settings: Settings, metrics: Metrics, *, on_acknowledged: Callable[[Sequence[Output]], None]
    ) -> None:
        self._metrics = metrics
        self._on_acknowledged = on_acknowledged
        self._batch_bytes = min(BATCH_BYTES, settings.max_publish_bytes)
        self._queues: dict[TopicPartition, deque[Output]] = {}
        self._partition_counts: dict[str, int] = {}
        self._wake: dict[TopicPartition, asyncio.Event] = {}
        self._senders: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._producer = AIOKafkaProducer(
            **client_options(settings),
            acks="all",
            enable_idempotence=settings.idempotence,
            compression_type=None if settings.compression == "none" else settings.compression,
            max_batch_size=self._batch_bytes,
            max_request_size=settings.max_publish_bytes,
            request_timeout_ms=REQUEST_TIMEOUT_MILLISECONDS,
        )

    async def start(self, topics: Sequence[str]) -> None:
        """Connect, and learn how many partitions each of `topics` has."""
        await self._producer.start()
        for topic in topics:
            self._partition_counts[topic] = len(await self._producer.partitions_for(topic))

    def publish(self, outputs: Sequence[Output]) -> None:
        """Queue outputs; those that meet in an output partition are written in this order."""
        for output in outputs:
            partition = partition_for(output.key, output.record.partition, self._partition_counts[output.topic])
            destination = TopicPartition(output.topic, partition)
            queue = self._queues.get(destination)
            if queue is None:
                queue = self._open(destination)
            queue.append(output)
            self._wake[destination].set()

    async def run(self) -> None:
        """Wait until a batch cannot be delivered, and raise why."""
        await self._failed

    async def close(self, patience: float) -> None:
        """Disconnect, giving batches under way `patience` seconds; what is queued is not sent."""
        for sender in self._senders:
            sender.cancel()
        await asyncio.gather(*self._senders, return_exceptions=True)
        if not self._failed.done():
            self._failed.cancel()
        stopping = asyncio.ensure_future(self._producer.stop())
        done, _ = await asyncio.wait([stopping], timeout=patience)
        if not done:
            # A producer flushes before it stops, for ever if the broker is away: take its connections away first.
            await self._producer.client.close()
            sender_task = self._producer._sender.sender_task
            if sender_task is not None:
                sender_task.cancel()
            await asyncio.wait([stopping], timeout=patience)
            stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)

    def _open(self, destination: TopicPartition) -> deque[Output]:
        queue: deque[Output] = deque()
        wake = asyncio.Event()
        self._queues[destination], self._wake[destination] = queue, wake
        sender = asyncio.create_task(self._send_queue(destination, queue, wake))
        self._senders.add(sender)
        sender.add_done_callback(self._sender_ended)
        return queue

    def _sender_ended(self, sender: asyncio.Task[None]) -> None:
        if sender.cancelled() or self._failed.done():
            return
        error = sender.exception()
        if error is not None:
            self._failed.set_exception(error)

    async def _send_queue(self, destination: TopicPartition, queue: deque[Output], wake: asyncio.Event) -> None:
        while True:
            await wake.wait()
            wake.clear()
            while queue:
                outputs, builder = self._fill_batch(queue)
                if not outputs:
                    continue
                started = monotonic()
                size = builder.size()
                try:
                    await (await self._producer.send_batch(builder, destination.topic, partition=destination.partition))
                except MessageSizeTooLargeError:
                    limit = size // 2 if len(outputs) > 1 else outputs[0].size - 1
                    raise TooLarge(destination.topic, limit) from None
                self._metrics.stage_seconds.labels("publish").observe(monotonic() - started)
                self._on_acknowledged(outputs)

    def _fill_batch(self, queue: deque[Output]) -> tuple[list[Output], BatchBuilder]:
        """Take what fits in one batch off the queue; outputs of a forgotten partition are passed over."""
        builder = self._producer.create_batch()
        outputs: list[Output] = []
        while queue:
            output = queue[0]
            if output.partition.forgotten:
                queue.popleft()
                continue
            appended = builder.append(
                key=output.key, value=output.value, timestamp=output.timestamp, headers=output.headers
            )
            if appended is None:
                break
            outputs.append(queue.popleft())
        builder.close()
        return outputs, builder
