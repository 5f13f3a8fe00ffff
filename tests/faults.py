"""What the tests of faults share: streams in both delivery modes, the work they do, and the proof that all came out."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from brokers import Produced
from fake_engine import FakeEngine
from running import Running, Stream, review, running

from worker.audit.check import audit
from worker.audit.report import Report
from worker.stream.errors import StreamError

MODES = ("at_least_once", "exactly_once")


async def both_modes(bootstrap_servers: str, **options: Any) -> list[Stream]:
    """A stream in each delivery mode, with topics of its own."""
    return [
        await Stream(
            bootstrap_servers, options={"delivery": delivery, "session_timeout_seconds": 2.0, **options}
        ).create()
        for delivery in MODES
    ]


def reviews(count: int, text: str = "이병헌 나온 영화") -> list[Produced]:
    return [Produced(review(number, text), key=b"%d" % (number % 20)) for number in range(count)]


def slow_engine(seconds: float = 0.02) -> FakeEngine:
    """An engine that takes its time over every batch, so that there is a middle of the work to do harm in."""
    return FakeEngine(on_forward=lambda windows: time.sleep(seconds))


@asynccontextmanager
async def at_work(
    streams: Sequence[Stream], make_engine: Callable[[], FakeEngine] = slow_engine, **options: Any
) -> AsyncIterator[list[Running]]:
    """A worker on each stream, with small batches."""
    async with AsyncExitStack() as stack:
        settings = [stream.settings(batch_tokens=64, **options) for stream in streams]
        yield [await stack.enter_async_context(running(one, make_engine())) for one in settings]


async def until_out(workers: Sequence[Running], count: int) -> None:
    for worker in workers:
        await worker.until(lambda worker=worker: worker.value("koner_records_out_total") >= count)


async def until_told(workers: Sequence[Running], part: str, timeout: float = 60.0) -> None:
    """Wait until `/ready` of each worker would say `part`."""
    for worker in workers:
        told = lambda worker=worker: any(part in line for line in worker.pipeline.status().problems)  # noqa: E731
        await worker.until(told, timeout)


async def committed(stream: Stream) -> tuple[int, int]:
    """How many raw records the group has committed, and how many there are."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=stream.bootstrap_servers, group_id=stream.settings().group, enable_auto_commit=False
    )
    await consumer.start()
    try:
        await consumer._client.force_metadata_update()
        found = [
            TopicPartition(topic, number)
            for topic in (stream.queries, stream.reviews)
            for number in await consumer._client._wait_on_metadata(topic)
        ]
        ends = await consumer.end_offsets(found)
        return sum([await consumer.committed(partition) or 0 for partition in found]), sum(ends.values())
    finally:
        await consumer.stop()


async def until_committed(streams: Sequence[Stream], timeout: float = 60.0) -> None:
    """Wait until the group of each stream has committed every raw record."""
    async with asyncio.timeout(timeout):
        for stream in streams:
            while True:
                done, end = await committed(stream)
                if done == end:
                    break
                await asyncio.sleep(0.1)


async def assert_all_came_out(streams: Sequence[Stream], raw: int, **counts: int) -> list[Report]:
    """Nothing lost, changed or out of order, and under exactly once nothing doubled: what `koner verify` looks for."""
    reports = []
    for stream in streams:
        report = await audit(stream.settings(), everything=True)
        assert report.clean, report.as_json()
        assert report.counts["raw"] == raw
        for name, count in counts.items():
            assert report.counts[name] == count, (name, report.counts)
        reports.append(report)
    return reports


async def ending(worker: Running, timeout: float = 60.0) -> str:
    """The line that a worker which cannot go on ends with."""
    with pytest.raises(StreamError) as told:
        await asyncio.wait_for(worker.pipeline.wait(), timeout)
    assert "\n" not in str(told.value)
    return str(told.value)


async def configure(bootstrap_servers: str, topic: str, **configs: str) -> None:
    """Set a topic's configuration."""
    async with administrator(bootstrap_servers) as admin:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])


@asynccontextmanager
async def administrator(bootstrap_servers: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()
