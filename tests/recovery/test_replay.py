"""A range of a topic goes through a model again: all of it, in order, resumable, on either broker."""

import asyncio
import json
import threading
import time
from datetime import UTC, datetime

import orjson
import pytest
from brokers import Produced, create_topics, produce
from fake_engine import POISON, FakeEngine
from running import Stream, assert_order_per_key, coordinates, query, review, running, source_of

from worker.audit.check import audit
from worker.audit.reading import ReadingError
from worker.ner.engine import ModelInfo
from worker.recovery.errors import RecoveryError
from worker.recovery.ranges import Request
from worker.recovery.replay import replay
from worker.stream.errors import StreamError

STAMP = int(time.time() - 3_600) * 1000  # recent: a broker deletes what is past its retention
REAL = (pytest.mark.kafka, pytest.mark.xdist_group("kafka"))
BROKERS = [
    pytest.param(("embedded", "at_least_once"), id="embedded"),
    pytest.param(("kafka", "at_least_once"), id="kafka", marks=REAL),
    pytest.param(("kafka", "exactly_once"), id="kafka-exactly-once", marks=REAL),
]


def _stream(request, broker: str, delivery: str) -> Stream:
    address = request.getfixturevalue(broker).bootstrap_servers
    options = {"delivery": delivery, "idempotence": broker == "kafka"}
    return asyncio.run(Stream(address, options=options).create())


@pytest.fixture(params=BROKERS)
def stream(request):
    return _stream(request, *request.param)


@pytest.fixture(params=BROKERS[:2])
def plain(request):
    """For what does not depend on how it is delivered."""
    return _stream(request, *request.param)


@pytest.fixture
def real(request):
    return _stream(request, "kafka", "at_least_once")


def better(revision: str = "2") -> FakeEngine:
    """An engine that tells itself apart."""
    engine = FakeEngine()
    engine.info = ModelInfo("better", revision, "seed", "rules", "cpu")
    return engine


def _raw(count: int) -> list[Produced]:
    return [
        Produced(
            review(n, "부산 이병헌", n=1.50),
            key=b"key-%d" % (n % 7),
            headers=(("h", b"%d" % n),),
            timestamp_ms=STAMP + n,
        )
        for n in range(count)
    ]


async def test_a_raw_topic_goes_through_whole(stream):
    refused = [Produced(b"no json", key=b"k"), Produced(review(1, POISON), key=b"k"), Produced(None, key=b"key-1")]
    produced = await stream.produce_reviews([*_raw(300), *refused])
    steps = []
    done = await replay(
        stream.settings(),
        better(),
        Request(stream.reviews),
        progress=lambda now, total: steps.append((now, total)),
    )
    assert (done.enriched, done.tombstones, done.skipped) == (300, 1, 0)
    assert done.dead_letters == {"not_json": 1, "model_error": 1}
    assert steps == sorted(steps)
    assert steps[-1] == (303, 303)
    outputs = await stream.read_enriched()
    by_source = {source_of(output): output for output in outputs if output.value is not None}
    assert len(outputs) == 301
    for record in produced[:300]:
        output = by_source[coordinates(record)]
        assert (output.key, output.headers, output.timestamp_ms) == (record.key, record.headers, record.timestamp_ms)
        assert output.value.startswith(record.value[:-1])
        assert orjson.loads(output.value)["enrichment"]["model"] == "better"
    assert_order_per_key(output for output in outputs if output.value is not None)
    letters = await stream.read_dead_letters()
    assert {source_of(letter) for letter in letters} == {coordinates(record) for record in produced[300:302]}


async def test_an_enriched_topic_is_enriched_anew_and_keeps_its_raw_coordinates(stream):
    await stream.produce_reviews(_raw(40))
    await stream.produce_queries([Produced(query(n), key=b"%d" % n) for n in range(10)])
    async with running(stream.settings()) as worker:
        await worker.until(lambda: worker.value("koner_records_out_total") == 50)
    await produce(stream.bootstrap_servers, stream.enriched, [Produced(None, key=b"a"), Produced(b'{"text": "x"}')])
    before = await stream.read_enriched()
    other = f"{stream.name}.enriched.v2"
    await create_topics(stream.bootstrap_servers, other, partitions=2)
    done = await replay(stream.settings(), better(), Request(stream.enriched, output=other))
    assert (done.enriched, done.tombstones, done.skipped, done.dead_letters) == (50, 1, 1, {})
    after = {source_of(output): output for output in await stream._read(other, None) if output.value is not None}
    old = {source_of(output): output for output in before if output.value and b"enrichment" in output.value}
    assert after.keys() == old.keys()
    for source, output in after.items():
        record, former = orjson.loads(output.value), orjson.loads(old[source].value)
        assert (output.key, output.headers, output.timestamp_ms) == (
            old[source].key,
            old[source].headers,
            old[source].timestamp_ms,
        )
        assert (
            record.pop("enrichment").items()
            >= {
                "model": "better",
                "kind": "query" if source[0] == stream.queries else "review",
                "source": former["enrichment"]["source"],
            }.items()
        )
        assert record["entities"] == former["entities"]
        assert output.value.count(b'"entities"') == 1


async def test_dead_letters_of_a_replay_into_another_topic_say_so_and_are_not_taken_for_the_workers(stream):
    other = f"{stream.name}.enriched.v2"
    await create_topics(stream.bootstrap_servers, other, partitions=2)
    await stream.produce_reviews([Produced(b"no json", key=b"k"), Produced(review(1), key=b"k")])
    async with running(stream.settings()) as worker:
        await worker.until(lambda: worker.value("koner_records_out_total") == 2)
    done = await replay(stream.settings(), better(), Request(stream.reviews, output=other))
    assert done.dead_letters == {"not_json": 1}
    first, second = await stream.read_dead_letters()
    assert "koner-replay" not in dict(first.headers)
    assert dict(second.headers)["koner-replay"] == done.plan.group.encode()
    report = await audit(stream.settings(), everything=True, allow_doubles=False)
    assert report.clean
    assert report.of_replays == 1


async def test_an_enriched_record_that_fails_becomes_the_raw_record_among_the_dead_letters(plain):
    value = f'{{ "review_id": "1",\t"text": "{POISON}", "n": 1.50 }}\n'.encode()
    (produced,) = await plain.produce_reviews([Produced(value, key=b"k", headers=(("h", b"1"),), timestamp_ms=STAMP)])
    bold = better()
    bold.forward = lambda windows: [[] for _ in windows]
    assert (await replay(plain.settings(), bold, Request(plain.reviews))).enriched == 1
    done = await replay(plain.settings(), better("2"), Request(plain.enriched))
    assert done.dead_letters == {"model_error": 1}
    (letter,) = await plain.read_dead_letters()
    assert source_of(letter) == coordinates(produced)
    assert (letter.value, letter.key, letter.headers[0], letter.timestamp_ms) == (value, b"k", ("h", b"1"), STAMP)


async def test_an_enriched_topic_can_be_replayed_into_itself_and_ends(plain):
    await plain.produce_reviews(_raw(20))
    settings = plain.settings()
    await replay(settings, better("1"), Request(plain.reviews))
    done = await replay(settings, better("2"), Request(plain.enriched))
    assert done.enriched == 20
    revisions = [orjson.loads(output.value)["enrichment"]["revision"] for output in await plain.read_enriched()]
    assert sorted(revisions) == ["1"] * 20 + ["2"] * 20


async def test_only_the_range_asked_for_goes_through(plain):
    await plain.produce_reviews([Produced(review(n), partition=n % 2) for n in range(20)])
    request = Request(plain.reviews, offsets={0: (2, 6), 1: (8, None)})
    done = await replay(plain.settings(), better(), request)
    assert done.enriched == 6
    found = {source_of(output)[1:] for output in await plain.read_enriched()}
    assert found == {(0, 2), (0, 3), (0, 4), (0, 5), (1, 8), (1, 9)}


@pytest.mark.kafka
async def test_a_range_can_be_a_time(real):
    await real.produce_reviews(_raw(30))
    at = [datetime.fromtimestamp((STAMP + n) / 1000, UTC) for n in (10, 20)]
    done = await replay(real.settings(), better(), Request(real.reviews, since=at[0], until=at[1]))
    assert done.enriched == 10
    found = {int(dict(output.headers)["h"]) for output in await real.read_enriched()}
    assert found == set(range(10, 20))


async def test_a_range_may_begin_before_all_time(real):
    await real.produce_reviews(_raw(3))
    bounds = {"since": datetime(1, 1, 1, tzinfo=UTC), "until": datetime(1969, 12, 31, tzinfo=UTC)}
    assert (await replay(real.settings(), better(), Request(real.reviews, **bounds))).enriched == 0
    since = Request(real.reviews, since=bounds["since"])
    assert (await replay(real.settings(), better(), since)).enriched == 3


async def test_what_is_done_is_not_done_again_unless_asked_or_by_another_model(stream):
    settings, request = stream.settings(), Request(stream.reviews)
    await stream.produce_reviews(_raw(10))
    assert (await replay(settings, better(), request)).enriched == 10
    assert (await replay(settings, better(), request)).enriched == 0
    await stream.produce_reviews(_raw(5))
    assert (await replay(settings, better(), request)).enriched == 5
    assert (await replay(settings, better("3"), request)).enriched == 15
    assert (await replay(settings, better(), request, again=True)).enriched == 15


async def test_a_dry_run_tells_the_range_and_does_nothing(plain):
    await plain.produce_reviews([Produced(review(n), partition=1) for n in range(4)])
    told = await replay(plain.settings(), better(), Request(plain.reviews), dry_run=True)
    assert told.plan.total == 4
    assert told.as_json()["partitions"][1] == {"partition": 1, "start": 0, "end": 4, "done": 0}
    json.dumps(told.as_json())
    assert await plain.read_enriched() == []


async def test_an_interrupted_replay_goes_on_where_it_was(stream):
    settings = stream.settings(max_in_flight_records=50, batch_tokens=256)
    produced = await stream.produce_reviews(_raw(3_000))
    enough = asyncio.Event()
    engine = better()

    def note(done: int, total: int) -> None:
        if done >= 100:
            engine.gate.clear()
            enough.set()

    run = asyncio.ensure_future(replay(settings, engine, Request(stream.reviews), progress=note))
    await asyncio.wait_for(enough.wait(), 30)
    run.cancel()
    engine.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await run
    first = await stream.read_enriched()
    assert 100 <= len(first) < 3_000
    rest = await replay(settings, better(), Request(stream.reviews))
    outputs = await stream.read_enriched()
    assert {source_of(output) for output in outputs} == {coordinates(record) for record in produced}
    assert rest.enriched < 3_000
    assert_order_per_key(outputs)
    if settings.delivery == "exactly_once":
        assert len(outputs) == 3_000


@pytest.mark.kafka
async def test_a_second_run_takes_over_from_a_stalled_one_and_nothing_is_double(kafka):
    stream = await Stream(kafka.bootstrap_servers, options={"delivery": "exactly_once"}).create()
    produced = await stream.produce_reviews(_raw(200))
    stalled = better()
    stalled.gate.clear()
    began, encode = threading.Event(), stalled.encode
    stalled.encode = lambda texts: began.set() or encode(texts)
    first = asyncio.ensure_future(replay(stream.settings(), stalled, Request(stream.reviews)))
    await asyncio.to_thread(began.wait, 30)
    assert (await replay(stream.settings(), better(), Request(stream.reviews))).plan.total == 200
    stalled.gate.set()
    with pytest.raises(RecoveryError, match="another run of this replay has begun"):
        await first
    assert sorted(map(source_of, await stream.read_enriched())) == sorted(map(coordinates, produced))


async def test_what_is_in_flight_stays_within_the_bounds(plain):
    await plain.produce_reviews([Produced(review(n), partition=n % 3) for n in range(3_000)])
    engine = better()
    engine.gate.clear()
    settings = plain.settings(max_in_flight_records=300)
    seen: list[int] = []
    encode = engine.encode
    engine.encode = lambda texts: seen.append(len(texts)) or encode(texts)
    run = asyncio.ensure_future(replay(settings, engine, Request(plain.reviews)))
    async with asyncio.timeout(30):
        while sum(seen) < 300:
            await asyncio.sleep(0.01)
    engine.gate.set()
    assert sum(seen) <= 800  # at most one fetch beyond the bound
    assert (await run).enriched == 3_000


@pytest.mark.kafka
async def test_a_record_too_large_for_its_topic_becomes_a_dead_letter(real):
    small = f"{real.name}.small"
    await create_topics(real.bootstrap_servers, small, partitions=1, **{"max.message.bytes": "2000"})
    await real.produce_reviews([*_raw(5), Produced(review(9, "부산", padding="x" * 5_000)), *_raw(5)])
    done = await replay(real.settings(compression="none"), better(), Request(real.reviews, output=small))
    assert done.dead_letters.keys() == {"too_large_to_publish"}
    assert len({source_of(letter) for letter in await real.read_dead_letters()}) == 1
    assert len({source_of(output) for output in await real._read(small, None)}) == 10


@pytest.mark.kafka
async def test_what_its_topic_refuses_for_good_stops_it_with_the_line_that_names_it(real):
    small, compacted = f"{real.name}.small", f"{real.name}.compacted"
    await create_topics(real.bootstrap_servers, small, partitions=1, **{"max.message.bytes": "2000"})
    await create_topics(real.bootstrap_servers, compacted, partitions=1, **{"cleanup.policy": "compact"})
    await real.produce_reviews([*_raw(5), Produced(None, key=b"k" * 5_000, partition=0)])
    await real.produce_queries(
        [*(Produced(query(n), key=b"k", partition=0) for n in range(5)), Produced(query(9), partition=0)]
    )
    settings = real.settings(compression="none")
    with pytest.raises(StreamError, match=f"{small}: refuses a tombstone of 5000 bytes"):
        await asyncio.wait_for(replay(settings, better(), Request(real.reviews, output=small)), 30)
    with pytest.raises(StreamError, match=rf"{compacted}: refuses what comes of {real.queries}\[0\] at offset 5 "):
        await asyncio.wait_for(replay(settings, better(), Request(real.queries, output=compacted)), 30)


async def test_a_broken_engine_stops_it_and_nothing_is_skipped(plain):
    await plain.produce_reviews(_raw(5))
    engine = better()
    engine.broken = True
    with pytest.raises(StreamError, match="fails on every text"):
        await replay(plain.settings(), engine, Request(plain.reviews))
    assert await plain.read_dead_letters() == []
    assert (await replay(plain.settings(), better(), Request(plain.reviews))).enriched == 5


async def test_what_cannot_be_asked_is_one_clear_line(plain):
    settings, engine = plain.settings(), better()
    cases = [
        (Request("some.topic"), "some.topic is neither a source nor an output"),
        (Request("some.topic", kind="review"), "some.topic has no output topic"),
        (Request(plain.reviews, output=plain.queries), f"{plain.queries} takes no enriched records"),
        (Request(plain.reviews, output=plain.dead_letters), f"{plain.dead_letters} takes no enriched records"),
        (Request(plain.reviews, offsets={7: (0, None)}), f"{plain.reviews} has no partition 7; it has 3, from 0 on"),
    ]
    for request, message in cases:
        with pytest.raises(RecoveryError, match=message):
            await replay(settings, engine, request)
    with pytest.raises(ReadingError, match=r"^nowhere: no such topic"):
        await replay(settings, engine, Request(plain.reviews, output="nowhere"))
