"""What comes out of the worker, as any reader of its output topics sees it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from time import time
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer

from worker.records import Origin
from worker.settings import Settings
from worker.stream.connection import client_options

POLL_MILLISECONDS = 200


@dataclass(frozen=True, slots=True)
class Result:
    """One record of an output topic."""

    value: bytes
    record: dict[str, Any] | None  # None for a dead letter
    reason: str | None  # of a dead letter
    origin: Origin  # the raw record it was made of
    seconds: float  # from the raw record's timestamp until it was read here


class Results:
    """Reads the output topics from their beginning, without a group."""

    def __init__(self, settings: Settings) -> None:
        self._dead_letters = settings.dead_letter_topic
        topics = {source.output for source in settings.sources} | {settings.dead_letter_topic}
        self._consumer = AIOKafkaConsumer(
            *sorted(topics), **client_options(settings), auto_offset_reset="earliest", enable_auto_commit=False
        )

    async def start(self) -> None:
        """Connect."""
        await self._consumer.start()

    async def stop(self) -> None:
        """Disconnect."""
        await self._consumer.stop()

    async def polls(self) -> AsyncIterator[list[Result]]:
        """What has arrived since the last time, again and again; an empty list where nothing has."""
        while True:
            fetched = await self._consumer.getmany(timeout_ms=POLL_MILLISECONDS)
            now = time()
            yield [self._result(record, now) for records in fetched.values() for record in records]

    def _result(self, read: Any, now: float) -> Result:
        seconds = max(0.0, now - read.timestamp / 1000)
        if read.topic == self._dead_letters:
            headers = {name: value.decode() for name, value in read.headers}
            origin = Origin(headers["koner-topic"], int(headers["koner-partition"]), int(headers["koner-offset"]))
            return Result(read.value, None, headers["koner-reason"], origin, seconds)
        record = orjson.loads(read.value)
        return Result(read.value, record, None, Origin(**record["enrichment"]["source"]), seconds)
