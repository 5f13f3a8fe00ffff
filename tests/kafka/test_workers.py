"""Workers as processes, killed, stopped and scaled under load: a real Kafka, both delivery modes."""

import asyncio
import os
import random
import signal
from contextlib import asynccontextmanager

import pytest
from faults import MODES
from kafka.storm import feed, made_up_records, storm

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("harmed"), pytest.mark.slow]

RATE = 200.0


@pytest.mark.parametrize("delivery", MODES)
async def test_two_workers_then_three_then_one_lose_nothing_to_a_kill_and_a_sigterm(harmed, tiny_model, delivery):
    options = {"delivery": delivery, "session_timeout_seconds": 3.0}
    async with storm(harmed, model=str(tiny_model), **options) as it, feeding(it) as records:
        first, second = it.add_worker(), it.add_worker()
        await until_reading(first, second)
        await first.end(signal.SIGKILL)  # in the middle of a batch: records come all the time
        first.start()
        third = it.add_worker()
        await until_reading(first, second, third)
        rebalances = await metric(second, "koner_rebalances_total")
        assert await first.end(signal.SIGTERM) == 0
        assert await third.end(signal.SIGTERM) == 0
        async with asyncio.timeout(30):
            while await metric(second, "koner_assigned_partitions") < 8:
                await asyncio.sleep(0.1)
        assert await metric(second, "koner_rebalances_total") > rebalances
        await records.stop()
        await it.until_committed(1.0, timeout=60)
        assert await second.end(signal.SIGTERM) == 0
        report = await it.audit()
    assert report.clean, report.as_json()
    assert report.counts["raw"] == records.count > 0


async def test_a_kill_doubles_no_more_than_was_published_since_the_last_commit(harmed, tiny_model):
    kills, interval = int(os.environ.get("KILLS", "3")), 1.0
    async with storm(
        harmed, model=str(tiny_model), commit_interval_seconds=interval, session_timeout_seconds=2.0
    ) as it:
        doubled = await kill_under_load(it, kills, interval)
        print(f"{kills} kills, {doubled} records doubled")
    # What came in one interval, and as much again for the commit's own way and an uneven feed.
    assert doubled <= kills * 2 * RATE * interval


async def kill_under_load(it, kills, interval):
    """Kill a worker again and again, at any point between two commits; returns how many records came out twice."""
    worker, generator = it.add_worker(), random.Random(kills)
    async with feeding(it) as records:
        for _ in range(kills):
            await until_reading(worker)
            await until_caught_up(it)
            await asyncio.sleep(generator.uniform(0, interval))  # a poll sees commits as they come
            await worker.end(signal.SIGKILL)
            worker.start()
        await until_reading(worker)
        await records.stop()
        await it.until_committed(1.0, timeout=60)
    report = await it.audit()
    assert report.clean, report.as_json()
    assert report.counts["raw"] == records.count > 0
    return report.counts["double"]


class Feeding:
    """Records that come in all the time."""

    def __init__(self, it):
        self._stopped = False
        self.count = 0
        self._task = asyncio.create_task(feed(it, made_up_records(1), until=lambda: self._stopped, rate=RATE))

    async def stop(self):
        self._stopped = True
        self.count = await self._task


@asynccontextmanager
async def feeding(it):
    records = Feeding(it)
    try:
        yield records
    finally:
        await records.stop()


async def metric(worker, name):
    return await asyncio.to_thread(worker.metric, name)


async def until_reading(*workers):
    """Wait until every worker has partitions and has published something from them."""
    async with asyncio.timeout(60):
        for worker in workers:
            while not (
                await metric(worker, "koner_assigned_partitions") and await metric(worker, "koner_records_out_total")
            ):
                assert worker.running, f"{worker.name} ended"
                await asyncio.sleep(0.1)


async def until_caught_up(it):
    """Wait until less than a second's records are uncommitted."""
    async with asyncio.timeout(60):
        while True:
            done, end = await it.committed()
            if end - done < RATE:
                return
            await asyncio.sleep(0.1)
