"""Where records come from: one consumer over all input topics, bounded in what it lets in flight.

Guarantees: partitions are read in offset order; what is fetched and not acknowledged never exceeds the bounds by more
than one fetch of each partition; after a rebalance nothing of an old assignment is handed on or committed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError

from worker.observe.metrics import Metrics
from worker.settings import Settings, Source
from worker.stream.connection import client_options
from worker.stream.errors import StreamError
from worker.stream.tasks import end_tasks
from worker.stream.unreadable import unreadable
from worker.stream.work import Partition

log = logging.getLogger(__name__)

RECORDS_A_POLL = 500
POLL_MILLISECONDS = 200
PASS_OVER_SECONDS = 1.0
METADATA_MILLISECONDS = 30_000  # in which a topic's new partitions are noticed
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
        self._group = settings.group
        self._lost_offsets = settings.lost_offsets
        self._prepare = prepare
        self._on_records = on_records
        self._drain = drain
        self._forget = forget
        self._failure: Exception | None = None  # of taking up partitions, which nobody else would hear of
        self._stopping = False
        self._shut = False
        self._taking_up: asyncio.Task[None] | None = None
        self._candidates: list[Partition] = []  # that are being taken up
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
            auto_offset_reset="none",  # where to begin is decided in `_start_of`, not behind our back
            metadata_max_age_ms=METADATA_MILLISECONDS,
            isolation_level="read_committed",
            partition_assignment_strategy=(RoundRobinPartitionAssignor,),
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
        """Fetch until `stop`, pausing partitions whose lane is full.

        Raises what the consumer raises, and `StreamError` at a record that cannot be read or was lost.
        """
        while not self._stopping:
            if self._failure is not None:
                raise self._failure
            if not await self._is_assigned():
                continue
            self._pause_full_lanes()
            try:
                fetched = await self.consumer.getmany(timeout_ms=POLL_MILLISECONDS, max_records=RECORDS_A_POLL)
            except NoOffsetForPartitionError:
                if self.assigned.is_set():
                    raise
                continue  # an assignment is being taken up, and will say where to begin
            except OffsetOutOfRangeError as error:
                await self._drain()  # what is at hand already is not lost
                await self._settle_out_of_range(error.args[0])
                raise
            except UnicodeDecodeError as error:
                await self._stop_before(*unreadable(error))
                continue  # it moves to another worker, and so does everything that was fetched
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

    async def leave(self, patience: float) -> None:
        """Leave the group and disconnect, in `patience` seconds; then without saying goodbye.

        The client can swallow a cancellation while it waits for a broker that does not take it back, so that nothing
        here waits for it without an end.
        """
        self._stopping = True
        leaving = asyncio.ensure_future(self.consumer.stop())
        done, _ = await asyncio.wait([leaving], timeout=patience)
        if not done:
            await self.consumer._client.close()
            leaving.cancel()
            done, _ = await asyncio.wait([leaving], timeout=patience)
        error = leaving.exception() if done and not leaving.cancelled() else None
        if not done or leaving.cancelled() or error is not None:
            log.warning("left the group without saying goodbye: %s", type(error).__name__ if error else "no answer")

    # Called by the consumer during a rebalance.

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Finish what can be finished, then forget the partitions."""
        if self.partitions:
            await self._drain()
        await self.forget_all()

    async def shut(self) -> None:
        """Give every partition up, and take up no more."""
        self._shut = True
        await self.forget_all()

    async def forget_all(self) -> None:
        """Give every partition up: nothing of it is handed on, published from the queues, or committed any more."""
        taking_up, self._taking_up = self._taking_up, None
        forgotten = [*self.partitions.values(), *self._candidates]
        self.partitions, self._candidates = {}, []
        self.assigned.clear()
        for partition in forgotten:
            partition.forgotten = True
        if taking_up is not None:
            await end_tasks([taking_up])
        await asyncio.gather(*(self._forget(partition) for partition in forgotten))
        self._metrics.assigned_partitions.set(0)
        self._metrics.consumer_lag.clear()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Start on new partitions, in a task of its own: the consumer sends no heartbeat before this returns."""
        if self._shut:
            return
        self._candidates = [Partition(tp, self._sources[tp.topic]) for tp in assigned]
        self._taking_up = asyncio.create_task(self._take_up(self._candidates), name="take up")

    async def _take_up(self, candidates: list[Partition]) -> None:
        """Start on partitions, each with a checkpoint of its own, where the last commit left off.

        The consumer may have asked for the committed offsets before `prepare` fenced the previous owner, whose last
        commit can have come in between: so they are asked for again. What was fetched meanwhile is fetched again too.
        """
        try:
            await self._prepare(candidates)
            starts = await asyncio.gather(*(self._start_of(partition) for partition in candidates))
            if any(partition.forgotten for partition in candidates):  # cancelled, but the cancellation was let pass
                return
            # From here nothing is awaited: a fetch between a seek and the taking over would be lost.
            for partition, offset in zip(candidates, starts, strict=True):
                self.consumer.seek(partition.topic_partition, offset)
        except Exception as error:
            self._failure = error
            return
        partitions = {partition.topic_partition: partition for partition in candidates}
        self.partitions, self._candidates, self._taking_up = partitions, [], None
        self.assigned.set()
        self._metrics.rebalances.inc()
        self._metrics.assigned_partitions.set(len(partitions))
        log.info("assigned %d partitions", len(partitions))

    async def _is_assigned(self) -> bool:
        """Wait a moment for partitions; what is fetched before they are taken up would be fetched for nothing."""
        try:
            await asyncio.wait_for(self.assigned.wait(), POLL_MILLISECONDS / 1000)
        except TimeoutError:
            # The client keeps to itself that the group does not take this worker, until it is asked.
            self.consumer._coordinator.check_errors()
            return False
        return True

    async def _start_of(self, partition: Partition) -> int:
        """The committed offset, or the first there is; `StreamError` where the broker deleted what lies between."""
        tp = partition.topic_partition
        committed = await self.consumer.committed(tp)
        first = await self._first(tp)
        if committed is None:
            return first
        if committed >= first:
            return int(committed)
        self._go_on_or_stop(tp, committed, f"{first - committed} records were deleted before they were read", first)
        self._metrics.lost_records.labels(tp.topic).inc(first - committed)
        partition.checkpoint.pass_over(first)
        return first

    async def _settle_out_of_range(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Deal with positions that the broker does not have; those before its first are settled by `_start_of`."""
        for tp, offset in offsets.items():
            first = await self._first(tp)
            if offset >= first:
                what = "the broker's partition ends before that, as if the topic had been deleted and made again"
                self._go_on_or_stop(tp, offset, what, first)
                await self.consumer.commit({tp: first})

    def _go_on_or_stop(self, tp: TopicPartition, offset: int, what: str, first: int) -> None:
        line = f"{tp.topic}[{tp.partition}]: the group {self._group} stands at {offset}, and {what}"
        if self._lost_offsets == "stop":
            raise StreamError(f"{line}; set lost_offsets to continue to go on at {first}")
        log.error("%s; going on at %d", line, first)

    async def _stop_before(self, tp: TopicPartition, offsets: range) -> None:
        """Finish the records before offsets that cannot be read, so that whoever moves the group on skips only these.

        Raises `StreamError`, which says where they lie. Returns where their partition is given up meanwhile.
        """
        partition = self.partitions.get(tp)
        if partition is None:
            return
        while not partition.forgotten and await self.consumer.position(tp) < offsets.start:
            try:
                fetched = await self.consumer.getmany(tp, timeout_ms=POLL_MILLISECONDS, max_records=1)
            except UnicodeDecodeError:
                break  # the offsets up to there hold no record
            if tp in fetched and not partition.forgotten:
                self._on_records(partition, fetched[tp])
        await self._drain()
        while partition.records and not partition.forgotten:
            await asyncio.sleep(POLL_MILLISECONDS / 1000)
            await self._drain()
        if partition.forgotten:
            return
        raise StreamError(
            f"{tp.topic}[{tp.partition}]: offsets {offsets.start} to {offsets.stop - 1} cannot be read, since the name "
            "of a header in this batch is not UTF-8; all before them is done. Look at them, stop the workers and move "
            f"the group past them: kafka-consumer-groups --group {self._group} --topic {tp.topic}:{tp.partition} "
            f"--reset-offsets --to-offset {offsets.stop} --execute"
        ) from None

    async def _first(self, tp: TopicPartition) -> int:
        return int((await self.consumer.beginning_offsets([tp]))[tp])

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
