"""What goes wrong with the topics the worker reads and writes, on a real Kafka and in both delivery modes."""

from threading import Event
from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import NewPartitions, RecordsToDelete
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import NotEnoughReplicasError
from aiokafka.protocol.produce import ProduceRequest
from brokers import Produced, create_topics
from fake_engine import FakeEngine
from faults import (
    MODES,
    administrator,
    assert_all_came_out,
    at_work,
    both_modes,
    committed,
    configure,
    ending,
    reviews,
    until_committed,
    until_told,
)
from running import Stream, review, running, source_of

from worker.stream import producing, session, source

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka")]


@pytest.fixture(params=MODES)
def stream(request, kafka):
    return Stream(kafka.bootstrap_servers, options={"delivery": request.param})


@pytest.fixture
def soon(monkeypatch):
    """Notice changes of topics in a second instead of half a minute."""
    monkeypatch.setattr(source, "METADATA_MILLISECONDS", 500)
    monkeypatch.setattr(producing, "METADATA_MILLISECONDS", 500)
    monkeypatch.setattr(session, "PROBE_SECONDS", 0.5)
    monkeypatch.setattr(session, "PROBE_PATIENCE", 2.0)
    monkeypatch.setattr(session, "STALL_SECONDS", 1.0)


@pytest.fixture
def too_few_replicas(monkeypatch):
    """While it is set, workers get what brokers answer where too few replicas are in sync; one broker never does."""
    refusing = Event()
    send = AIOKafkaClient.send

    async def send_or_refuse(client, node, request, **options):
        if not (refusing.is_set() and isinstance(request, ProduceRequest)):
            return await send(client, node, request, **options)
        code = NotEnoughReplicasError.errno
        topics = [(topic, [(number, code, -1, -1, -1) for number, _ in batches]) for topic, batches in request._topics]
        return SimpleNamespace(API_VERSION=7, topics=topics)

    monkeypatch.setattr(AIOKafkaClient, "send", send_or_refuse)
    return refusing


@pytest.mark.parametrize("absent", ["enriched", "dead_letters"])
async def test_a_topic_that_is_missing_at_the_start_is_named(stream, absent):
    names = [stream.queries, stream.reviews, stream.enriched, stream.dead_letters]
    names.remove(getattr(stream, absent))
    await create_topics(stream.bootstrap_servers, *names)
    async with running(stream.settings()) as worker:
        line = await ending(worker)
        assert worker.value("koner_broker_up") == 0
    assert getattr(stream, absent) in line
    assert "koner topics create" in line


async def test_an_output_topic_that_is_deleted_ends_the_worker_and_what_it_could_not_take_stays(kafka, soon):
    streams = await both_modes(kafka.bootstrap_servers)
    async with at_work(streams, FakeEngine) as workers:
        for stream, worker in zip(streams, workers, strict=True):
            await worker.until_ready()
            async with administrator(kafka.bootstrap_servers) as admin:
                await admin.delete_topics([stream.enriched])
            await stream.produce_reviews(reviews(50))
        for stream, worker in zip(streams, workers, strict=True):
            line = await ending(worker)
            assert stream.enriched in line
            assert not worker.pipeline.status().alive
            assert worker.value("koner_broker_up") == 0
            assert worker.value("koner_records_out_total") == 0
    for stream in streams:
        assert await committed(stream) == (0, 50)
        await create_topics(kafka.bootstrap_servers, stream.enriched, partitions=3)
    async with at_work(streams, FakeEngine):
        await until_committed(streams)
    await assert_all_came_out(streams, raw=50)


async def test_an_output_topic_that_takes_nothing_is_told_and_waited_for_within_the_bounds(
    kafka, soon, too_few_replicas
):
    streams = await both_modes(kafka.bootstrap_servers, max_in_flight_records=100)
    for stream in streams:
        await stream.produce_reviews(reviews(2000))
    too_few_replicas.set()
    async with at_work(streams, FakeEngine) as workers:
        await until_told(workers, "enriched has not taken a batch for")
        for worker in workers:
            assert worker.pipeline.status().alive
            assert worker.value("koner_publish_retries_total") > 0
            await worker.until(lambda worker=worker: worker.value("koner_paused_partitions") == 3)
            # 50 for the lane, and at most one poll of 500 on top.
            assert 0 < worker.value("koner_records_in_total") <= 550
            assert worker.value("koner_records_out_total") == 0
        too_few_replicas.clear()
        await until_committed(streams)
        for worker in workers:
            await worker.until_ready()
    await assert_all_came_out(streams, raw=2000, enriched=2000)


async def test_a_record_too_large_for_the_output_topic_becomes_a_dead_letter_and_no_other_does(kafka):
    streams = await both_modes(kafka.bootstrap_servers, compression="none")
    for stream in streams:
        await configure(kafka.bootstrap_servers, stream.enriched, **{"max.message.bytes": "20000"})
        await stream.produce_reviews([*reviews(400), Produced(review(400, "가" * 10_000), key=b"7"), *reviews(400)])
    async with at_work(streams, FakeEngine) as workers:
        await until_committed(streams)
        for worker in workers:
            told = lambda worker=worker: worker.value("koner_dead_letters_total", reason="too_large_to_publish")  # noqa: E731
            await worker.until(lambda told=told: told() == 1)
    await assert_all_came_out(streams, raw=801, dead_letters=1)


async def test_dead_letters_that_are_too_many_for_one_batch_are_sent_in_several(kafka):
    streams = await both_modes(kafka.bootstrap_servers, compression="none")
    for stream in streams:
        await configure(kafka.bootstrap_servers, stream.dead_letters, **{"max.message.bytes": "3000"})
        await stream.produce_reviews([Produced(b"not json", key=b"1") for _ in range(100)])
    async with at_work(streams, FakeEngine):
        await until_committed(streams)
    await assert_all_came_out(streams, raw=100, dead_letters=100)


async def test_a_dead_letter_that_is_refused_stops_the_worker_loudly_and_is_not_skipped(kafka):
    streams = await both_modes(kafka.bootstrap_servers)
    for stream in streams:
        await configure(kafka.bootstrap_servers, stream.dead_letters, **{"max.message.bytes": "500"})
        bad = [Produced(review(0, "x" * 30_000), partition=0, key=b"1")]
        await stream.produce_reviews([Produced(review(0), partition=0), *bad, Produced(review(1), partition=0)])
    async with at_work(streams, FakeEngine, compression="none") as workers:
        for stream, worker in zip(streams, workers, strict=True):
            line = await ending(worker)
            assert f"{stream.dead_letters}: refuses a dead letter of 30" in line
            assert "nothing was skipped" in line
            assert worker.value("koner_dead_letters_total") == 0
    for stream in streams:
        assert (await committed(stream))[0] <= 1
        await configure(kafka.bootstrap_servers, stream.dead_letters, **{"max.message.bytes": "1000000"})
    async with at_work(streams, FakeEngine):
        await until_committed(streams)
    await assert_all_came_out(streams, raw=3, dead_letters=1)


async def test_a_tombstone_too_large_for_the_output_topic_stops_the_worker_loudly_and_is_not_skipped(kafka):
    streams = await both_modes(kafka.bootstrap_servers, compression="none")
    for stream in streams:
        await configure(kafka.bootstrap_servers, stream.enriched, **{"max.message.bytes": "1000"})
        await stream.produce_reviews([Produced(None, key=b"k" * 2_000, partition=0)])
    async with at_work(streams, FakeEngine) as workers:
        for stream, worker in zip(streams, workers, strict=True):
            line = await ending(worker, 30)
            assert f"{stream.enriched}: refuses a tombstone of 2000 bytes" in line
            assert "max.message.bytes" in line
    for stream in streams:
        assert (await committed(stream))[0] == 0


async def test_a_record_that_the_output_topic_refuses_for_good_stops_the_worker_with_the_line_that_names_it(kafka):
    streams = await both_modes(kafka.bootstrap_servers)
    for stream in streams:
        await configure(kafka.bootstrap_servers, stream.enriched, **{"cleanup.policy": "compact"})
        poison = [Produced(review(0), partition=0)]
        await stream.produce_reviews([Produced(review(n), key=b"%d" % n, partition=0) for n in range(50)] + poison)
    async with at_work(streams, FakeEngine) as workers:
        for stream, worker in zip(streams, workers, strict=True):
            line = await ending(worker, 30)
            assert (
                f"{stream.enriched}: refuses what comes of {stream.reviews}[0] at offset 50 (InvalidRecordError)"
                in line
            )
    for stream in streams:
        assert (await committed(stream))[0] <= 50
        await configure(kafka.bootstrap_servers, stream.enriched, **{"cleanup.policy": "delete"})
    async with at_work(streams, FakeEngine):
        await until_committed(streams)
    await assert_all_came_out(streams, raw=51)


async def test_partitions_that_a_topic_gains_are_read_from_their_first_record(kafka, soon):
    streams = await both_modes(kafka.bootstrap_servers)
    async with at_work(streams, FakeEngine) as workers:
        for stream, worker in zip(streams, workers, strict=True):
            await worker.until_ready()
            assert worker.value("koner_assigned_partitions") == 6
            async with administrator(kafka.bootstrap_servers) as admin:
                await admin.create_partitions({stream.reviews: NewPartitions(5)})
            await stream.produce_reviews([Produced(review(n), key=b"k", partition=n % 5) for n in range(50)])
        for worker in workers:
            await worker.until(lambda worker=worker: worker.value("koner_assigned_partitions") == 8)
        await until_committed(streams)
    for stream in streams:
        assert {source_of(output)[1] for output in await stream.read_enriched()} == set(range(5))
    await assert_all_came_out(streams, raw=50)


async def test_records_that_retention_deleted_stop_the_worker_or_are_counted_as_told(stream):
    await stream.create()
    await stream.produce_reviews([Produced(review(n), partition=0) for n in range(100)])
    async with at_work([stream], FakeEngine):
        await until_committed([stream])
    await stream.produce_reviews([Produced(review(n), partition=0) for n in range(100, 300)])
    await delete_before(stream, 150)
    async with at_work([stream], FakeEngine, lost_offsets="stop") as (worker,):
        line = await ending(worker)
        assert f"{stream.reviews}[0]" in line
        assert "stands at 100" in line
        assert "50 records were deleted" in line
        assert "lost_offsets" in line
        assert worker.value("koner_records_out_total") == 0
    async with at_work([stream], FakeEngine, lost_offsets="continue") as (worker,):
        await until_committed([stream])
        assert worker.value("koner_lost_records_total", source=stream.reviews) == 50
    offsets = sorted(source_of(output)[2] for output in await stream.read_enriched())
    assert offsets == [*range(100), *range(150, 300)]


async def test_what_was_at_hand_when_retention_deleted_what_follows_comes_out(stream):
    await stream.create()
    await stream.produce_reviews([Produced(review(n, "가" * 400), partition=0) for n in range(5000)])
    engine = FakeEngine()
    engine.gate.clear()
    options = {"max_in_flight_records": 100, "lost_offsets": "continue", "drain_seconds": 20.0}
    async with at_work([stream], lambda: engine, **options) as (worker,):
        await worker.until(lambda: worker.value("koner_paused_partitions") == 3)
        at_hand = int(worker.value("koner_records_in_total"))
        await delete_before(stream, 4000)
        engine.gate.set()
        await until_committed([stream])
        lost = worker.value("koner_lost_records_total", source=stream.reviews)
    offsets = sorted(source_of(output)[2] for output in await stream.read_enriched())
    assert offsets[:at_hand] == [*range(at_hand)]
    assert offsets[-1000:] == [*range(4000, 5000)]
    assert len(offsets) == len(set(offsets)) == 5000 - lost
    assert lost > 0


async def delete_before(stream, offset):
    """Do what retention does: delete a partition's records before `offset`."""
    partition = TopicPartition(stream.reviews, 0)
    async with administrator(stream.bootstrap_servers) as admin:
        assert await admin.delete_records({partition: RecordsToDelete(offset)}) == {partition: offset}
