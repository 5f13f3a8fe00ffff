"""The audit of real topics: what a worker did on either broker, and what somebody did to it afterwards."""

import asyncio
import os
import signal
import time
from dataclasses import replace

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from audit_records import faults
from brokers import Produced, produce, produce_unreadable
from fake_engine import POISON, FakeEngine
from running import Stream, query, review, running

from worker.audit import reading
from worker.audit.check import audit
from worker.audit.reading import ReadingError
from worker.demo.broker import EmbeddedBroker
from worker.records import Origin

STAMP = int(time.time() - 3_600) * 1000  # recent: a broker deletes what is past its retention
REAL = (pytest.mark.kafka, pytest.mark.xdist_group("kafka"))
BROKERS = [
    pytest.param(("embedded", "at_least_once"), id="embedded"),
    pytest.param(("kafka", "at_least_once"), id="kafka", marks=REAL),
    pytest.param(("kafka", "exactly_once"), id="kafka-exactly-once", marks=REAL),
]


def _stream(request: pytest.FixtureRequest, broker: str, delivery: str) -> Stream:
    address = request.getfixturevalue(broker).bootstrap_servers
    options = {"delivery": delivery, "idempotence": broker == "kafka"}
    return asyncio.run(Stream(address, options=options).create())


@pytest.fixture(params=BROKERS)
def stream(request):
    return _stream(request, *request.param)


@pytest.fixture
def kafka_stream(request):
    return _stream(request, "kafka", "exactly_once")


async def _feed(stream: Stream, count: int) -> None:
    """Produce reviews of every sort and `count` queries."""
    good = [Produced(review(n, rating=1.50), key=b"%d" % (n % 5), headers=(("h", b"%d" % n),)) for n in range(count)]
    bad = [Produced(b"not json", key=b"1"), Produced(b"\xff"), Produced(review(0, POISON)), Produced(b'{"text":7}')]
    tombstones = [Produced(None, key=b"%d" % n, timestamp_ms=STAMP) for n in (1, 1, 2)]
    await stream.produce_reviews([*good, *bad, *tombstones])
    await stream.produce_queries([Produced(query(n, "부산 😀 이병헌")) for n in range(count)])


async def _work(stream: Stream, count: int) -> None:
    """Run a worker until that many records have left it."""
    async with running(stream.settings()) as worker:
        await worker.until(lambda: worker.value("koner_records_out_total") >= count)


async def test_what_a_worker_did_is_found_sound(stream):
    await _feed(stream, 60)
    await _work(stream, 127)
    steps: list[tuple[int, int]] = []
    report = await audit(stream.settings(), everything=True, progress=lambda done, total: steps.append((done, total)))
    assert faults(report) == {}
    assert report.clean
    assert report.counts["raw"] == 127
    assert (report.counts["enriched"], report.counts["dead_letters"], report.counts["tombstones"]) == (120, 4, 3)
    assert report.counts["pending"] == 0
    assert len(report.partitions) == 6
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1] >= 254


async def test_before_a_worker_came_everything_is_pending_or_on_request_missing(stream):
    await _feed(stream, 5)
    report = await audit(stream.settings())
    assert report.clean
    assert report.counts["pending"] == 17
    report = await audit(stream.settings(), everything=True)
    assert faults(report) == {"missing": 17}


async def test_what_the_group_committed_without_an_output_is_missing(stream):
    produced = await stream.produce_reviews([Produced(review(n), partition=0) for n in range(4)])
    settings = stream.settings()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=stream.bootstrap_servers, group_id=settings.group, enable_auto_commit=False
    )
    await consumer.start()
    partition = TopicPartition(stream.reviews, 0)
    consumer.assign([partition])
    await consumer.commit({partition: produced[2].offset})
    await consumer.stop()
    report = await audit(settings)
    assert faults(report) == {"missing": 2}
    assert report.counts["pending"] == 2
    (found,) = [part for part in report.partitions if part.missing.count]
    assert (found.topic, found.partition, found.committed) == (stream.reviews, 0, produced[2].offset)
    assert [example.source for example in found.missing.examples] == [Origin(stream.reviews, 0, n) for n in (0, 1)]


@pytest.mark.kafka
async def test_what_was_done_to_the_outputs_afterwards_is_found(kafka_stream):
    await _feed(kafka_stream, 10)
    await _work(kafka_stream, 27)
    outputs = [output for output in await kafka_stream.read_enriched() if output.value is not None]
    first, second = outputs[0], outputs[1]
    record = orjson.loads(second.value)
    record["entities"] = [{"field": "text", "start": 0, "end": 2, "text": "이병헌", "score": 1}]
    record["extra"] = 1
    copies = [replace(first, key=b"other"), replace(second, value=orjson.dumps(record))]
    await produce(
        kafka_stream.bootstrap_servers,
        kafka_stream.enriched,
        [Produced(copy.value, copy.key, copy.headers, copy.timestamp_ms) for copy in copies],
    )
    report = await audit(kafka_stream.settings(), allow_doubles=False)
    assert faults(report) == {"double": 2, "changed": 2, "inexact": 1}
    assert {example.what for part in report.partitions for example in part.changed.examples} == {"key", "value"}
    assert not report.clean


@pytest.mark.kafka
async def test_it_can_start_in_the_middle(kafka_stream):
    await kafka_stream.produce_reviews([Produced(review(n), partition=0) for n in range(10)])
    await _work(kafka_stream, 10)
    report = await audit(kafka_stream.settings(), from_offsets={(kafka_stream.reviews, 0): 7})
    assert report.clean
    assert (report.counts["raw"], report.counts["enriched"], report.counts["outside"]) == (3, 3, 7)


@pytest.mark.kafka
async def test_outputs_of_records_that_retention_deleted_are_no_fault(kafka_stream):
    await kafka_stream.produce_reviews([Produced(review(n), partition=0) for n in range(10)])
    await _work(kafka_stream, 10)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_stream.bootstrap_servers)
    await admin.start()
    await admin.delete_records({TopicPartition(kafka_stream.reviews, 0): RecordsToDelete(before_offset=4)})
    await admin.close()
    report = await audit(kafka_stream.settings(), everything=True)
    assert report.clean
    assert (report.counts["raw"], report.counts["gone"]) == (6, 4)


@pytest.mark.kafka
async def test_outputs_that_retention_deleted_are_not_missed(kafka_stream):
    produced = [Produced(review(n), key=b"k", partition=0, timestamp_ms=STAMP + n) for n in range(10)]
    await kafka_stream.produce_reviews(produced)
    await _work(kafka_stream, 10)
    outputs = await kafka_stream.read_enriched()
    first = outputs[4]
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_stream.bootstrap_servers)
    await admin.start()
    partition = TopicPartition(first.topic, first.partition)
    await admin.delete_records({partition: RecordsToDelete(before_offset=first.offset)})
    await admin.close()
    report = await audit(kafka_stream.settings(), everything=True)
    assert report.clean
    assert (report.counts["enriched"], report.counts["trimmed"]) == (6, 4)
    assert report.trimmed_outputs == {f"{first.topic}[{first.partition}]": first.offset}


@pytest.mark.kafka
async def test_while_a_worker_runs_nothing_seems_to_be_wrong(kafka_stream):
    await kafka_stream.produce_reviews([Produced(review(n), key=b"%d" % (n % 50)) for n in range(3_000)])
    engine = FakeEngine()
    async with running(kafka_stream.settings(max_in_flight_records=200), engine) as worker:
        pending = [3_000]
        while pending[-1]:
            report = await audit(kafka_stream.settings())
            assert faults(report) == {}
            assert report.counts["raw"] == 3_000
            pending.append(report.counts["pending"])
    assert pending == sorted(pending, reverse=True)
    assert worker.value("koner_records_out_total") == 3_000


@pytest.mark.kafka
async def test_a_transaction_that_hides_committed_outputs_is_waited_for(kafka_stream, monkeypatch):
    other = AIOKafkaProducer(
        bootstrap_servers=kafka_stream.bootstrap_servers, transactional_id=f"{kafka_stream.name}.slow"
    )
    await other.start()
    await other.begin_transaction()
    for partition in range(3):
        await other.send_and_wait(kafka_stream.enriched, b"open", partition=partition)
    await kafka_stream.produce_reviews([Produced(review(n), key=b"%d" % n) for n in range(20)])
    await _work(kafka_stream, 20)
    with monkeypatch.context() as patch:
        patch.setattr(reading, "STALL_SECONDS", 1.0)
        with pytest.raises(ReadingError, match="a transaction is still open"):
            await audit(kafka_stream.settings())
    auditing = asyncio.ensure_future(audit(kafka_stream.settings(), everything=True))
    await asyncio.wait({auditing}, timeout=0.5)
    assert not auditing.done()
    await other.abort_transaction()
    await other.stop()
    report = await auditing
    assert report.clean
    assert report.counts["enriched"] == 20


async def test_a_broker_that_stops_answering_is_one_clear_line(monkeypatch):
    async def read_and_freeze(stream: Stream, broker: EmbeddedBroker) -> None:
        async with reading.open_reader(stream.settings()) as reader:
            ranges = dict.fromkeys(reader.partitions([stream.reviews]), range(10_000))
            async for _ in reader.read(ranges):
                os.kill(broker.pid, signal.SIGSTOP)

    monkeypatch.setattr(reading, "STALL_SECONDS", 1.0)
    async with EmbeddedBroker() as broker:
        stream = await Stream(broker.bootstrap_servers).create()
        await stream.produce_reviews([Produced(review(n), partition=n % 3) for n in range(2_000)])
        with pytest.raises(ReadingError, match=r"^nothing came of .*reviews\[0\]"):
            await read_and_freeze(stream, broker)


@pytest.mark.kafka
async def test_what_was_aborted_does_not_count(kafka_stream):
    await kafka_stream.produce_reviews([Produced(review(n), partition=0) for n in range(3)])
    await _work(kafka_stream, 3)
    (output, *_) = await kafka_stream.read_enriched()
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka_stream.bootstrap_servers, transactional_id=f"{kafka_stream.name}.other"
    )
    await producer.start()
    await producer.begin_transaction()
    for topic in (kafka_stream.enriched, kafka_stream.reviews):
        await producer.send_and_wait(topic, output.value, partition=0)
    await producer.abort_transaction()
    await producer.stop()
    report = await audit(kafka_stream.settings(), everything=True)
    assert report.clean
    assert report.counts["raw"] == 3


async def test_a_topic_that_is_not_there_is_one_clear_line(stream):
    with pytest.raises(ReadingError, match=r"^nowhere: no such topic"):
        await audit(stream.settings(dead_letter_topic="nowhere"))


async def test_a_broker_that_is_away_is_one_clear_line():
    with pytest.raises(ReadingError, match=r"^127.0.0.1:1: cannot be read \(KafkaConnectionError\)"):
        await audit(Stream("127.0.0.1:1").settings())


async def test_a_batch_that_cannot_be_read_is_named(stream):
    bad = await produce_unreadable(stream.bootstrap_servers, stream.reviews, partition=1, before=[review(1)])
    await stream.produce_reviews([Produced(review(n), partition=0) for n in range(5)])
    with pytest.raises(ReadingError, match=rf"^{stream.reviews}\[1\]: offsets {bad.start} to 2 cannot be read"):
        await audit(stream.settings())
