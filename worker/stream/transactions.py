"""Where outputs go, exactly once: one Kafka transaction after another for each input partition.

Guarantees: as a `read_committed` reader sees it, the outputs of an input partition and the offset that says they are
done appear together or not at all. The transactional id belongs to the input partition, so that whoever is assigned the
partition next fences this producer (https://cwiki.apache.org/confluence/display/KAFKA/KIP-98) before it reads where to
go on; what a fenced one still writes is never seen.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import InvalidTxnState
from aiokafka.structs import OffsetAndMetadata

from worker.observe.metrics import Metrics
from worker.settings import Settings
from worker.stream.delivery import Deliveries
from worker.stream.producing import Router, end_producer, make_producer
from worker.stream.tasks import end_tasks
from worker.stream.work import Output, Partition

ABORT_PATIENCE = 3.0


class TransactionalSink:
    """Publishes each input partition's outputs in transactions. `on_acknowledged` gets those of a committed one."""

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
        self._settings = settings
        self._metrics = metrics
        self._topics = topics
        self._on_acknowledged = on_acknowledged
        self._router = Router()
        self.deliveries = deliveries
        self._lines: dict[Partition, _Line] = {}
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Nothing connects before partitions are assigned."""

    async def refresh(self) -> None:
        """Learn again how many partitions the topics have."""
        line = next(iter(self._lines.values()), None)
        if line is not None:
            await self._router.learn(line.producer, self._topics)

    async def open(self, partitions: Sequence[Partition]) -> None:
        """Fence whoever produced for `partitions` before; after this their committed offsets stand."""
        lines = {partition: _Line(self._settings, partition) for partition in partitions}
        self._lines.update(lines)
        for line in lines.values():
            self.deliveries.watch(line.producer)
        await asyncio.gather(*(line.producer.start() for line in lines.values()))
        await self.refresh()
        for line in lines.values():
            line.task = asyncio.create_task(self._run_line(line))
            line.task.add_done_callback(self._line_ended)

    async def shut(self, partition: Partition) -> None:
        """End the producer of a partition that was given up, aborting a transaction that is still open."""
        line = self._lines.pop(partition, None)
        if line is not None:
            await self._end(line, ABORT_PATIENCE)

    def publish(self, outputs: Sequence[Output]) -> None:
        """Queue outputs of one input partition or more for their next transactions, in order."""
        for output in outputs:
            line = self._lines.get(output.partition)
            if line is not None:
                line.queue.append(output)
                line.wake.set()

    async def run(self) -> None:
        """Wait until a transaction cannot be committed, and raise why."""
        await self._failed

    async def close(self, patience: float) -> None:
        """Abort what is open and disconnect."""
        self._failed.cancel()
        lines, self._lines = list(self._lines.values()), {}
        await asyncio.gather(*(self._end(line, patience) for line in lines))

    async def _end(self, line: "_Line", patience: float) -> None:
        if line.task is not None:
            await end_tasks([line.task])
        if line.in_transaction:
            try:
                await asyncio.wait_for(line.producer.abort_transaction(), ABORT_PATIENCE)
            except Exception:  # fenced, or the broker is away: it aborts the transaction itself
                self._metrics.transactions.labels("abandoned").inc()
            else:
                self._metrics.transactions.labels("aborted").inc()
        await end_producer(line.producer, patience)

    def _line_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self._failed.done():
            return
        error = task.exception()
        if error is not None:
            self._failed.set_exception(error)

    async def _run_line(self, line: "_Line") -> None:
        """One transaction after another, each with all that waits; they begin `transaction_seconds` apart at least."""
        while True:
            await line.wake.wait()
            line.wake.clear()
            while line.queue:
                began = monotonic()
                outputs = await self._transact(line)
                self._metrics.stage_seconds.labels("publish").observe(monotonic() - began)
                self._on_acknowledged(outputs)
                await asyncio.sleep(self._settings.transaction_seconds - (monotonic() - began))

    async def _transact(self, line: "_Line") -> Sequence[Output]:
        """1. Begin. 2. Send the outputs, in order. 3. Add the offset after the last of them. 4. Commit."""
        outputs = line.take(self._settings.transaction_records)
        last = outputs[-1].record.offset
        await line.producer.begin_transaction()
        line.in_transaction = True
        try:
            await self._send(line, outputs)
        except InvalidTxnState as error:
            raise _reason_of(error, line.producer) from None
        offsets = {line.partition.topic_partition: OffsetAndMetadata(last + 1, "")}
        await line.producer.send_offsets_to_transaction(offsets, self._settings.group)
        await line.producer.commit_transaction()
        line.in_transaction = False
        line.partition.checkpoint.committed = last + 1
        self._metrics.transactions.labels("committed").inc()
        return outputs

    async def _send(self, line: "_Line", outputs: Sequence[Output]) -> None:
        queues: dict[TopicPartition, deque[Output]] = {}
        for output in outputs:
            queues.setdefault(self._router.destination(output), deque()).append(output)
        await asyncio.gather(*(self._send_queue(line, destination, queue) for destination, queue in queues.items()))

    async def _send_queue(self, line: "_Line", destination: TopicPartition, queue: deque[Output]) -> None:
        while queue:
            await self.deliveries.send_next(line.producer, destination, queue)


def _reason_of(error: InvalidTxnState, producer: AIOKafkaProducer) -> BaseException:
    """What ended the transaction before a batch was refused for not being in it: a topic we may not write, say."""
    ended = producer._txn_manager._transaction_waiter
    reason: BaseException | None = ended.exception() if ended.done() and not ended.cancelled() else None
    return reason or error


class _Line:
    """An input partition's producer and what waits for its next transaction."""

    def __init__(self, settings: Settings, partition: Partition) -> None:
        self.partition = partition
        self.queue: deque[Output] = deque()
        self.wake = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.in_transaction = False
        topic, number = partition.topic_partition
        self.producer = make_producer(
            settings,
            transactional_id=f"koner-{settings.group}-{topic}-{number}",
            transaction_timeout_ms=int(settings.transaction_timeout_seconds * 1000),
        )

    def take(self, most: int) -> list[Output]:
        """The next outputs, at most `most`, in order."""
        return [self.queue.popleft() for _ in range(min(most, len(self.queue)))]
