from threading import Thread

import pytest
from aiokafka import TopicPartition
from fake_engine import FakeEngine

from worker.records import Document
from worker.settings import Source
from worker.stream.lanes import BULK, SHORT, Lanes
from worker.stream.work import Partition, Work

PARTITIONS = {
    SHORT: Partition(TopicPartition("queries.raw", 0), Source(topic="queries.raw", kind="query", lane="short")),
    BULK: Partition(TopicPartition("reviews.raw", 0), Source(topic="reviews.raw", kind="review", lane="bulk")),
}
ENGINE = FakeEngine()


def works(lane, *texts, partition=None):
    made = []
    for text in texts:
        work = Work(None, partition or PARTITIONS[lane], Document(b"", text), 0.0)
        (work.encoded,) = ENGINE.encode([text])
        made.append(work)
    return made


def texts_of(batch):
    return [entry.work.document.text for entry in batch.waiting]


@pytest.fixture
def lanes():
    return Lanes(bulk_share=0.25, most_tokens=1000)


def test_a_query_overtakes_the_reviews_that_came_before_it(lanes):
    lanes.put(BULK, works(BULK, *["긴 감상평입니다"] * 20))
    lanes.put(SHORT, works(SHORT, "송강호"))
    assert texts_of(lanes.take(50)) == ["송강호"]


def test_bulk_keeps_its_share_of_tokens_while_queries_never_end(lanes):
    for _ in range(100):
        lanes.put(BULK, works(BULK, "가나다라마바사아"))
        lanes.put(SHORT, works(SHORT, "가나다라마바사아"))
    taken = [lanes.take(10) for _ in range(100)]
    bulk = sum(batch.tokens for batch in taken if batch.lane == BULK)
    assert bulk / sum(batch.tokens for batch in taken) == pytest.approx(0.25, abs=0.02)


def test_a_batch_stays_in_the_budget_and_holds_the_oldest(lanes):
    lanes.put(BULK, works(BULK, "가" * 30, "나" * 3, "다" * 31, "라" * 3, "마" * 90))
    batch = lanes.take(100)
    assert texts_of(batch) == ["가" * 30, "다" * 31]
    assert batch.tokens + batch.padding <= 100
    assert texts_of(lanes.take(100)) == ["나" * 3, "라" * 3]


def test_what_is_not_taken_keeps_its_place(lanes):
    lanes.put(BULK, works(BULK, "가" * 8, "나" * 40, "다" * 8, "라" * 40))
    lanes.take(20)
    assert texts_of(lanes.take(42)) == ["나" * 40]
    assert texts_of(lanes.take(42)) == ["라" * 40]


def test_discarding_a_partition_leaves_the_others(lanes):
    gone = Partition(TopicPartition("reviews.raw", 1), PARTITIONS[BULK].source)
    lanes.put(BULK, works(BULK, "가가") + works(BULK, "나나", partition=gone) + works(BULK, "다다"))
    lanes.discard(gone)
    assert texts_of(lanes.take(100)) == ["가가", "다다"]


def test_a_full_lane_makes_its_encoder_wait_until_a_batch_is_taken():
    lanes = Lanes(bulk_share=0.25, most_tokens=10)
    lanes.put(BULK, works(BULK, "가" * 8))
    assert not lanes.has_room(BULK)
    assert lanes.has_room(SHORT)
    room = []
    waiting = Thread(target=lambda: room.append(lanes.wait_for_room(BULK)))
    waiting.start()
    lanes.take(100)
    waiting.join(10)
    assert room == [True]


def test_closing_wakes_whoever_waits(lanes):
    taken = []
    waiting = Thread(target=lambda: taken.append(lanes.take(100)))
    waiting.start()
    lanes.close()
    waiting.join(10)
    assert taken == [None]
