"""Where outputs go, at least once: one queue an output partition, one produced batch under way in each.

Guarantees: outputs handed in for one output partition are written in that order; each is reported acknowledged only
after the broker said so (acks=all). A batch the broker does not take ends the sink with the error, and whoever owns it
reads again from the last commit.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic

from aiokafka import TopicPartition

from worker.observe.metrics import Metrics
from worker.settings import Settings
from worker.stream.delivery import Deliveries
from worker.stream.producing import Router, end_producer, make_producer
from worker.stream.tasks import end_tasks
from worker.stream.work import Output, Partition


class Sink:
    """Publishes outputs through one producer. `on_acknowledged` gets those of a batch that the broker has."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        topics: Sequence[str],
        deliveries: Deliveries,
        *,
        on_acknowledged: Callable[[Sequence[Output]], None],
    ) -> None:
        """`topics` are all that outputs may name."""
        self._metrics = metrics
        self._topics = topics
        self._on_acknowledged = on_acknowledged
        self._router = Router()
        self.deliveries = deliveries
        self._queues: dict[TopicPartition, deque[Output]] = {}
        self._wake: dict[TopicPartition, asyncio.Event] = {}
        self._senders: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._producer = make_producer(settings, enable_idempotence=settings.idempotence)
        self.deliveries.watch(self._producer)

    async def start(self) -> None:
        """Connect, and learn how many partitions the topics have."""
        await self._producer.start()
        await self._router.learn(self._producer, self._topics)

    async def refresh(self) -> None:
        """Learn again how many partitions the topics have."""
        await self._router.learn(self._producer, self._topics)

    async def open(self, partitions: Sequence[Partition]) -> None:
        """Nothing is needed for an input partition: every one shares the producer."""

    async def shut(self, partition: Partition) -> None:
        """Drop what is queued for a forgotten partition; a batch under way may still be written."""
        for queue in self._queues.values():
            kept = [output for output in queue if output.partition is not partition]
            queue.clear()
            queue.extend(kept)

    def publish(self, outputs: Sequence[Output]) -> None:
        """Queue outputs; those that meet in an output partition are written in this order."""
        for output in outputs:
            destination = self._router.destination(output)
            queue = self._queues.get(destination)
            if queue is None:
                queue = self._open_queue(destination)
            queue.append(output)
            self._wake[destination].set()

    async def run(self) -> None:
        """Wait until a batch cannot be delivered, and raise why."""
        await self._failed

    async def close(self, patience: float) -> None:
        """Disconnect, giving batches under way `patience` seconds; what is queued is not sent."""
        await end_tasks(self._senders)
        self._failed.cancel()
        await end_producer(self._producer, patience)

    def _open_queue(self, destination: TopicPartition) -> deque[Output]:
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
                started = monotonic()
                outputs = await self.deliveries.send_next(self._producer, destination, queue)
                self._metrics.stage_seconds.labels("publish").observe(monotonic() - started)
                self._on_acknowledged(outputs)
