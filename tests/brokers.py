"""What tests do with a broker, embedded or real: make topics, produce raw records, read a topic to its end."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

Header = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class Produced:
    """A record to produce."""

    value: bytes | None
    key: bytes | None = None
    headers: tuple[Header, ...] = ()
    timestamp_ms: int | None = None
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it lies in a topic."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
    timestamp_ms: int


async def create_topics(bootstrap_servers: str, *names: str, partitions: int = 1, **configs: str) -> None:
    """Create topics with one replica; returns once every partition has a leader."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    try:
        topics = [NewTopic(name, partitions, 1, topic_configs=configs) for name in names]
        response = await admin.create_topics(topics)
        failed = [error for error in response.topic_errors if error[1] != 0]
        assert not failed, failed
        while not await _have_leaders(admin, names, partitions):
            await asyncio.sleep(0.02)
    finally:
        await admin.close()


async def _have_leaders(admin: AIOKafkaAdminClient, names: Sequence[str], partitions: int) -> bool:
    described = await admin.describe_topics(list(names))
    return all(
        topic["error_code"] == 0
        and len(topic["partitions"]) == partitions
        and all(partition["leader"] >= 0 for partition in topic["partitions"])
        for topic in described
    )


async def produce(bootstrap_servers: str, topic: str, records: Iterable[Produced]) -> list[Record]:
    """Produce records in order, all acknowledged; return them with their coordinates."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, linger_ms=5, acks="all")
    await producer.start()
    try:
        sent = [
            (
                record,
                await producer.send(
                    topic,
                    record.value,
                    key=record.key,
                    partition=record.partition,
                    timestamp_ms=record.timestamp_ms,
                    headers=list(record.headers),
                ),
            )
            for record in records
        ]
        await producer.flush()
        acknowledged = [(record, await future) for record, future in sent]
    finally:
        await producer.stop()
    return [
        Record(
            topic,
            at.partition,
            at.offset,
            record.key,
            record.value,
            record.headers,
            # What is acknowledged is the first timestamp of a batch: a record's own is known only where it was given.
            at.timestamp if record.timestamp_ms is None else record.timestamp_ms,
        )
        for record, at in acknowledged
    ]


class _NoUtf8:
    """A header's name that comes out as bytes which are no UTF-8; other clients than aiokafka send what they get."""

    def encode(self, _encoding: str) -> bytes:
        return b"\xff"


async def produce_unreadable(bootstrap_servers: str, topic: str, *, partition: int, before: Sequence[bytes]) -> range:
    """Produce a batch of `before`, a record whose header's name is not UTF-8, and one more; returns their offsets."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, acks="all")
    await producer.start()
    try:
        batch = producer.create_batch()
        # Only aiokafka's builder in Python takes such a name.
        batch._builder = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, 0, 1_000_000)
        for value in before:
            batch.append(key=None, value=value, timestamp=None)
        batch.append(key=None, value=b"{}", timestamp=None, headers=[(_NoUtf8(), b"")])
        batch.append(key=None, value=b"{}", timestamp=None)
        at = await (await producer.send_batch(batch, topic, partition=partition))
    finally:
        await producer.stop()
    return range(at.offset + len(before), at.offset + len(before) + 2)


async def read_topic(
    bootstrap_servers: str,
    topic: str,
    *,
    isolation_level: Literal["read_uncommitted", "read_committed"] = "read_uncommitted",
    count: int | None = None,
    timeout: float = 30.0,
) -> list[Record]:
    """Read a topic from its start to its end, in order of partition and offset.

    The end is the high watermark that fetches tell, since the embedded broker's `end_offsets` are wrong; for committed
    records it is the last stable offset, where an open transaction begins. Where `count` is given, wait until
    there are as many records. Raises `TimeoutError`, which tells how many there were.
    """
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap_servers,
        isolation_level=isolation_level,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        fetch_max_wait_ms=50,
    )
    found: list[Record] = []
    await consumer.start()
    try:
        async with asyncio.timeout(timeout):
            partitions = [TopicPartition(topic, number) for number in sorted(await _partitions(consumer, topic))]
            consumer.assign(partitions)
            await consumer.seek_to_beginning(*partitions)
            end = consumer.last_stable_offset if isolation_level == "read_committed" else consumer.highwater
            while not await _at_end(consumer, partitions, end) or (count is not None and len(found) < count):
                batches = await consumer.getmany(timeout_ms=50)
                found.extend(_record(message) for batch in batches.values() for message in batch)
    except TimeoutError:
        raise TimeoutError(f"{topic}: {len(found)} records after {timeout} s, {count} expected") from None
    finally:
        await consumer.stop()
    return sorted(found, key=lambda record: (record.partition, record.offset))


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    while not (numbers := consumer.partitions_for_topic(topic)):
        await consumer._client.force_metadata_update()
        if topic not in await consumer.topics():
            raise AssertionError(f"there is no topic {topic}")
    return numbers


async def _at_end(
    consumer: AIOKafkaConsumer,
    partitions: Sequence[TopicPartition],
    end_of: Callable[[TopicPartition], int | None],
) -> bool:
    for partition in partitions:
        end = end_of(partition)
        if end is None or await consumer.position(partition) < end:
            return False
    return True


def _record(message) -> Record:
    return Record(
        message.topic,
        message.partition,
        message.offset,
        message.key,
        message.value,
        tuple((name, value) for name, value in message.headers),
        message.timestamp,
    )
