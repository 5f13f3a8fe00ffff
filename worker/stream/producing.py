"""What every way of producing shares: the output partition of a record, how a producer is made, how it ends."""

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.partitioner import murmur2

from worker.settings import Settings
from worker.stream.connection import client_options
from worker.stream.work import Output

BATCH_BYTES = 256 * 1024
METADATA_MILLISECONDS = 30_000  # in which a topic's new partitions are noticed
REQUEST_TIMEOUT_MILLISECONDS = 30_000
_positive_murmur2 = lru_cache(maxsize=16_384)(lambda key: murmur2(key) & 0x7FFFFFFF)


def partition_for(key: bytes | None, input_partition: int, partitions: int) -> int:
    """The output partition of a record, as Kafka's own producers choose it for a key (murmur2).

    A record without a key follows its input partition, which keeps the order of those too.
    """
    if key is None:
        return input_partition % partitions
    return int(_positive_murmur2(key)) % partitions


class Router:
    """Knows how many partitions each output topic has, and so where an output goes."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    async def learn(self, producer: AIOKafkaProducer, topics: Sequence[str]) -> None:
        """Ask the broker for the partitions of `topics`."""
        for topic in topics:
            self._counts[topic] = len(await producer.partitions_for(topic))

    def destination(self, output: Output) -> TopicPartition:
        """The topic and partition that `output` is written to."""
        partition = partition_for(output.key, output.record.partition, self._counts[output.topic])
        return TopicPartition(output.topic, partition)


def make_producer(settings: Settings, **options: Any) -> AIOKafkaProducer:
    """A producer that waits for every replica and batches up to 256 KiB."""
    return AIOKafkaProducer(
        **client_options(settings),
        acks="all",
        compression_type=None if settings.compression == "none" else settings.compression,
        max_batch_size=min(BATCH_BYTES, settings.max_publish_bytes),
        max_request_size=settings.max_publish_bytes,
        metadata_max_age_ms=METADATA_MILLISECONDS,
        request_timeout_ms=REQUEST_TIMEOUT_MILLISECONDS,
        **options,
    )


async def end_producer(producer: AIOKafkaProducer, patience: float) -> None:
    """Disconnect, giving what is under way `patience` seconds."""
    stopping = asyncio.ensure_future(producer.stop())
    done, _ = await asyncio.wait([stopping], timeout=patience)
    if not done:
        # A producer flushes before it stops, for ever if the broker is away: take its connections away first.
        await producer.client.close()
        sender_task = producer._sender.sender_task
        if sender_task is not None:
            sender_task.cancel()
        await asyncio.wait([stopping], timeout=patience)
        stopping.cancel()
        done, _ = await asyncio.wait([stopping], timeout=patience)
    if done and not stopping.cancelled():
        stopping.exception()  # heard: what is unsent is read again
