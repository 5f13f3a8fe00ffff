"""What another try would not mend ends the pipeline, with one line."""

import asyncio
from collections import deque
from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    CorruptRecordException,
    InvalidTimestampError,
    InvalidTxnState,
    KafkaStorageError,
    OutOfOrderSequenceNumber,
    ProducerFenced,
    TopicAuthorizationFailedError,
    UnknownError,
)
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.memory_records import MemoryRecords
from brokers import Produced
from faults import ending
from running import Stream, review, running

from worker.observe.metrics import Metrics
from worker.settings import SettingsError, Source
from worker.stream.delivery import Deliveries, InvalidRecordError, SizeLimits
from worker.stream.work import Output, Partition


@pytest.mark.parametrize("code", [InvalidRecordError.errno, InvalidTimestampError.errno])
async def test_a_record_that_the_broker_refuses_for_good_is_found_and_named(embedded, monkeypatch, code):
    stream = await Stream(
        embedded.bootstrap_servers, options={"session_timeout_seconds": 2.0, "idempotence": False}
    ).create(partitions=1)
    await stream.produce_reviews(Produced(review(n), key=None if n == 13 else b"k") for n in range(100))
    send = AIOKafkaClient.send

    async def send_or_refuse(client, node, request, **options):
        """Answer as a compacted topic does, which takes no batch with a record that has no key."""
        topics = dict(request._topics) if isinstance(request, ProduceRequest) else {}
        if not any(keyless(batch) for _, batch in topics.get(stream.enriched, ())):
            return await send(client, node, request, **options)
        refused = [(topic, [(number, code, -1, -1, -1) for number, _ in batches]) for topic, batches in topics.items()]
        return SimpleNamespace(API_VERSION=7, topics=refused)

    monkeypatch.setattr(AIOKafkaClient, "send", send_or_refuse)
    async with running(stream.settings()) as worker:
        line = await ending(worker, 30)
    assert f"{stream.enriched}: refuses what comes of {stream.reviews}[0] at offset 13 (" in line
    assert "nothing was skipped" in line


def keyless(batch: bytes) -> bool:
    return any(record.key is None for record in MemoryRecords(bytes(batch)).next_batch())


@pytest.mark.parametrize(
    "error",
    [
        UnknownError,
        CorruptRecordException,
        KafkaStorageError,
        InvalidTxnState,
        OutOfOrderSequenceNumber,
        ProducerFenced,
        TopicAuthorizationFailedError,
    ],
)
async def test_what_is_not_the_records_fault_is_left_to_others(error):
    partition = Partition(
        TopicPartition("reviews.raw", 0), Source(topic="reviews.raw", kind="review", output="enriched")
    )
    record = SimpleNamespace(topic="reviews.raw", partition=0, offset=7)
    output = Output("enriched", b"k", b"{}", (), 0, "enriched", partition, record, 0.0)

    class Refusing:
        def create_batch(self):
            return BatchBuilder(1_000, 0)

        async def send_batch(self, batch, topic, *, partition):
            answer = asyncio.get_running_loop().create_future()
            answer.set_exception(error())
            return answer

    deliveries = Deliveries(Metrics(), SizeLimits())
    with pytest.raises(error):
        await deliveries.send_next(Refusing(), TopicPartition("enriched", 0), deque([output]))


@pytest.mark.parametrize(
    ("options", "bound"),
    [
        ({"session_timeout_seconds": 7_200.0}, "group.max.session.timeout.ms"),
        ({"delivery": "exactly_once", "transaction_timeout_seconds": 7_200.0}, "transaction.max.timeout.ms"),
    ],
)
async def test_a_timeout_out_of_the_brokers_bounds_is_one_clear_line(kafka, options, bound):
    stream = await Stream(kafka.bootstrap_servers, options=options).create()
    async with running(stream.settings()) as worker:
        line = await ending(worker, 30)
    assert "_timeout_seconds 7200; set it " in line
    assert bound in line


async def test_a_certificate_that_cannot_be_used_is_one_clear_line():
    stream = Stream("127.0.0.1:9", options={"security_protocol": "SSL", "ssl_cafile": "nowhere.pem"})
    async with running(stream.settings()) as worker:
        with pytest.raises(SettingsError, match=r"^ssl_cafile nowhere\.pem: No such file or directory"):
            await asyncio.wait_for(worker.pipeline.wait(), 30)
