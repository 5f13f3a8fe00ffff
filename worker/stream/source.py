"""Where records come from: one consumer over all input topics, bounded in what it lets in flight.

Guarantees: partitions are read in offset order; what is fetched and not acknowledged never exceeds the bounds by more
than one fetch of each partition; after a rebalance nothing of an old assignment is handed on or committed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import monotonic
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from worker.observe.metrics import Metrics
from worker.settings import Settings, Source
from worker.stream.connection import client_options
from worker.stream.work import Partition

log = logging.getLogger(__name__)

RECORDS_A_POLL = 500
POLL_MILLISECONDS = 200
PASS_OVER_SECONDS = 1.0
FETCH_BYTES = 256 * 1024  # a partition's fetch; what a pause throws away and fetches again


class LaneBound:
    """What one lane has in flight, against its share of the bounds; it reopens at half of them."""

    def __init__(self, records: int, size: int) -> None:
        self._most_records, self._most_bytes = max(records, 1), max(size, 1)
        self.records = 0
        self.bytes = 0
        self.closed = False

    def add(self, records: int, size: int) -> None:
        """Count what came in (or, negative, what went out)."""
        self.records += records
        self.bytes += size
        if self.records >= self._most_records or self.bytes >= self._most_bytes:
            self.closed = True
        elif self.closed and self.records <= self._most_records // 2 and self.bytes <= self._most_bytes // 2:
            self.closed = False


class PartitionReader(ConsumerRebalanceListener):  # type: ignore[misc]
    """Reads the assigned partitions and hands their records on.

    `prepare(partitions)` is awaited before newly assigned partitions are read, and `on_records(partition, records)`
    gets what was fetched. Before partitions are given up `drain` is awaited, and then `forget(partition)` for each.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        *,
        prepare: Callable[[Sequence[Partition]], Awaitable[None]],
        on_records: Callable[[Partition, Sequence[Any]], None],
        drain: Callable[[], Awaitable[None]],
        forget: Callable[[Partition], Awaitable[None]],
    ) -> None:
        self._metrics = metrics
        self._sources: dict[str, Source] = {source.topic: source for source in settings.sources}
        self._prepare = prepare
        self._on_records = on_records
        self._drain = drain
        self._forget = forget
        self._failure: Exception | None = None  # of a rebalance callback, whose own errors the consumer only logs
        self._stopping = False
        self._next_pass_over = 0.0
        lanes: set[str] = {source.lane for source in settings.sources}
        self.bounds = {
            lane: LaneBound(settings.max_in_flight_records // len(lanes), settings.max_in_flight_bytes // len(lanes))
            for lane in lanes
        }
        self.partitions: dict[TopicPartition, Partition] = {}
        self.assigned = asyncio.Event()
        session_ms = int(settings.session_timeout_seconds * 1000)
        self.consumer = AIOKafkaConsumer(
            **client_options(settings),
            group_id=settings.group,
            group_instance_id=settings.group_instance_id,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            partition_assignment_strategy=(StickyPartitionAssignor,),
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=max(session_ms // 10, 100),
            rebalance_timeout_ms=int((settings.grace_seconds + settings.session_timeout_seconds) * 1000),
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_max_wait_ms=POLL_MILLISECONDS,
        )

    async def start(self) -> None:
        """Connect and join the group. Raises aiokafka's errors where the broker cannot be reached."""
        await self.consumer.start()
        self.consumer.subscribe(list(self._sources), listener=self)

    async def run(self) -> None:
        """Fetch until `stop`, pausing partitions whose lane is full. Raises what the consumer raises."""
        while not self._stopping:
            if self._failure is not None:
                raise self._failure
            self._pause_full_lanes()
            fetched = await self.consumer.getmany(timeout_ms=POLL_MILLISECONDS, max_records=RECORDS_A_POLL)
            # Whose records these are is settled before anything else runs: a rebalance may come between two partitions.
            owned = [(self.partitions[tp], records) for tp, records in fetched.items() if tp in self.partitions]
            for partition, records in owned:
                if not partition.forgotten:
                    self._on_records(partition, records)
                    await asyncio.sleep(0)  # a large fetch must not hold up the loop
            await self._pass_over_markers()

    def stop_fetching(self) -> None:
        """Let `run` return after the poll under way."""
        self._stopping = True

    def release(self, lane: str, records: int, size: int) -> None:
        """Note that records left the flight, and fetch their lane again if that makes room."""
        bound = self.bounds[lane]
        was_closed = bound.closed
        bound.add(-records, -size)
        if was_closed and not bound.closed and not self._stopping:
            self._resume(lane)

    async def leave(self) -> None:
        """Leave the group and disconnect."""
        self._stopping = True
        await self.consumer.stop()

    # Called by the consumer during a rebalance.

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Finish what can be finished, then forget the partitions."""
        if self.partitions:
            await self._drain()
        await self.forget_all()

    async def forget_all(self) -> None:
        """Give every partition up: nothing of it is handed on, published from the queues, or committed any more."""
        forgotten = list(self.partitions.values())
        self.partitions = {}
        self.assigned.clear()
        for partition in forgotten:
            partition.forgotten = True
        for partition in forgotten:
            await self._forget(partition)
        self._metrics.assigned_partitions.set(0)
        self._metrics.consumer_lag.clear()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Start on new partitions, each with a checkpoint of its own, where the last commit left off.

        The consumer may have asked for the committed offsets before `prepare` fenced the previous owner, whose last
        commit can have come in between: so they are asked for again. What was fetched meanwhile is fetched again too.
        """
        partitions = {tp: Partition(tp, self._sources[tp.topic]) for tp in assigned}
        try:
            await self._prepare(list(partitions.values()))
            starts = {topic_partition: await self._start_of(topic_partition) for topic_partition in partitions}
        except Exception as error:
            self._failure = error
            return
        # From here nothing is awaited: a fetch between a seek and the taking over would be lost.
        for topic_partition, offset in starts.items():
            self.consumer.seek(topic_partition, offset)
        self.partitions = partitions
        self.assigned.set()
        self._metrics.rebalances.inc()
        self._metrics.assigned_partitions.set(len(partitions))
        log.info("assigned %d partitions", len(partitions))

    async def _start_of(self, topic_partition: TopicPartition) -> int:
        """The committed offset, or the first there is."""
        committed = await self.consumer.committed(topic_partition)
        if committed is not None:
            return int(committed)
        return int((await self.consumer.beginning_offsets([topic_partition]))[topic_partition])

    async def _pass_over_markers(self) -> None:
        """Follow the consumer past a transaction's markers, which are offsets without a record.

        Only here, in the one coroutine that fetches, is it certain that everything before the position was handed on.
        """
        if monotonic() < self._next_pass_over:
            return
        self._next_pass_over = monotonic() + PASS_OVER_SECONDS
        for topic_partition, partition in list(self.partitions.items()):
            checkpoint = partition.checkpoint
            if checkpoint.position is not None and not checkpoint.unfinished:
                position = await self.consumer.position(topic_partition)
                if not partition.forgotten:
                    checkpoint.pass_over(position)

    def _pause_full_lanes(self) -> None:
        paused = self.consumer.paused()
        full = {tp for tp, partition in self.partitions.items() if self.bounds[partition.source.lane].closed}
        if full - paused:
            self.consumer.pause(*(full - paused))
        self._metrics.paused_partitions.set(len(full))

    def _resume(self, lane: str) -> None:
        paused = self.consumer.paused()
        lane_partitions = {tp for tp, partition in self.partitions.items() if partition.source.lane == lane}
        if paused & lane_partitions:
            self.consumer.resume(*(paused & lane_partitions))
