"""What the data plane promises, shown on the embedded broker and on a real Kafka."""

import asyncio

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from brokers import Produced, create_topics, produce_unreadable
from fake_engine import POISON, FakeEngine
from running import (
    Stream,
    assert_order_per_key,
    coordinates,
    query,
    review,
    running,
    source_of,
)

from worker.stream.errors import StreamError

REAL = (pytest.mark.kafka, pytest.mark.xdist_group("kafka"))
BROKERS = [
    pytest.param(("embedded", "at_least_once"), id="embedded"),
    pytest.param(("kafka", "at_least_once"), id="kafka", marks=REAL),
    pytest.param(("kafka", "exactly_once"), id="kafka-exactly-once", marks=REAL),
]


@pytest.fixture(params=BROKERS)
def stream(request):
    broker, delivery = request.param
    address = request.getfixturevalue(broker).bootstrap_servers
    options = {"delivery": delivery, "idempotence": broker == "kafka"}
    if broker == "embedded":  # where joining a group takes half of this
        options["session_timeout_seconds"] = 2.0
    return asyncio.run(Stream(address, options=options).create())


async def test_records_come_out_enriched_and_otherwise_untouched(stream):
    value = '{"review_id": "%d", "text": "이병헌", "extra": [1e400, null, {"\\u00e9": 0.10}]}'
    raw = [
        Produced(
            (value % n).encode(),
            key=b"key-%d" % (n % 7),
            headers=(("trace", b"\xff%d" % n), ("trace", b"again")),
            timestamp_ms=1_600_000_000_000 + n,
        )
        for n in range(200)
    ]
    produced = await stream.produce_reviews(raw)
    async with running(stream.settings()):
        outputs = await stream.read_enriched(count=200)
    by_source = {source_of(output): output for output in outputs}
    assert by_source.keys() == {coordinates(record) for record in produced}
    for record in produced:
        output = by_source[coordinates(record)]
        assert (output.key, output.headers, output.timestamp_ms) == (record.key, record.headers, record.timestamp_ms)
        assert output.value.startswith(record.value[:-1])
        added = output.value[len(record.value) - 1 :].lstrip(b",")
        members = orjson.loads(b"{" + added)
        assert members.keys() == {"entities", "enrichment"}
        (entity,) = members["entities"]
        assert (entity["start"], entity["end"], entity["text"], entity["type"]) == (0, 3, "이병헌", "PER")
    assert_order_per_key(outputs)


async def test_what_is_refused_becomes_a_dead_letter_as_it_was(stream):
    refused = {
        b"not json at all": b"not_json",
        b'{"review_id": "1", "text": 7}': b"schema",
        b'{"review_id": "1", "text": "\xff"}': b"not_utf8",
        review(1, "가" * 20_001): b"too_long",
        review(2, f"이 {POISON}"): b"model_error",
    }
    produced = await stream.produce_reviews(
        [Produced(value, key=b"k", headers=(("h", b"1"),), timestamp_ms=1_600_000_000_000) for value in refused]
        + [Produced(review(number), key=b"k") for number in range(20)]
    )
    async with running(stream.settings()) as worker:
        letters = await stream.read_dead_letters(count=len(refused))
        assert len(await stream.read_enriched(count=20)) == 20
        await worker.until(lambda: worker.value("koner_dead_letters_total") == len(refused))
        for reason in refused.values():
            assert worker.value("koner_dead_letters_total", reason=reason.decode()) == 1
    assert {letter.value: dict(letter.headers)["koner-reason"] for letter in letters} == refused
    for letter in letters:
        assert letter.headers[0] == ("h", b"1")
        assert (letter.key, letter.timestamp_ms) == (b"k", 1_600_000_000_000)
    assert {source_of(letter) for letter in letters} == {coordinates(record) for record in produced[: len(refused)]}


async def test_a_tombstone_is_passed_on_under_its_key(stream):
    await stream.produce_reviews([Produced(review(1), key=b"a"), Produced(None, key=b"a", headers=(("h", b"1"),))])
    async with running(stream.settings()):
        outputs = await stream.read_enriched(count=2)
    assert [(output.key, output.value is None) for output in outputs] == [(b"a", False), (b"a", True)]
    assert outputs[1].headers == (("h", b"1"),)


async def test_an_enriched_record_that_comes_in_again_is_enriched_anew(stream):
    await stream.produce_reviews([Produced(review(1, entities=["old"], enrichment={"old": 1}, after=2))])
    async with running(stream.settings()):
        (output,) = await stream.read_enriched(count=1)
    record = orjson.loads(output.value)
    assert [entity["text"] for entity in record["entities"]] == ["이병헌"]
    assert record["after"] == 2
    assert output.value.count(b'"entities"') == output.value.count(b'"enrichment"') == 1


async def test_what_was_not_finished_when_the_worker_went_is_done_by_the_next(stream):
    produced = await stream.produce_reviews([Produced(review(n), key=b"%d" % n) for n in range(300)])
    engine = FakeEngine()
    engine.gate.clear()
    async with running(stream.settings(grace_seconds=0.1), engine) as first:
        await first.until(lambda: first.value("koner_records_in_total") >= 300)
        await asyncio.wait_for(first.pipeline.stop(), 30)
    assert await stream.read_enriched() == []
    async with running(stream.settings()) as second:
        outputs = await stream.read_enriched(count=300)
        await second.until(lambda: second.value("koner_records_out_total") == 300)
    assert sorted(map(source_of, outputs)) == sorted(map(coordinates, produced))


async def test_stopping_finishes_and_commits_what_is_in_flight(stream):
    await stream.produce_reviews([Produced(review(n), key=b"%d" % n) for n in range(300)])
    engine = FakeEngine()
    engine.gate.clear()
    async with running(stream.settings(), engine) as first:
        await first.until(lambda: first.value("koner_records_in_total") >= 300)
        stopping = asyncio.create_task(first.pipeline.stop())
        await first.until(lambda: "the worker is stopping" in first.pipeline.status().problems)
        engine.gate.set()
        await stopping
    assert len(await stream.read_enriched(count=300)) == 300
    await stream.produce_reviews([Produced(review(n), key=b"%d" % n) for n in range(300, 310)])
    async with running(stream.settings()) as second:
        await second.until(lambda: second.value("koner_records_out_total") == 10)
    assert len(await stream.read_enriched(count=310)) == 310


async def test_a_poison_record_holds_up_none_behind_it(stream):
    await stream.produce_reviews([Produced(review(n, POISON if n == 3 else "부산"), partition=0) for n in range(50)])
    async with running(stream.settings()):
        assert len(await stream.read_enriched(count=49)) == 49
        (letter,) = await stream.read_dead_letters(count=1)
    assert source_of(letter)[1:] == (0, 3)


async def test_a_backlog_stays_within_the_bounds_and_queries_still_get_through(stream):
    await stream.produce_reviews([Produced(review(n), partition=n % 3) for n in range(3000)])
    engine = FakeEngine()
    engine.gate.clear()
    async with running(stream.settings(max_in_flight_records=400), engine) as worker:
        await worker.until(lambda: worker.value("koner_paused_partitions") == 3)
        # 200 for the lane, and at most one poll of 500 on top.
        assert worker.value("koner_records_in_total") <= 700
        await stream.produce_queries([Produced(query(1), partition=0)])
        await worker.until(lambda: worker.value("koner_records_in_total", source=stream.queries) == 1)
        engine.gate.set()
        outputs = await stream.read_enriched(count=3001)
        await worker.until(lambda: worker.value("koner_in_flight_records") == 0)
    assert len(outputs) == 3001


async def test_headers_count_among_the_bytes_in_flight(stream):
    headers = tuple((f"h{n}", b"x") for n in range(1000))
    await stream.produce_reviews([Produced(review(n), headers=headers, partition=n % 3) for n in range(30)])
    engine = FakeEngine()
    engine.gate.clear()
    async with running(stream.settings(max_in_flight_bytes=1_000_000), engine) as worker:
        await worker.until(lambda: worker.value("koner_paused_partitions") == 3)
        engine.gate.set()
        assert len(await stream.read_enriched(count=30)) == 30
        await worker.until(lambda: worker.value("koner_in_flight_bytes") == 0)


async def test_a_record_without_a_timestamp_gets_none_from_its_neighbour(stream):
    timestamps = [-1, 1_600_000_000_000, -1, -1, 1_600_000_000_001]
    for number, timestamp in enumerate(timestamps):  # one by one, or aiokafka would do it to them here
        await stream.produce_reviews([Produced(review(number), partition=0, key=b"k", timestamp_ms=timestamp)])
    engine = FakeEngine()
    engine.gate.clear()
    async with running(stream.settings(), engine) as worker:
        await worker.until(lambda: worker.value("koner_records_in_total") == len(timestamps))
        engine.gate.set()
        outputs = await stream.read_enriched(count=len(timestamps))
    assert [output.timestamp_ms for output in outputs] == timestamps


async def test_a_batch_that_cannot_be_read_is_named_and_all_before_and_behind_it_is_done(stream):
    before = [review(n) for n in range(700)]  # more than one poll
    await stream.produce_reviews([Produced(review(n), partition=number) for number in (1, 2) for n in range(100)])
    bad = await produce_unreadable(stream.bootstrap_servers, stream.reviews, partition=0, before=before)
    after = await stream.produce_reviews([Produced(review(n), partition=0) for n in range(10)])
    async with running(stream.settings()) as worker:
        with pytest.raises(StreamError) as told:
            await asyncio.wait_for(worker.pipeline.wait(), 60)
    line = str(told.value)
    assert line.startswith(f"{stream.reviews}[0]: offsets {bad.start} to {bad.stop - 1} cannot be read")
    assert f"--topic {stream.reviews}:0 --reset-offsets --to-offset {bad.stop}" in line
    assert "\n" not in line
    outputs = await stream.read_enriched()
    assert {source_of(output)[2] for output in outputs if source_of(output)[1] == 0} == set(range(bad.start))
    await commit(stream, TopicPartition(stream.reviews, 0), bad.stop)
    async with running(stream.settings()) as worker:
        outputs = await stream.read_enriched(count=700 + 200 + len(after))
        await worker.until(lambda: worker.value("koner_in_flight_records") == 0)
    assert len({source_of(output) for output in outputs}) == 700 + 200 + len(after)


async def commit(stream: Stream, partition: TopicPartition, offset: int) -> None:
    """Move the group while no worker runs, as `kafka-consumer-groups --reset-offsets` does."""
    consumer = AIOKafkaConsumer(
        partition.topic,
        bootstrap_servers=stream.bootstrap_servers,
        group_id=stream.settings().group,
        enable_auto_commit=False,
        session_timeout_ms=6000,
    )
    await consumer.start()  # as a member: the embedded broker takes no commit from anybody else
    try:
        await consumer.commit({partition: offset})
    finally:
        await consumer.stop()


async def test_two_workers_share_the_partitions_and_lose_nothing(stream):
    produced = await stream.produce_reviews([Produced(review(n), key=b"%d" % (n % 20)) for n in range(1000)])
    async with running(stream.settings()) as first:
        await first.until_ready()
        async with running(stream.settings()) as second:
            produced += await stream.produce_reviews([Produced(review(n), key=b"%d" % (n % 20)) for n in range(1000)])
            await second.until_ready()
            produced += await stream.produce_reviews([Produced(review(n), key=b"%d" % (n % 20)) for n in range(1000)])
            await stream.read_enriched(count=3000)
        await first.until_ready()
        produced += await stream.produce_reviews([Produced(review(n), key=b"%d" % (n % 20)) for n in range(100)])
        await stream.read_enriched(count=3100)
    outputs = await stream.read_enriched()
    assert {source_of(output) for output in outputs} == {coordinates(record) for record in produced}
    if stream.options["delivery"] == "exactly_once":
        assert len(outputs) == 3100
    assert_order_per_key(outputs)


async def test_lag_falls_to_zero_and_is_told_by_partition(stream):
    async with running(stream.settings()) as worker:
        await stream.produce_reviews([Produced(review(n), partition=1) for n in range(10)])
        await worker.until(lambda: worker.value("koner_records_out_total") == 10)
        lag = lambda: worker.value("koner_consumer_lag_records", topic=stream.reviews, partition="1")  # noqa: E731
        await worker.until(lambda: worker.value("koner_assigned_partitions") == 6 and lag() == 0)


async def test_topics_that_are_not_there_are_named_with_the_remedy(any_broker):
    stream = Stream(any_broker)
    await create_topics(stream.bootstrap_servers, stream.queries)
    async with running(stream.settings(idempotence=False)) as worker:
        with pytest.raises(StreamError) as told:
            await asyncio.wait_for(worker.pipeline.wait(), 30)
    assert stream.reviews in str(told.value)
    assert stream.queries not in str(told.value)
    assert "koner topics create" in str(told.value)
    assert "\n" not in str(told.value)
