"""Tasks end, also those that let a cancellation pass."""

import asyncio

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError
from brokers import Produced
from running import Stream, coordinates, review, running, source_of

from worker.stream.delivery import Deliveries
from worker.stream.tasks import end_tasks


async def test_a_task_that_goes_on_after_a_cancellation_is_cancelled_again():
    cancelled = 0

    async def go_on_twice():
        nonlocal cancelled
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled += 1
                if cancelled == 3:
                    raise

    async def fail():
        raise ValueError("heard by nobody")

    stubborn, failed = asyncio.create_task(go_on_twice()), asyncio.create_task(fail())
    await asyncio.sleep(0)
    await end_tasks([stubborn, failed], again_seconds=0.001)
    assert cancelled == 3
    assert stubborn.cancelled()
    assert failed.done()


async def test_a_session_whose_fetch_goes_on_after_its_cancellation_is_followed_by_another(embedded, monkeypatch):
    # What asyncio.wait_for of Python 3.11 does where a response comes in the turn of the cancellation.
    stream = await Stream(
        embedded.bootstrap_servers, options={"session_timeout_seconds": 2.0, "idempotence": False}
    ).create()
    produced = await stream.produce_reviews([Produced(review(number)) for number in range(20)])
    went_on, failed = asyncio.Event(), asyncio.Event()
    fetch, send_next = AIOKafkaConsumer.getmany, Deliveries.send_next

    async def fetch_or_go_on(consumer, *partitions, **options):
        try:
            return await fetch(consumer, *partitions, **options)
        except asyncio.CancelledError:
            if went_on.is_set():
                raise
            went_on.set()
            return {}

    async def fail_once(deliveries, *arguments):
        if failed.is_set():
            return await send_next(deliveries, *arguments)
        failed.set()
        raise KafkaConnectionError("gone")

    monkeypatch.setattr(AIOKafkaConsumer, "getmany", fetch_or_go_on)
    monkeypatch.setattr(Deliveries, "send_next", fail_once)
    async with running(stream.settings()) as worker:
        await worker.until(lambda: worker.value("koner_rebalances_total") > 1)
        await worker.until(lambda: worker.value("koner_records_out_total") >= 20)
    assert {source_of(output) for output in await stream.read_enriched()} == set(map(coordinates, produced))
    assert went_on.is_set()
