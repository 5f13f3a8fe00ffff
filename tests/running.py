"""A pipeline under test: topics of its own, records to feed it, and what came out."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from brokers import Produced, Record, create_topics, produce, read_topic
from fake_engine import FakeEngine

from worker.observe.live import Recent
from worker.observe.metrics import Metrics
from worker.settings import Settings, load
from worker.stream.pipeline import Pipeline

PARTITIONS = 3


@dataclass
class Stream:
    """The topics and settings of one test."""

    bootstrap_servers: str
    name: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def queries(self) -> str:
        return f"{self.name}.queries"

    @property
    def reviews(self) -> str:
        return f"{self.name}.reviews"

    @property
    def enriched(self) -> str:
        return f"{self.name}.enriched"

    @property
    def dead_letters(self) -> str:
        return f"{self.name}.dead-letters"

    def settings(self, **options: Any) -> Settings:
        given = {
            "bootstrap_servers": self.bootstrap_servers,
            "group": f"{self.name}.group",
            "sources": [
                {"topic": self.queries, "kind": "query", "output": self.enriched},
                {"topic": self.reviews, "kind": "review", "output": self.enriched},
            ],
            "dead_letter_topic": self.dead_letters,
            "commit_interval_seconds": 0.1,
            "drain_seconds": 2.0,
            "session_timeout_seconds": 10.0,
            "transaction_seconds": 0.02,
        }
        return load(**{**given, **self.options, **options})

    async def create(self, partitions: int = PARTITIONS) -> "Stream":
        topics = (self.queries, self.reviews, self.enriched, self.dead_letters)
        await create_topics(self.bootstrap_servers, *topics, partitions=partitions)
        return self

    async def produce_reviews(self, records: Iterable[Produced]) -> list[Record]:
        return await produce(self.bootstrap_servers, self.reviews, records)

    async def produce_queries(self, records: Iterable[Produced]) -> list[Record]:
        return await produce(self.bootstrap_servers, self.queries, records)

    async def read_enriched(self, count: int | None = None) -> list[Record]:
        return await self._read(self.enriched, count)

    async def read_dead_letters(self, count: int | None = None) -> list[Record]:
        return await self._read(self.dead_letters, count)

    async def _read(self, topic: str, count: int | None) -> list[Record]:
        transactional = self.options.get("delivery") == "exactly_once"
        level = "read_committed" if transactional else "read_uncommitted"
        return await read_topic(self.bootstrap_servers, topic, isolation_level=level, count=count)


@dataclass
class Running:
    """A pipeline at work."""

    pipeline: Pipeline
    engine: FakeEngine
    metrics: Metrics

    def value(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry `labels`."""
        return sum(
            sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def until(self, condition: Callable[[], bool], timeout: float = 30.0) -> None:
        """Wait until `condition` holds."""
        async with asyncio.timeout(timeout):
            while not condition():
                await asyncio.sleep(0.01)

    async def until_ready(self) -> None:
        await self.until(lambda: self.pipeline.status().ready)


@asynccontextmanager
async def running(settings: Settings, engine: FakeEngine | None = None) -> AsyncIterator[Running]:
    """Run a pipeline for the length of the context; leaving it stops it as SIGTERM does."""
    engine = engine or FakeEngine()
    metrics = Metrics()
    pipeline = Pipeline(settings, engine, metrics, Recent())
    await pipeline.start()
    try:
        yield Running(pipeline, engine, metrics)
    finally:
        engine.gate.set()
        await pipeline.stop()


def review(number: int, text: str = "이병헌 나온 영화", **fields: Any) -> bytes:
    return json.dumps({"review_id": str(number), "text": text, **fields}, ensure_ascii=False).encode()


def query(number: int, text: str = "송강호 기생충", **fields: Any) -> bytes:
    return json.dumps({"query_id": str(number), "text": text, **fields}, ensure_ascii=False).encode()


def source_of(record: Record) -> tuple[str, int, int]:
    """The coordinates of the raw record that an output record was made from."""
    headers = dict(record.headers)
    if "koner-topic" in headers:
        return headers["koner-topic"].decode(), int(headers["koner-partition"]), int(headers["koner-offset"])
    source = json.loads(record.value)["enrichment"]["source"]
    return source["topic"], source["partition"], source["offset"]


def coordinates(record: Record) -> tuple[str, int, int]:
    return record.topic, record.partition, record.offset


def assert_order_per_key(outputs: Iterable[Record]) -> None:
    """First appearances of each input partition's records keep their offset order within each output partition."""
    newest: dict[Any, int] = {}
    seen: set[tuple[str, int, int]] = set()
    for output in outputs:
        topic, partition, offset = source_of(output)
        if (topic, partition, offset) in seen:
            continue
        seen.add((topic, partition, offset))
        place = (output.topic, output.partition, output.key, topic, partition)
        assert newest.get(place, -1) < offset, f"{topic}[{partition}]@{offset} came late"
        newest[place] = offset
