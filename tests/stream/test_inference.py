import asyncio

import pytest
from aiokafka import TopicPartition
from fake_engine import POISON, FakeEngine

from worker.observe.metrics import Metrics
from worker.records import Document
from worker.settings import Source
from worker.stream.inference import Inference
from worker.stream.work import Partition, Work

PARTITION = Partition(TopicPartition("reviews.raw", 0), Source(topic="reviews.raw", kind="review", lane="bulk"))


class Running:
    """An inference whose works are collected."""

    def __init__(self, engine):
        self.done = []
        self.broken = []
        self.came = asyncio.Event()
        self.metrics = Metrics()
        self.inference = Inference(
            engine, self.metrics, batch_tokens=64, bulk_share=0.25, on_done=self._done, on_broken=self._broken
        )

    async def __aenter__(self):
        self.inference.start()
        return self

    async def __aexit__(self, *_):
        await self.inference.stop(10)

    def submit(self, *texts):
        works = [Work(None, PARTITION, Document(b"", text), 0.0) for text in texts]
        self.inference.submit(works)
        return works

    async def wait_for(self, condition):
        async with asyncio.timeout(10):
            while not condition():
                self.came.clear()
                await self.came.wait()

    def _done(self, works):
        self.done += works
        self.came.set()

    def _broken(self, error):
        self.broken.append(error)
        self.came.set()


async def test_every_text_comes_back_with_its_spans():
    async with Running(FakeEngine()) as running:
        works = running.submit(*[f"이병헌 {'가' * (number % 20)}" for number in range(300)])
        await running.wait_for(lambda: len(running.done) == 300)
        assert {id(work) for work in running.done} == {id(work) for work in works}
        assert all(work.error is None and [span.label for span in work.spans[0]] == ["PER"] for work in works)


async def test_blank_texts_come_back_without_the_engine():
    engine = FakeEngine()
    async with Running(engine) as running:
        running.submit("", "  ")
        await running.wait_for(lambda: len(running.done) == 2)
    assert engine.batches == []


async def test_a_poison_text_takes_no_other_one_down():
    async with Running(FakeEngine()) as running:
        running.submit("이병헌", f"{POISON} 송강호", "부산", "기생충")
        await running.wait_for(lambda: len(running.done) == 4)
        failed = [work.document.text for work in running.done if work.error is not None]
        assert failed == [f"{POISON} 송강호"]
        assert not running.broken


async def test_a_text_that_cannot_be_encoded_takes_no_other_one_down():
    class Engine(FakeEngine):
        def encode(self, texts):
            if any(POISON in text for text in texts):
                raise ValueError(POISON)
            return super().encode(texts)

    async with Running(Engine()) as running:
        running.submit("이병헌", POISON, "부산")
        await running.wait_for(lambda: len(running.done) == 3)
        (failed,) = [work for work in running.done if work.error is not None]
        assert failed.document.text == POISON
        assert POISON not in str(failed.error)


async def test_an_engine_that_fails_on_every_text_stops_the_stream_and_blames_no_text():
    engine = FakeEngine()
    engine.broken = True
    async with Running(engine) as running:
        running.submit("이병헌", "부산")
        await running.wait_for(lambda: running.broken)
        assert "fails on every text" in str(running.broken[0])
        assert running.done == []


async def test_a_hanging_engine_shows_in_how_long_it_has_been_running():
    engine = FakeEngine()
    engine.gate.clear()
    async with Running(engine) as running:
        running.submit("이병헌")
        async with asyncio.timeout(10):
            while running.inference.longest_running() == 0:
                await asyncio.sleep(0)
        engine.gate.set()
        await running.wait_for(lambda: running.done)
        async with asyncio.timeout(10):
            while running.inference.longest_running() > 0:
                await asyncio.sleep(0)


async def test_discarded_texts_never_reach_the_engine():
    engine = FakeEngine()
    engine.gate.clear()
    gone = Partition(TopicPartition("reviews.raw", 1), PARTITION.source)
    async with Running(engine) as running:
        running.submit("부산")
        running.inference.submit([Work(None, gone, Document(b"", "송강호"), 0.0) for _ in range(500)])
        running.submit("기생충")
        running.inference.discard(gone)
        engine.gate.set()
        await running.wait_for(lambda: len([w for w in running.done if w.partition is PARTITION]) == 2)
    # A chunk may have been under way to the lanes when its partition was discarded.
    assert sum(batch.count("송강호") for batch in engine.batches) <= 128


@pytest.mark.parametrize("texts", [1, 100])
async def test_what_ran_is_measured(texts):
    async with Running(FakeEngine()) as running:
        running.submit(*["부산 여행"] * texts)
        await running.wait_for(lambda: len(running.done) == texts)
        registry = running.metrics.registry
    assert registry.get_sample_value("koner_batch_tokens_total", {"lane": "bulk"}) == texts * 7
    assert registry.get_sample_value("koner_batch_windows_sum") == texts
