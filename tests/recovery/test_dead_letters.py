"""Dead letters on either broker: listed, shown, and sent back to where they came from, once."""

import asyncio
import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import orjson
import pytest
from aiokafka import TopicPartition
from aiokafka.producer.transaction_manager import TransactionManager
from audit_records import faults
from brokers import Produced, Record, produce, read_topic
from fake_engine import POISON, FakeEngine
from faults import configure
from running import Stream, review, running

from worker.audit.check import audit
from worker.audit.reading import ReadingError
from worker.recovery import sending_back
from worker.recovery.dead_letters import list_dead_letters, show_dead_letter
from worker.recovery.errors import RecoveryError
from worker.recovery.letters import Selection
from worker.recovery.sending_back import replay_dead_letters
from worker.settings import Settings

STAMP = int(time.time() - 3_600) * 1000  # recent: a broker deletes what is past its retention
REAL = (pytest.mark.kafka, pytest.mark.xdist_group("kafka"))
BROKERS = [
    pytest.param(("embedded", "at_least_once"), id="embedded"),
    pytest.param(("kafka", "at_least_once"), id="kafka", marks=REAL),
    pytest.param(("kafka", "exactly_once"), id="kafka-exactly-once", marks=REAL),
]
AT = datetime(2026, 3, 4, 12, tzinfo=UTC)


def _stream(request, broker: str, delivery: str) -> Stream:
    address = request.getfixturevalue(broker).bootstrap_servers
    options = {"delivery": delivery, "idempotence": broker == "kafka"}
    return asyncio.run(Stream(address, options=options).create())


@pytest.fixture(params=BROKERS)
def stream(request):
    return _stream(request, *request.param)


@pytest.fixture(params=BROKERS[:2])
def shelf(request):
    """For what does not depend on how it is delivered."""
    return _stream(request, *request.param)


def letter(source: str, offset: int, *, reason: str = "schema", partition: int = 0, **changes) -> Produced:
    """A dead letter of a record at `offset` of `source`, which failed `offset` minutes after `AT`."""
    headers = (
        ("trace", b"%d" % offset),
        *changes.pop("before", ()),
        ("koner-reason", reason.encode()),
        ("koner-detail", b"/text: 7 is not of type"),
        ("koner-topic", source.encode()),
        ("koner-partition", b"%d" % partition),
        ("koner-offset", b"%d" % offset),
        ("koner-failed-at", (AT + timedelta(minutes=offset)).isoformat().encode()),
    )
    value = b'{"text": "secret %d"}' % offset
    return replace(Produced(value, b"key-%d" % (offset % 3), headers, STAMP + offset), **changes)


async def _fill(stream: Stream, *letters: Produced) -> None:
    await produce(stream.bootstrap_servers, stream.dead_letters, letters)


async def _read(stream: Stream, topic: str) -> list[Record]:
    level = "read_committed" if stream.options["delivery"] == "exactly_once" else "read_uncommitted"
    return await read_topic(stream.bootstrap_servers, topic, isolation_level=level)


def _offset(record: Record) -> int:
    return int(dict(record.headers)["trace"])


async def test_letters_are_counted_by_source_and_reason(shelf):
    await _fill(
        shelf,
        *(letter(shelf.reviews, n) for n in range(5)),
        *(letter(shelf.queries, n, reason="not_json", before=(("koner-replayed", b"1"),)) for n in range(2)),
        Produced(b"no letter"),
    )
    steps = []
    listing = await list_dead_letters(
        shelf.settings(), examples=2, progress=lambda done, total: steps.append((done, total))
    )
    assert (listing.count, listing.unreadable) == (7, 1)
    groups = {(group.source, group.reason): group for group in listing.groups}
    reviews, queries = groups[shelf.reviews, "schema"], groups[shelf.queries, "not_json"]
    assert (reviews.count, reviews.failed_again, reviews.replayed) == (5, 0, 0)
    assert (queries.count, queries.failed_again) == (2, 2)
    assert (reviews.first, reviews.last) == (AT, AT + timedelta(minutes=4))
    assert {example.source.offset for example in reviews.examples} == {3, 4}
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]
    assert "secret" not in json.dumps(listing.as_json())
    assert "secret 4" in json.dumps(listing.as_json(words=True))


async def test_one_is_shown_whole(shelf):
    await _fill(shelf, *(letter(shelf.reviews, n, partition=0) for n in range(4)))
    listing = await list_dead_letters(shelf.settings(), examples=9)
    for example in listing.groups[0].examples:
        shown = await show_dead_letter(shelf.settings(), example.place.partition, example.place.offset)
        assert shown == example
        assert shown.as_json(words=True)["value"] == f'{{"text": "secret {shown.source.offset}"}}'


async def test_where_no_letter_lies_is_one_clear_line(shelf):
    settings = shelf.settings()
    with pytest.raises(RecoveryError, match=r"\[0\]@0: the partition holds offsets 0 to -1"):
        await show_dead_letter(settings, 0, 0)
    with pytest.raises(RecoveryError, match=r"\[9\]@0: the topic has no such partition"):
        await show_dead_letter(settings, 9, 0)
    await produce(shelf.bootstrap_servers, shelf.dead_letters, [Produced(b"x", partition=1)])
    with pytest.raises(RecoveryError, match=r"\[1\]@0: no dead letter lies there"):
        await show_dead_letter(settings, 1, 0)


async def test_a_replayed_letter_is_the_raw_record_again_with_a_mark_on_it(stream):
    own = (("koner-tenant", b"acme"),)  # the prefix is not ours alone
    await _fill(stream, *(letter(stream.reviews, n, partition=n % 3, before=own) for n in range(30)))
    sent = await replay_dead_letters(stream.settings())
    assert (sent.selected, sent.sent, sent.already) == (30, 30, 0)
    assert sent.by_source == {stream.reviews: {"schema": 30}}
    records = await _read(stream, stream.reviews)
    assert len(records) == 30
    for record in records:
        n = _offset(record)
        assert (record.partition, record.value, record.key) == (
            n % 3,
            b'{"text": "secret %d"}' % n,
            b"key-%d" % (n % 3),
        )
        assert record.timestamp_ms == STAMP + n
        assert record.headers == (("trace", b"%d" % n), *own, ("koner-replayed", b"1"))
    assert [_offset(record) for record in records if record.partition == 0] == list(range(0, 30, 3))


async def test_what_was_replayed_is_not_replayed_again_unless_asked(stream):
    settings = stream.settings()
    await _fill(stream, *(letter(stream.reviews, n, reason=("schema", "not_json")[n % 2]) for n in range(10)))
    first = await replay_dead_letters(settings, Selection(reasons=frozenset({"not_json"})))
    assert (first.selected, first.sent) == (5, 5)
    rest = await replay_dead_letters(settings)
    assert (rest.selected, rest.sent, rest.already) == (10, 5, 5)
    assert (await replay_dead_letters(settings)).sent == 0
    assert sorted(map(_offset, await _read(stream, stream.reviews))) == list(range(10))
    listing = await list_dead_letters(settings)
    assert [(group.count, group.replayed) for group in listing.groups] == [(5, 5), (5, 5)]
    assert listing.unreadable == 0
    again = await replay_dead_letters(settings, Selection(reasons=frozenset({"schema"})), again=True)
    assert (again.sent, again.already) == (5, 0)
    assert len(await _read(stream, stream.reviews)) == 15


async def test_of_several_letters_of_one_record_one_is_sent(stream):
    settings = stream.settings()
    again = [replace(letter(stream.reviews, 1), partition=n % 3) for n in range(6)]
    await _fill(stream, *again, replace(letter(stream.reviews, 1, partition=1), partition=0))
    planned = await replay_dead_letters(settings, dry_run=True)
    assert (planned.selected, planned.sent, planned.already) == (7, 2, 5)
    first = await replay_dead_letters(settings)
    assert replace(first, dry_run=True) == planned
    await _fill(stream, *again)
    assert (await replay_dead_letters(settings)).sent == 0
    (group,) = (await list_dead_letters(settings)).groups
    assert (group.count, group.replayed) == (13, 13)
    assert (await replay_dead_letters(settings, again=True)).sent == 2
    assert len(await _read(stream, stream.reviews)) == 4


@pytest.mark.kafka
@pytest.mark.parametrize(
    "options",
    [{}, {"idempotence": False}, {"delivery": "exactly_once"}],
    ids=["idempotent", "not-idempotent", "exactly-once"],
)
async def test_letters_that_their_topic_refuses_hold_up_no_others_and_are_told(kafka, options):
    given = {"delivery": "at_least_once", "max_publish_bytes": 1_000, **options}  # several batches a partition
    stream = await Stream(kafka.bootstrap_servers, options=given).create()
    settings = stream.settings()
    await configure(stream.bootstrap_servers, stream.reviews, **{"message.timestamp.before.max.ms": "7200000"})
    old = {0, 16, 17, 29}
    stamps = [STAMP - 86_400_000 if n in old else STAMP for n in range(30)]
    letters = [letter(stream.reviews, n, partition=n % 2, key=b"k", timestamp_ms=stamps[n]) for n in range(30)]
    await _fill(stream, *letters)
    for sent, already in ((26, 0), (0, 26)):
        done = await replay_dead_letters(settings)
        assert (done.selected, done.sent, done.already) == (30, sent, already)
        assert {(one.place.offset, one.topic, one.reason) for one in done.refused} == {
            (n, stream.reviews, "InvalidTimestampError") for n in old
        }
    arrived = list(map(_offset, await _read(stream, stream.reviews)))
    assert sorted(arrived) == sorted(set(range(30)) - old)
    await configure(stream.bootstrap_servers, stream.reviews, **{"message.timestamp.before.max.ms": str(10**15)})
    done = await replay_dead_letters(settings)
    assert (done.sent, done.already, done.refused) == (4, 26, [])
    assert sorted(map(_offset, await _read(stream, stream.reviews))) == list(range(30))


async def test_numbers_of_letters_that_failed_are_used_again_but_never_those_that_the_broker_has():
    numbers = TransactionManager(None, 0)
    some, other = TopicPartition("reviews", 0), TopicPartition("reviews", 1)
    numbers.increment_sequence_number(some, 5)
    numbers.increment_sequence_number(other, 1)
    failed = [(some, True), (other, True), *((some, has_failed) for has_failed in (True, False, True, True))]
    sending_back._take_back_numbers(SimpleNamespace(_txn_manager=numbers), failed)
    assert (numbers.sequence_number(some), numbers.sequence_number(other)) == (3, 0)


@pytest.mark.kafka
@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
async def test_a_marker_that_is_refused_is_one_clear_line(kafka, delivery):
    stream = await Stream(kafka.bootstrap_servers, options={"delivery": delivery}).create()
    await _fill(stream, *(letter(stream.reviews, n) for n in range(3)))
    await configure(stream.bootstrap_servers, stream.dead_letters, **{"cleanup.policy": "compact"})
    with pytest.raises(RecoveryError, match=f"^{stream.dead_letters}: refuses the note of what was sent"):
        await replay_dead_letters(stream.settings())


async def test_a_dry_run_tells_and_does_nothing(shelf):
    settings = shelf.settings()
    await _fill(shelf, *(letter(shelf.reviews, n) for n in range(4)), letter("elsewhere", 1))
    selection = Selection(since=AT + timedelta(minutes=1), until=AT + timedelta(minutes=3))
    told = await replay_dead_letters(settings, selection, dry_run=True)
    assert (told.dry_run, told.selected, told.sent, told.foreign) == (True, 3, 2, 1)
    assert await _read(shelf, shelf.reviews) == []
    done = await replay_dead_letters(settings, selection)
    assert replace(done, dry_run=True) == told
    assert sorted(map(_offset, await _read(shelf, shelf.reviews))) == [1, 2]


async def test_a_letter_larger_than_can_be_published_is_left_and_told(shelf):
    await _fill(shelf, letter(shelf.reviews, 0, value=b"x" * 5_000), letter(shelf.reviews, 1))
    sent = await replay_dead_letters(shelf.settings(max_publish_bytes=4_000))
    assert (sent.sent, sent.too_large) == (1, 1)


async def test_an_interruption_finishes_the_chunk_and_the_next_run_does_the_rest(stream, monkeypatch):
    settings = stream.settings()
    await _fill(stream, *(letter(stream.reviews, n, partition=0) for n in range(60)))
    monkeypatch.setattr(sending_back, "CHUNK", 7)
    noted, chunks = sending_back._Sender._note, []

    async def note(producer, sent):
        chunks.append(sent)
        if len(chunks) == 3:
            run.cancel()
            await asyncio.sleep(0)
        await noted(producer, sent)

    monkeypatch.setattr(sending_back._Sender, "_note", staticmethod(note))
    run = asyncio.ensure_future(replay_dead_letters(settings))
    with pytest.raises(asyncio.CancelledError):
        await run
    arrived = sum(map(len, chunks))
    assert len(await _read(stream, stream.reviews)) == arrived < 60
    rest = await replay_dead_letters(settings)
    assert (rest.already, rest.sent) == (arrived, 60 - arrived)
    assert sorted(map(_offset, await _read(stream, stream.reviews))) == list(range(60))


async def test_a_death_between_sending_and_noting_repeats_at_most_the_chunk_and_loses_nothing(stream, monkeypatch):
    settings = stream.settings()
    await _fill(stream, *(letter(stream.reviews, n) for n in range(9)))

    async def die(producer, sent):
        await producer.flush()
        raise SystemError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(sending_back._Sender, "_note", staticmethod(die))
        with pytest.raises(SystemError):
            await replay_dead_letters(settings)
    assert (await replay_dead_letters(settings)).sent == 9
    seen = sorted(map(_offset, await _read(stream, stream.reviews)))
    assert set(seen) == set(range(9))
    if settings.delivery == "exactly_once":
        assert seen == list(range(9))


@pytest.mark.kafka
@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
async def test_one_that_fails_again_is_told_apart_and_the_audit_stays_clean(kafka, delivery):
    stream = await Stream(kafka.bootstrap_servers, options={"delivery": delivery}).create()
    settings = stream.settings()
    await stream.produce_reviews([Produced(review(n, POISON if n < 2 else "부산"), key=b"k") for n in range(6)])
    await _work(stream, settings, 6)
    assert (await replay_dead_letters(settings)).sent == 2
    await _work(stream, settings, 2)
    (group,) = (await list_dead_letters(settings, examples=9)).groups
    assert (group.reason, group.count, group.replayed, group.failed_again) == ("model_error", 4, 2, 2)
    assert sorted(example.replays for example in group.examples) == [0, 0, 1, 1]
    second = await replay_dead_letters(settings)
    assert (second.sent, second.already) == (2, 2)
    records = await _read(stream, stream.reviews)
    assert (
        sorted(dict(record.headers).get("koner-replayed", b"") for record in records)
        == [b""] * 6 + [b"1"] * 2 + [b"2"] * 2
    )
    engine = FakeEngine()
    engine.forward = lambda windows: [[] for _ in windows]  # a better model
    await _work(stream, settings, 2, engine)
    report = await audit(settings, everything=True)
    assert faults(report) == {}
    assert (report.counts["raw"], report.counts["enriched"], report.counts["dead_letters"]) == (10, 6, 4)


async def _work(stream: Stream, settings: Settings, count: int, engine: FakeEngine | None = None) -> None:
    async with running(settings, engine) as worker:
        await worker.until(lambda: worker.value("koner_records_out_total") >= count)


async def test_a_source_that_is_gone_is_one_clear_line(shelf):
    await _fill(shelf, letter("gone.topic", 1))
    sources = [{"topic": "gone.topic", "kind": "review", "output": shelf.enriched}]
    with pytest.raises(ReadingError, match=r"^gone.topic: no such topic"):
        await replay_dead_letters(shelf.settings(sources=sources))


@pytest.mark.kafka
async def test_what_a_killed_run_left_open_hides_no_letter_from_the_next(kafka):
    stream = await Stream(kafka.bootstrap_servers, options={"delivery": "exactly_once"}).create()
    settings = stream.settings()
    await _fill(stream, *(letter(stream.reviews, n, key=b"k") for n in range(3)))
    killed = sending_back.make_producer(settings, transactional_id=f"koner-replay-{settings.group}")
    await killed.start()
    await killed.begin_transaction()
    for partition in range(3):
        await killed.send_and_wait(stream.dead_letters, b"{}", partition=partition)
    await _fill(stream, *(letter(stream.reviews, n, key=b"k") for n in range(3, 6)))
    assert (await replay_dead_letters(settings)).sent == 6
    assert sorted(map(_offset, await _read(stream, stream.reviews))) == list(range(6))
    await asyncio.gather(killed.stop(), return_exceptions=True)


@pytest.mark.kafka
async def test_a_second_run_takes_over_from_the_first(kafka, monkeypatch):
    stream = await Stream(kafka.bootstrap_servers, options={"delivery": "exactly_once"}).create()
    settings = stream.settings()
    await _fill(stream, *(letter(stream.reviews, n) for n in range(20)))
    noted = sending_back._Sender._note
    second: list[int] = []

    async def note(producer, sent):
        if not second:
            second.append(0)
            second[0] = (await replay_dead_letters(settings)).sent
        await noted(producer, sent)

    monkeypatch.setattr(sending_back._Sender, "_note", staticmethod(note))
    with pytest.raises(RecoveryError, match="another replay of dead letters has begun"):
        await replay_dead_letters(settings)
    assert second == [20]
    assert sorted(map(_offset, await _read(stream, stream.reviews))) == list(range(20))


def test_a_result_is_json():
    sent = sending_back.SentBack(False, 3, 1, 1, 1, 0, {"reviews.raw": {"schema": 1}})
    assert orjson.loads(orjson.dumps(sent.as_json()))["by_source"] == {"reviews.raw": {"schema": 1}}
