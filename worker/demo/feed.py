"""The sample records that ship with the package, and how they get onto the raw topics."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import cycle, islice

import orjson
from aiokafka import AIOKafkaProducer

from worker.records import Kind
from worker.settings import Settings
from worker.stream.connection import client_options

SENT_TOGETHER = 200  # records whose acknowledgements are awaited at once


@dataclass(frozen=True, slots=True)
class Sample:
    """A raw record: the kind of its source, its key, and its value as it is sent."""

    kind: Kind
    key: bytes
    value: bytes


def samples() -> list[Sample]:
    """Every sample once: the queries spread evenly among the reviews. Reviews of a film share a key."""
    reviews = list(_read("reviews.jsonl", "review", "movie_id"))
    queries = list(_read("queries.jsonl", "query", "query_id"))
    placed = [((number + 0.5) / len(kind), sample) for kind in (reviews, queries) for number, sample in enumerate(kind)]
    return [sample for _, sample in sorted(placed, key=lambda pair: pair[0])]


def _read(name: str, kind: Kind, key: str) -> Iterator[Sample]:
    for line in (files("worker.demo") / "samples" / name).read_bytes().splitlines():
        yield Sample(kind, orjson.loads(line)[key].encode(), line)


async def feed(settings: Settings, records: Sequence[Sample], count: int, room: asyncio.Semaphore) -> None:
    """Send `count` records, starting over at the end of them; each takes one of `room`'s places before it goes."""
    topics = {source.kind: source.topic for source in settings.sources}
    async with AIOKafkaProducer(**client_options(settings), enable_idempotence=False, linger_ms=5) as producer:
        sent: list[asyncio.Future[object]] = []
        for record in islice(cycle(records), count):
            await room.acquire()
            sent.append(await producer.send(topics[record.kind], record.value, record.key))
            if len(sent) == SENT_TOGETHER:
                await asyncio.gather(*sent)
                sent.clear()
        await asyncio.gather(*sent)
