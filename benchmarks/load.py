"""What the benchmarks share: texts, topics filled with them, and the worker's own pipeline timed on such a topic."""

import asyncio
import gzip
import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from time import monotonic, process_time

from aiokafka import AIOKafkaProducer

from worker.demo.feed import samples
from worker.ner.engine import Engine
from worker.observe.live import Recent
from worker.observe.metrics import Metrics
from worker.settings import Settings, Source, load
from worker.stream import topics
from worker.stream.pipeline import Pipeline

PATIENCE_SECONDS = 1800


@dataclass(frozen=True, slots=True)
class Timing:
    """One run over a filled topic: from the first record fetched to the last result acknowledged."""

    records: int
    seconds: float
    cpu_seconds: float  # of this process

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records / self.seconds


def read_texts(path: Path | None, count: int) -> list[str]:
    """`count` texts of a file of JSON lines with `text` (gzipped or not), or of the demo's samples, over and over."""
    found = list(islice(_texts(path), count)) if path else [json.loads(sample.value)["text"] for sample in samples()]
    if not found:
        raise SystemExit(f"{path}: no line has a text")
    return list(islice(cycle(found), count))


def _texts(path: Path) -> Iterator[str]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def review(number: int, text: str) -> bytes:
    """A raw review of a text."""
    record = {"review_id": f"{number:08}", "movie_id": f"{number % 997:05}", "rating": number % 10 + 1, "text": text}
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()


async def fill(brokers: str, partitions: int, values: Sequence[bytes]) -> Settings:
    """Make a raw, an output and a dead-letter topic, put `values` in the raw one; returns settings for them."""
    name = f"bench-{uuid.uuid4().hex[:8]}"
    settings = load(
        bootstrap_servers=brokers,
        group=f"{name}-group",
        sources=(Source(topic=f"{name}.raw", kind="review", output=f"{name}.enriched", lane="bulk"),),
        dead_letter_topic=f"{name}.dead-letters",
    )
    await topics.create(settings, partitions=partitions, replication=1)
    async with AIOKafkaProducer(bootstrap_servers=brokers, linger_ms=20, max_batch_size=262_144) as producer:
        for start in range(0, len(values), 5_000):
            chunk = values[start : start + 5_000]
            partition = start // 5_000 % partitions
            await asyncio.gather(
                *[
                    await producer.send(f"{name}.raw", value, partition=(partition + number) % partitions)
                    for number, value in enumerate(chunk)
                ]
            )
    return settings


async def time_pipeline(settings: Settings, engine: Engine, count: int) -> Timing:
    """Run the worker's pipeline over a filled topic until every record is acknowledged."""
    metrics = Metrics()
    topic = settings.sources[0].topic
    fetched = metrics.records_in.labels(topic)
    pipeline = Pipeline(settings, engine, metrics, Recent(0))
    await pipeline.start()
    ended = asyncio.create_task(pipeline.wait())
    started, cpu = None, 0.0
    deadline = monotonic() + PATIENCE_SECONDS
    try:
        while (done := _acknowledged(metrics)) < count:
            if ended.done():
                ended.result()
                raise SystemExit(f"the pipeline ended after {done} of {count} records")
            if monotonic() > deadline:
                raise SystemExit(f"only {done} of {count} records after {PATIENCE_SECONDS} s: {pipeline.status()}")
            if started is None and fetched._value.get() > 0:
                started, cpu = monotonic(), process_time()
            await asyncio.sleep(0.002)
        now = monotonic()
        return Timing(count, now - (started or now), process_time() - cpu)
    finally:
        await pipeline.stop()
        await asyncio.gather(ended, return_exceptions=True)


def _acknowledged(metrics: Metrics) -> float:
    return sum(
        sample.value
        for family in metrics.records_out.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    )
