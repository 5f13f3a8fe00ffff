"""The brokers that tests run on, and what tests do with them."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable

import psutil
import pytest
from aiokafka import AIOKafkaProducer
from brokers import Produced, create_topics, produce, read_topic
from kafka_broker import KafkaBroker

RECORDS = [
    Produced(b"1", b"k1", (("trace", b"\xff"), ("trace", b"")), 1_700_000_000_000),
    Produced(None, b"k1", (), 1_700_000_000_001),
    Produced("이병헌".encode(), None, (), 1_600_000_000_000),
    Produced(b"", b"", (), 1_700_000_000_002),
]


async def test_what_is_produced_is_read_back_whole(any_broker: str, unique: Callable[[str], str]) -> None:
    topic = unique("raw")
    await create_topics(any_broker, topic, partitions=3)
    produced = await produce(any_broker, topic, RECORDS)
    assert [(record.key, record.value, record.headers, record.timestamp_ms) for record in produced] == [
        (record.key, record.value, record.headers, record.timestamp_ms) for record in RECORDS
    ]
    assert sorted(produced, key=lambda record: (record.partition, record.offset)) == await read_topic(any_broker, topic)


async def test_an_empty_topic_reads_as_nothing(any_broker: str, unique: Callable[[str], str]) -> None:
    topic = unique("empty")
    await create_topics(any_broker, topic, partitions=2)
    assert await read_topic(any_broker, topic) == []


async def test_a_topic_that_is_missing_is_an_error(any_broker: str, unique: Callable[[str], str]) -> None:
    with pytest.raises(AssertionError, match="there is no topic"):
        await read_topic(any_broker, unique("missing"))


async def test_records_that_never_come_end_in_a_timeout(any_broker: str, unique: Callable[[str], str]) -> None:
    topic = unique("raw")
    await create_topics(any_broker, topic)
    await produce(any_broker, topic, RECORDS)
    with pytest.raises(TimeoutError, match="4 records"):
        await read_topic(any_broker, topic, count=5, timeout=0.5)


async def test_a_committed_read_leaves_out_aborted_and_unfinished_records(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    topic = unique("raw")
    await create_topics(kafka.bootstrap_servers, topic)
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, transactional_id=unique("producer"))
    await producer.start()
    try:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"aborted")
        await producer.abort_transaction()
        async with producer.transaction():
            await producer.send_and_wait(topic, b"committed")
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"unfinished")
        committed = await read_topic(kafka.bootstrap_servers, topic, isolation_level="read_committed")
        assert [record.value for record in committed] == [b"committed"]
        everything = await read_topic(kafka.bootstrap_servers, topic)
        assert [record.value for record in everything] == [b"aborted", b"committed", b"unfinished"]
        await producer.abort_transaction()
        committed = await read_topic(kafka.bootstrap_servers, topic, isolation_level="read_committed")
        assert [record.value for record in committed] == [b"committed"]
    finally:
        await producer.stop()


async def test_kafka_keeps_its_data_and_address_over_a_stop_and_a_kill(own_kafka: KafkaBroker) -> None:
    address = own_kafka.bootstrap_servers
    await create_topics(address, "raw")
    await produce(address, "raw", RECORDS)
    before = await read_topic(address, "raw")
    await asyncio.to_thread(own_kafka.stop)
    assert not own_kafka.running
    await asyncio.to_thread(own_kafka.start)
    assert await read_topic(address, "raw") == before
    await asyncio.to_thread(own_kafka.kill)
    await asyncio.to_thread(own_kafka.restart)
    assert await read_topic(address, "raw") == before


async def test_a_frozen_kafka_answers_nothing_until_it_thaws(
    kafka: KafkaBroker, unique: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    topic = unique("raw")
    await create_topics(kafka.bootstrap_servers, topic)
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
    await producer.start()
    try:
        await producer.send_and_wait(topic, b"1")
        kafka.freeze()
        try:
            waiting = asyncio.ensure_future(producer.send_and_wait(topic, b"2"))
            done, _ = await asyncio.wait([waiting], timeout=0.3)
            assert not done
        finally:
            kafka.thaw()
        await asyncio.wait_for(waiting, 30)
    finally:
        await producer.stop()


def test_a_broker_ends_with_a_parent_that_is_killed(request: pytest.FixtureRequest) -> None:
    script = """
        import asyncio
        from worker.demo.broker import EmbeddedBroker

        async def main():
            async with EmbeddedBroker() as broker:
                print(broker.pid, flush=True)
                await asyncio.Event().wait()

        asyncio.run(main())
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=request.config.rootpath,
    )
    assert parent.stdout is not None
    with parent.stdout:
        child = psutil.Process(int(parent.stdout.readline()))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    child.wait(timeout=20)
