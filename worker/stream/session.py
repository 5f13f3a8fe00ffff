"""One connection of the worker to Kafka, from joining the group to leaving it: source, engine, checkpoint, sink joined.

Guarantee: every record that was fetched is published as an enriched record, a dead letter or a tombstone before its
offset is committed (at least once), or in one transaction with its offset (exactly once). A session that fails is
closed and forgotten as a whole; the next one reads again from the last commit.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic, time
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from worker.contracts import Contracts, Refused
from worker.ner.engine import Engine
from worker.observe.live import Recent
from worker.observe.metrics import Metrics
from worker.observe.tracing import Tracer
from worker.settings import Settings
from worker.stream.access import check_access
from worker.stream.delivery import Deliveries, SizeLimits
from worker.stream.inference import Inference
from worker.stream.outputs import Outputs, rfc3339_now
from worker.stream.sink import Sink
from worker.stream.source import PartitionReader
from worker.stream.tasks import end_tasks
from worker.stream.topics import MissingTopics, missing
from worker.stream.transactions import TransactionalSink
from worker.stream.work import Outcome, Output, Partition, Work, raw_size

log = logging.getLogger(__name__)

PROBE_SECONDS = 2.0
PROBE_PATIENCE = 5.0
COMMIT_PATIENCE = 5.0
CLOSE_PATIENCE = 5.0
STALL_SECONDS = 10.0  # that an output topic may take for a batch before people are told


class Session:
    """Runs from `start` until `run` ends, by `stop` or by an error; then `close` it."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        inference: Inference,
        contracts: Contracts,
        metrics: Metrics,
        recent: Recent,
        *,
        limits: SizeLimits,
        tracer: Tracer | None = None,
    ) -> None:
        """`limits` holds what earlier sessions learned of the sizes that topics take."""
        self._settings = settings
        self._inference = inference
        self._contracts = contracts
        self._metrics = metrics
        self._recent = recent
        self._outputs = Outputs(settings, engine, contracts, limits)
        topics = sorted({source.output for source in settings.sources} | {settings.dead_letter_topic})
        make_sink = TransactionalSink if settings.delivery == "exactly_once" else Sink
        deliveries = Deliveries(metrics, limits, tracer)
        self._sink = make_sink(settings, metrics, topics, deliveries, on_acknowledged=self._acknowledge)
        self._source = PartitionReader(
            settings,
            metrics,
            prepare=self._sink.open,
            on_records=self._take_in,
            drain=self._drain_for_rebalance,
            forget=self._forget,
        )
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = asyncio.Event()
        self.broker_answers = False

    @property
    def assigned(self) -> bool:
        """Whether the group has given this worker its partitions (it may be none)."""
        return self._source.assigned.is_set()

    @property
    def held_up(self) -> str:
        """What keeps outputs from being published, in a line; empty while they are."""
        topic, seconds = self._sink.deliveries.slowest()
        if seconds < STALL_SECONDS:
            return ""
        return f"{topic} has not taken a batch for {seconds:.0f} s (too few in-sync replicas, or no leader?)"

    @property
    def in_flight(self) -> int:
        """Records between fetch and acknowledgement."""
        return sum(bound.records for bound in self._source.bounds.values())

    async def start(self) -> None:
        """Connect to the broker and join the group. Raises aiokafka's errors; `close` all the same."""
        await self._sink.start()
        await self._source.start()
        self.broker_answers = True

    async def run(self) -> None:
        """Work until `stop` is through. Raises whatever keeps this session from going on."""
        tasks = {
            asyncio.create_task(self._source.run(), name="source"),
            asyncio.create_task(self._sink.run(), name="sink"),
            asyncio.create_task(self._commit_regularly(), name="commit"),
            asyncio.create_task(self._probe_regularly(), name="probe"),
        }
        stopping = asyncio.create_task(self._stopping.wait(), name="stop")
        pending: set[asyncio.Task[Any]] = tasks | {stopping}
        try:
            while not stopping.done():
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            await end_tasks(tasks | {stopping})

    async def stop(self) -> None:
        """Fetch no more, finish what is in flight within the grace time, commit, and let `run` return."""
        self._source.stop_fetching()
        await self._wait_until_idle(self._settings.grace_seconds)
        if self.in_flight:
            log.warning("%d records were not finished in time; they will be read again", self.in_flight)
        await self._commit_with_patience()
        self._stopping.set()

    async def close(self) -> None:
        """Leave the group and disconnect; what is unfinished is forgotten."""
        self.broker_answers = False
        await self._source.shut()
        await self._sink.close(CLOSE_PATIENCE)
        await self._source.leave(CLOSE_PATIENCE)

    # A record's way: taken in, assembled, acknowledged.

    def _take_in(self, partition: Partition, records: Sequence[Any]) -> None:
        started = monotonic()
        source, checkpoint = partition.source, partition.checkpoint
        works: list[Work] = []
        leaving: list[Output] = []
        size = 0
        for record in records:
            size += raw_size(record)
            checkpoint.begin(record.offset)
            value = record.value
            if value is None:
                leaving += checkpoint.finish(record.offset, self._outputs.tombstone(partition, record, started))
                continue
            try:
                document = self._contracts.decode(source.kind, value, self._settings.max_text_chars)
            except Refused as refused:
                output = self._outputs.dead_letter(partition, record, started, refused.reason, refused.detail)
                leaving += checkpoint.finish(record.offset, output)
                continue
            works.append(Work(record, partition, document, started))
        self._count_in(partition, len(records), size)
        if works:
            self._inference.submit(works)
        if leaving:
            self._sink.publish(leaving)
        self._metrics.records_in.labels(source.topic).inc(len(records))
        self._metrics.bytes_in.labels(source.topic).inc(size)
        self._metrics.stage_seconds.labels("decode").observe(monotonic() - started)

    def assemble(self, works: Sequence[Work]) -> None:
        """Turn works that came back from the engine into outputs; those of forgotten partitions are thrown away."""
        started = monotonic()
        enriched_at = rfc3339_now()
        types: Counter[str] = Counter()
        leaving: list[Output] = []
        for work in works:
            partition, record = work.partition, work.record
            if partition.forgotten:
                continue
            output = self._outputs.enriched(work, enriched_at, types)
            leaving += partition.checkpoint.finish(record.offset, output)
        for name, count in types.items():
            self._metrics.entities.labels(name).inc(count)
        self._metrics.stage_seconds.labels("assemble").observe(monotonic() - started)
        if leaving:
            self._sink.publish(leaving)

    def _acknowledge(self, outputs: Sequence[Output]) -> None:
        now, clock = monotonic(), time()
        outcomes: Counter[tuple[str, Outcome, str]] = Counter()
        left: dict[Partition, list[int]] = {}  # records and bytes that leave the flight
        latencies: dict[str, list[float]] = {}
        ages: dict[str, list[float]] = {}
        for output in outputs:
            partition, record = output.partition, output.record
            if partition.forgotten:
                continue
            partition.checkpoint.acknowledge(record.offset)
            source = partition.source.topic
            leaving = left.setdefault(partition, [0, 0])
            leaving[0] += 1
            leaving[1] += raw_size(record)
            outcomes[source, output.outcome, output.reason] += 1
            latencies.setdefault(source, []).append(now - output.fetched_at)
            if output.timestamp >= 0:
                ages.setdefault(source, []).append(max(0.0, clock - output.timestamp / 1000))
            if output.outcome == "enriched" and output.value is not None:
                self._recent.add(output.value)
        for partition, (records, size) in left.items():
            self._count_out(partition, records, size)
        metrics = self._metrics
        for (source, outcome, reason), count in outcomes.items():
            metrics.records_out.labels(source, outcome).inc(count)
            if reason:
                metrics.dead_letters.labels(source, reason).inc(count)
        for source, values in latencies.items():
            metrics.latency_seconds.observe(source, values)
        for source, values in ages.items():
            metrics.end_to_end_seconds.observe(source, values)

    # What is in flight.

    def _count_in(self, partition: Partition, records: int, size: int) -> None:
        partition.records += records
        partition.bytes += size
        self._source.bounds[partition.source.lane].add(records, size)
        self._idle.clear()

    def _count_out(self, partition: Partition, records: int, size: int) -> None:
        partition.records -= records
        partition.bytes -= size
        self._source.release(partition.source.lane, records, size)
        if not self.in_flight:
            self._idle.set()

    async def _forget(self, partition: Partition) -> None:
        self._inference.discard(partition)
        await self._sink.shut(partition)
        self._count_out(partition, partition.records, partition.bytes)

    async def _wait_until_idle(self, patience: float) -> None:
        try:
            await asyncio.wait_for(self._idle.wait(), patience)
        except TimeoutError:
            log.info("%d records are still in flight after %.1f s", self.in_flight, patience)

    async def _drain_for_rebalance(self) -> None:
        await self._wait_until_idle(self._settings.drain_seconds)
        await self._commit_with_patience()

    # Offsets.

    async def _commit_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._settings.commit_interval_seconds)
            await self._commit()

    async def _commit_with_patience(self) -> None:
        try:
            await asyncio.wait_for(self._commit(), COMMIT_PATIENCE)
        except TimeoutError:
            log.warning("the last commit was not answered; records since the one before will be read again")

    async def _commit(self) -> None:
        """Commit how far each partition is acknowledged. A commit that fails is made up for by the next one.

        Under exactly once there is nothing to do here but for markers that were passed over: the offsets went with the
        outputs. A partition with work under way is left to its transactions: a commit beside one could undo its offset.
        """
        transactional = self._settings.delivery == "exactly_once"
        partitions = {
            tp: (partition, partition.checkpoint.to_commit)
            for tp, partition in self._source.partitions.items()
            if partition.checkpoint.to_commit is not None and not (transactional and partition.checkpoint.unfinished)
        }
        if not partitions:
            return
        try:
            await self._source.consumer.commit({tp: offset for tp, (_, offset) in partitions.items()})
        except (CommitFailedError, IllegalStateError) as error:
            # The group has moved on; the rebalance that follows settles what is ours.
            self._metrics.commits.labels("failed").inc()
            log.warning("a commit came too late for the group: %s", type(error).__name__)
        except KafkaError as error:
            self._metrics.commits.labels("failed").inc()
            if not error.retriable:
                raise
            log.warning("a commit failed and will be tried again: %s", type(error).__name__)
        else:
            self._metrics.commits.labels("done").inc()
            for partition, offset in partitions.values():
                partition.checkpoint.committed = offset

    # What the operator sees.

    async def _probe_regularly(self) -> None:
        while True:
            await self._probe()
            self._inference.observe()
            in_flight = self._source.bounds.values()
            self._metrics.in_flight_records.set(sum(bound.records for bound in in_flight))
            self._metrics.in_flight_bytes.set(sum(bound.bytes for bound in in_flight))
            await asyncio.sleep(PROBE_SECONDS)

    async def _probe(self) -> None:
        """Ask the broker for the ends of our partitions: tells the lag, and whether the broker answers."""
        partitions = dict(self._source.partitions)
        probed = list(partitions) or [TopicPartition(self._settings.sources[0].topic, 0)]
        try:
            async with asyncio.timeout(PROBE_PATIENCE):
                ends = await self._source.consumer.end_offsets(probed)
                reached = {tp: await self._reached(partition) for tp, partition in partitions.items()}
                await self._sink.refresh()
        except (TimeoutError, KafkaError):
            self.broker_answers = False
            await self._look_for_topics()
        else:
            self.broker_answers = True
            for tp, offset in reached.items():
                if tp in self._source.partitions:
                    lag = self._metrics.consumer_lag.labels(tp.topic, str(tp.partition))
                    seen = self._source.consumer.highwater(tp) or 0  # some brokers tell an end too low
                    lag.set(max(0, ends[tp] - offset, seen - offset))
        self._metrics.broker_up.set(self.broker_answers)

    async def _look_for_topics(self) -> None:
        """Raise where the broker answers and a topic or our access has gone: clients wait for those as for a broker."""
        with suppress(TimeoutError, OSError, KafkaError):
            async with asyncio.timeout(PROBE_PATIENCE):
                await check_access(self._settings)
                if absent := await missing(self._settings):
                    raise MissingTopics(absent)

    async def _reached(self, partition: Partition) -> int:
        reached = partition.checkpoint.reached
        return await self._source.consumer.position(partition.topic_partition) if reached is None else reached
