"""kill -9 of a replay: nothing is lost, and under exactly once nothing is double."""

import pytest
from brokers import Produced, produce, read_topic
from replaying import replay_until
from running import Stream, assert_order_per_key, coordinates, review, source_of


@pytest.fixture(params=["at_least_once", "exactly_once"])
def delivery(request):
    return request.param


@pytest.mark.slow
async def test_a_replay_of_a_topic_survives_kills(kafka, delivery):
    stream = await Stream(kafka.bootstrap_servers, options={"delivery": delivery}).create()
    produced = await stream.produce_reviews([Produced(review(n), key=b"%d" % (n % 20)) for n in range(3_000)])
    assert not await replay_until(stream, "topic", 500)
    assert not await replay_until(stream, "topic", 1_500)
    assert await replay_until(stream, "topic", None)
    outputs = await stream.read_enriched()
    assert set(map(source_of, outputs)) == set(map(coordinates, produced))
    assert_order_per_key(outputs)
    if delivery == "exactly_once":
        assert len(outputs) == len(produced)


@pytest.mark.slow
async def test_a_replay_of_dead_letters_survives_kills(kafka, delivery):
    stream = await Stream(kafka.bootstrap_servers, options={"delivery": delivery}).create()
    letters = []
    for n in range(1_500):
        ours = {"reason": "schema", "topic": stream.reviews, "partition": n % 3, "offset": n}
        headers = [("trace", b"%d" % n), *((f"koner-{name}", str(value).encode()) for name, value in ours.items())]
        letters.append(Produced(b"raw", b"%d" % (n % 9), tuple(headers)))
    await produce(stream.bootstrap_servers, stream.dead_letters, letters)
    assert not await replay_until(stream, "dead-letters", 1_800)  # the first 1,500 are the search for markers
    assert not await replay_until(stream, "dead-letters", 2_400)
    assert await replay_until(stream, "dead-letters", None)
    level = "read_committed" if delivery == "exactly_once" else "read_uncommitted"
    records = await read_topic(stream.bootstrap_servers, stream.reviews, isolation_level=level)
    seen = [int(dict(record.headers)["trace"]) for record in records]
    assert set(seen) == set(range(1_500))
    assert len(seen) <= 1_500 + (2 * 200 if delivery == "at_least_once" else 0)
