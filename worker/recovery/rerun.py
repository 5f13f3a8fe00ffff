"""One pass over ranges of a topic: reader, engine, checkpoint and sink of the data plane, joined for a bounded input.

Guarantee: each record of the ranges is published as an enriched record, a dead letter or a tombstone before the offset
after it is committed (at least once), or in one transaction with it (exactly once). Order per key is kept, and what is
in flight stays within the settings' bounds.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from worker.audit.coordinates import REPLAY_HEADER
from worker.audit.meaning import ADDED, load_json
from worker.audit.reading import RangeReader
from worker.contracts import Contracts, Reason, Refused, dead_letter_headers
from worker.ner.engine import Engine
from worker.observe.metrics import Metrics
from worker.records import Enrichment, Kind, Origin
from worker.recovery.ranges import Plan, remaining
from worker.settings import Settings, Source
from worker.stream.delivery import Deliveries, SizeLimits
from worker.stream.errors import StreamError
from worker.stream.inference import Inference
from worker.stream.outputs import RECORD_OVERHEAD, rfc3339_now
from worker.stream.pipeline import CPU_BATCH_TOKENS, CUDA_BATCH_TOKENS
from worker.stream.sink import Sink
from worker.stream.tasks import end_tasks
from worker.stream.transactions import TransactionalSink
from worker.stream.work import Headers, Outcome, Output, Partition, Work, raw_size
from worker.text.members import remove_members

PATIENCE = 5.0


class Rerun:
    """Runs a plan's remaining ranges through an engine once; `counts` says what was published."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        reader: RangeReader,
        plan: Plan,
        *,
        limits: SizeLimits,
        on_progress: Callable[[int], None],
    ) -> None:
        """`settings.group` keeps the progress. `limits` holds what topics were found to take."""
        self._settings = settings
        self._engine = engine
        self._reader = reader
        self._plan = plan
        self._limits = limits
        self._on_progress = on_progress
        self._contracts = Contracts()
        self._planned = self._ranges = remaining(plan)
        # A rerun is bulk, whatever it holds; of the source only the lane is looked at.
        kind: Kind = "review" if plan.kind == "enriched" else plan.kind
        source = Source(topic=plan.topic, kind=kind, output=plan.output, lane="bulk")
        self._partitions = {at: Partition(at, source) for at in self._ranges}
        self._outputs = {source.topic: source.output for source in settings.sources}
        self._origins: dict[tuple[int, int], tuple[Kind, Origin]] = {}  # of what is in flight
        default_tokens = CPU_BATCH_TOKENS if engine.info.device == "cpu" else CUDA_BATCH_TOKENS
        metrics = Metrics()
        self._inference = Inference(
            engine,
            metrics,
            batch_tokens=settings.batch_tokens or default_tokens,
            bulk_share=settings.bulk_share,
            on_done=self._assemble,
            on_broken=self._break,
        )
        make_sink = TransactionalSink if settings.delivery == "exactly_once" else Sink
        topics = sorted({plan.output, settings.dead_letter_topic})
        self._sink = make_sink(
            settings, metrics, topics, Deliveries(metrics, limits), on_acknowledged=self._acknowledge
        )
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._moved = asyncio.Event()
        self._records = 0  # in flight
        self._bytes = 0
        self.counts: Counter[str] = Counter()  # enriched, tombstone, skipped
        self.dead_letters: Counter[str] = Counter()  # by reason

    async def run(self) -> None:
        """Do it all. Raises what the reader, the engine or the sink raises; what was acknowledged is committed."""
        self._inference.start()
        tasks: set[asyncio.Future[Any]] = {self._broken}
        try:
            await self._sink.start()
            await self._sink.open(list(self._partitions.values()))
            await self._resume()
            feeding = asyncio.ensure_future(self._feed())
            tasks |= {feeding, *map(asyncio.ensure_future, (self._sink.run(), self._commit_regularly()))}
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await end_tasks(tasks)
            await self._close()

    async def _resume(self) -> None:
        """Begin where the last commit is, now that the sink has fenced whoever may have committed since the plan."""
        committed = await self._reader.committed(self._planned)
        self._ranges = {
            at: range(min(max(offsets.start, committed[at] or 0), offsets.stop), offsets.stop)
            for at, offsets in self._planned.items()
        }

    async def _close(self) -> None:
        await asyncio.gather(asyncio.wait_for(self._commit(), PATIENCE), return_exceptions=True)
        for partition in self._partitions.values():
            partition.forgotten = True
            await self._sink.shut(partition)
        await self._sink.close(PATIENCE)
        await self._inference.stop(PATIENCE)

    # A record's way: taken in, assembled, acknowledged.

    async def _feed(self) -> None:
        async for records in self._reader.read(self._ranges):
            partition = self._partitions[TopicPartition(records[0].topic, records[0].partition)]
            self._take_in(partition, records)
            await self._until(self._has_room)
        await self._until(lambda: not self._records)
        # Where a range ends in a transaction's markers, no record's acknowledgement leads up to its end.
        await self._reader.commit({at: offsets.stop for at, offsets in self._ranges.items()})

    def _take_in(self, partition: Partition, records: Sequence[Any]) -> None:
        started = monotonic()
        works: list[Work] = []
        leaving: list[Output] = []
        for record in records:
            partition.checkpoint.begin(record.offset)
            self._records += 1
            self._bytes += raw_size(record)
            output = self._settle(partition, record, started, works)
            if output is not None:
                leaving += partition.checkpoint.finish(record.offset, output)
        if works:
            self._inference.submit(works)
        self._publish(leaving)

    def _settle(self, partition: Partition, record: Any, started: float, works: list[Work]) -> Output | None:
        """The output of a record that needs no engine; for any other, a work is added."""
        if record.value is None:
            return self._output(self._plan.output, None, record.headers, "tombstone", partition, record, started)
        told = self._tell(record)
        if told is None:  # nobody's enriched record: it stays as it is, and nothing is published for it
            return self._output("", record.value, record.headers, "tombstone", partition, record, started)
        kind, origin = told
        try:
            document = self._contracts.decode(kind, record.value, self._settings.max_text_chars)
        except Refused as refused:
            return self._dead_letter(partition, record, started, origin, refused.reason, refused.detail)
        self._origins[record.partition, record.offset] = told
        works.append(Work(record, partition, document, started))
        return None

    def _tell(self, record: Any) -> tuple[Kind, Origin] | None:
        """What a record is, and the raw record's coordinates, which an enriched one keeps."""
        kind = self._plan.kind
        if kind != "enriched":
            return kind, Origin(record.topic, record.partition, record.offset)
        try:
            enrichment = load_json(record.value)["enrichment"]
            source = enrichment["source"]
            origin = Origin(str(source["topic"]), int(source["partition"]), int(source["offset"]))
        except (ValueError, KeyError, TypeError, OverflowError):
            return None
        if enrichment.get("kind") not in ("query", "review"):
            return None
        return enrichment["kind"], origin

    def _assemble(self, works: Sequence[Work]) -> None:
        enriched_at = rfc3339_now()
        leaving: list[Output] = []
        for work in works:
            if not work.partition.forgotten:
                output = self._enrich(work, enriched_at)
                leaving += work.partition.checkpoint.finish(work.record.offset, output)
        self._publish(leaving)

    def _enrich(self, work: Work, enriched_at: str) -> Output:
        partition, record = work.partition, work.record
        kind, origin = self._origins.pop((record.partition, record.offset))
        if work.error is not None or work.encoded is None:
            return self._dead_letter(partition, record, work.fetched_at, origin, "model_error", str(work.error))
        info, topic = self._engine.info, self._plan.output
        enrichment = Enrichment(kind, info.name, info.revision, info.taxonomy)
        try:
            entities = self._engine.assemble(work.encoded, work.spans)
            value = self._contracts.encode(work.document, entities, enrichment, origin, enriched_at)
        except Exception as error:  # whatever it is, it concerns this one text
            detail = f"assembling the spans raised {type(error).__name__}"
            return self._dead_letter(partition, record, work.fetched_at, origin, "model_error", detail)
        output = self._output(topic, value, record.headers, "enriched", partition, record, work.fetched_at)
        limit = min(self._settings.max_publish_bytes - RECORD_OVERHEAD, self._limits.record(topic))
        if output.size > limit:
            detail = f"{output.size} bytes enriched, {topic} takes {limit}"
            return self._dead_letter(partition, record, work.fetched_at, origin, "too_large_to_publish", detail)
        return output

    def _dead_letter(
        self, partition: Partition, record: Any, fetched_at: float, origin: Origin, reason: Reason, detail: str
    ) -> Output:
        headers = [
            *record.headers,
            *dead_letter_headers(reason, detail, origin, rfc3339_now()),
        ]
        if self._outputs.get(origin.topic) != self._plan.output:  # not what a worker would publish: verify tells it so
            headers.append((REPLAY_HEADER, self._settings.group.encode()))
        topic, value = self._settings.dead_letter_topic, record.value
        if self._plan.kind == "enriched":  # a dead letter is a raw record, so that it can be sent back among them
            value = remove_members(value, ADDED)
        return self._output(topic, value, headers, "dead_letter", partition, record, fetched_at, reason)

    @staticmethod
    def _output(
        topic: str,
        value: bytes | None,
        headers: Headers,
        outcome: Outcome,
        partition: Partition,
        record: Any,
        fetched_at: float,
        reason: str = "",
    ) -> Output:
        return Output(
            topic, record.key, value, headers, record.timestamp, outcome, partition, record, fetched_at, reason
        )

    def _publish(self, outputs: Sequence[Output]) -> None:
        skipped = [output for output in outputs if not output.topic]
        published = [output for output in outputs if output.topic]
        if published:
            self._sink.publish(published)
        if skipped:
            self._acknowledge(skipped)

    def _acknowledge(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            if output.partition.forgotten:
                continue
            output.partition.checkpoint.acknowledge(output.record.offset)
            self._records -= 1
            self._bytes -= raw_size(output.record)
            if output.reason:
                self.dead_letters[output.reason] += 1
            else:
                self.counts[output.outcome if output.topic else "skipped"] += 1
        self._moved.set()
        self._on_progress(
            sum(
                (partition.checkpoint.position or self._ranges[at].start) - self._planned[at].start
                for at, partition in self._partitions.items()
            )
        )

    # Bounds, progress, failure.

    def _has_room(self) -> bool:
        settings = self._settings
        return self._records < settings.max_in_flight_records and self._bytes < settings.max_in_flight_bytes

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._moved.clear()
            await self._moved.wait()
        await asyncio.sleep(0)

    async def _commit_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._settings.commit_interval_seconds)
            await self._commit()

    async def _commit(self) -> None:
        """Commit how far each partition is acknowledged.

        Not under exactly once: there it goes with the outputs, and a commit beside a transaction could undo its offset.
        """
        if self._settings.delivery == "exactly_once":
            return
        offsets = {
            at: partition.checkpoint.to_commit
            for at, partition in self._partitions.items()
            if partition.checkpoint.to_commit is not None
        }
        if not offsets:
            return
        try:
            await self._reader.commit(offsets)
        except KafkaError as error:
            if not error.retriable:
                raise
            return
        for at, offset in offsets.items():
            self._partitions[at].checkpoint.committed = offset

    def _break(self, error: StreamError) -> None:
        if not self._broken.done():
            self._broken.set_exception(error)
