"""Workers that stall, restart and share partitions: what readers of a real Kafka see of it in each delivery mode."""

import asyncio
from threading import Event, Thread, current_thread

import pytest
from aiokafka import AIOKafkaProducer
from brokers import read_topic
from fake_engine import FakeEngine
from faults import MODES, assert_all_came_out, at_work, reviews, slow_engine, until_committed
from running import Running, Stream, running, source_of

from worker.observe.live import Recent
from worker.observe.metrics import Metrics
from worker.stream.pipeline import Pipeline

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka")]


@pytest.mark.parametrize("delivery", MODES)
async def test_what_a_stalled_worker_still_publishes_after_its_partitions_moved_is_not_seen_twice(
    kafka, delivery, monkeypatch
):
    options = {"delivery": delivery, "session_timeout_seconds": 2.0}
    stream = await Stream(kafka.bootstrap_servers, options=options).create()
    await stream.produce_reviews(reviews(300))
    zombie = Zombie(stream.settings(), monkeypatch)
    zombie.start()
    await asyncio.to_thread(zombie.stalled.wait, 60)
    async with running(stream.settings()) as successor:
        await successor.until(lambda: successor.value("koner_assigned_partitions") == 6)
        await until_committed([stream])
        zombie.wake.set()
        await successor.until(lambda: zombie.worker.value("koner_rebalances_total") >= 2)
        await asyncio.to_thread(zombie.end)
    (report,) = await assert_all_came_out([stream], raw=300)
    written = await read_topic(kafka.bootstrap_servers, stream.enriched)
    doubles = len(written) - len({source_of(record) for record in written})
    assert doubles > 0  # the zombie did write what its successor wrote too
    if delivery == "exactly_once":
        assert report.counts["double"] == 0
        assert zombie.worker.value("koner_transactions_total", outcome="abandoned") > 0
    else:
        assert report.counts["double"] == doubles


async def test_a_transaction_holds_whole_records_with_their_dead_letters_and_offsets(kafka):
    """A reader that sees an output sees the offset committed: never one without the other."""
    stream = await Stream(kafka.bootstrap_servers, options={"delivery": "exactly_once"}).create()
    await stream.produce_reviews(reviews(400))
    async with at_work([stream]) as (worker,):
        await worker.until(lambda: worker.value("koner_transactions_total", outcome="committed") >= 5)
        seen = await stream.read_enriched()
        await worker.until(lambda: worker.value("koner_records_out_total") == 400)
    await assert_all_came_out([stream], raw=400, enriched=400)
    assert 0 < len(seen) <= 400


@pytest.mark.parametrize("delivery", MODES)
async def test_a_restart_with_a_name_of_its_own_in_the_group_moves_no_partitions(kafka, delivery):
    stream = await Stream(kafka.bootstrap_servers, options={"delivery": delivery}).create()
    async with at_work([stream], slow_engine, group_instance_id="a") as (first,):
        await first.until_ready()
        async with at_work([stream], slow_engine, group_instance_id="b") as (second,):
            for worker in (first, second):
                await worker.until(lambda worker=worker: worker.value("koner_assigned_partitions") == 3)
            before = first.value("koner_rebalances_total")
            await stream.produce_reviews(reviews(300))
            await second.until(lambda: second.value("koner_records_out_total") > 20)
        async with at_work([stream], slow_engine, group_instance_id="b") as (second,):
            await second.until(lambda: second.value("koner_assigned_partitions") == 3)
            await stream.produce_reviews(reviews(100))
            await until_committed([stream])
            assert first.value("koner_rebalances_total") == before
            assert first.value("koner_assigned_partitions") == 3
    (report,) = await assert_all_came_out([stream], raw=400)
    assert report.counts["double"] == 0


class Zombie(Thread):
    """A worker in a thread of its own that stalls, loop and all, when it has written and not yet committed."""

    def __init__(self, settings, monkeypatch):
        super().__init__(name="zombie", daemon=True)
        self._settings = settings
        self.stalled = Event()
        self.wake = Event()
        self.worker = None
        self._loop = None
        self._ended = None
        transactional = settings.delivery == "exactly_once"
        name = "commit_transaction" if transactional else "send_batch"
        monkeypatch.setattr(AIOKafkaProducer, name, self._stalling(getattr(AIOKafkaProducer, name), not transactional))

    def _stalling(self, call, after):
        async def stalling(producer, *arguments, **options):
            ours = current_thread() is self and not self.stalled.is_set()
            if ours and not after:
                self._stall()
            result = await call(producer, *arguments, **options)
            if ours and after:
                await asyncio.shield(result)
                self._stall()
            return result

        return stalling

    def _stall(self):
        self.stalled.set()
        assert self.wake.wait(60), "the test never woke the zombie"

    def run(self):
        asyncio.run(self._work())

    async def _work(self):
        engine, metrics = FakeEngine(), Metrics()
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        pipeline = Pipeline(self._settings, engine, metrics, Recent())
        self.worker = Running(pipeline, engine, metrics)
        await pipeline.start()
        await self._ended.wait()
        await pipeline.stop()

    def end(self):
        self._loop.call_soon_threadsafe(self._ended.set)
        self.join(60)
        assert not self.is_alive()
