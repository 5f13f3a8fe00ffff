"""What an engine can do wrong, on a real Kafka and in both delivery modes."""

import pytest
from fake_engine import POISON, FakeEngine
from faults import assert_all_came_out, at_work, both_modes, committed, ending, reviews, until_committed

from worker.ner.errors import EngineOutOfMemory

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka")]


async def test_a_text_the_engine_raises_on_becomes_a_dead_letter_and_no_other_one_does(kafka):
    streams = await both_modes(kafka.bootstrap_servers)
    for stream in streams:
        await stream.produce_reviews([*reviews(50), *reviews(1, POISON), *reviews(50)])
    async with at_work(streams, FakeEngine) as workers:
        await until_committed(streams)
        for worker in workers:
            await worker.until(
                lambda worker=worker: worker.value("koner_dead_letters_total", reason="model_error") == 1
            )
            assert worker.value("koner_engine_errors_total", kind="error") > 0
    await assert_all_came_out(streams, raw=101, enriched=100, dead_letters=1)


async def test_an_engine_that_raises_on_every_text_stops_the_stream_and_blames_none(kafka):
    streams = await both_modes(kafka.bootstrap_servers)
    for stream in streams:
        await stream.produce_reviews(reviews(50))
    async with at_work(streams, broken_engine) as workers:
        for worker in workers:
            assert "fails on every text" in await ending(worker)
            assert not worker.pipeline.status().alive
            assert worker.value("koner_engine_errors_total", kind="error") > 0
            assert worker.value("koner_records_out_total") == 0
    for stream in streams:
        assert await committed(stream) == (0, 50)
        assert await stream.read_dead_letters() == []
    async with at_work(streams, FakeEngine):
        await until_committed(streams)
    await assert_all_came_out(streams, raw=50, enriched=50)


async def test_an_engine_that_hangs_fails_the_health_check_and_commits_nothing(kafka):
    streams = await both_modes(kafka.bootstrap_servers)
    for stream in streams:
        await stream.produce_reviews(reviews(50))
    async with at_work(streams, hanging_engine, engine_deadline_seconds=0.5, grace_seconds=0.1) as workers:
        for worker in workers:
            await worker.until(lambda worker=worker: not worker.pipeline.status().alive)
            assert any("on one batch for" in problem for problem in worker.pipeline.status().problems)
            await worker.until(lambda worker=worker: worker.value("koner_in_flight_records") == 50)
            assert worker.value("koner_records_out_total") == 0
        for stream in streams:
            assert await committed(stream) == (0, 50)
            assert await stream.read_enriched() == []
        for worker in workers:
            worker.engine.gate.set()
    async with at_work(streams, FakeEngine):
        await until_committed(streams)
    await assert_all_came_out(streams, raw=50, enriched=50)


async def test_an_engine_out_of_memory_gets_smaller_batches_and_every_record_comes_out(kafka):
    streams = await both_modes(kafka.bootstrap_servers)
    for stream in streams:
        await stream.produce_reviews(reviews(200))
    async with at_work(streams, lambda: FakeEngine(on_forward=at_most_two)) as workers:
        whole = [worker.value("koner_batch_token_budget") for worker in workers]
        await until_committed(streams)
        for worker, budget in zip(workers, whole, strict=True):
            assert worker.value("koner_engine_errors_total", kind="out_of_memory") > 0
            await worker.until(
                lambda worker=worker, budget=budget: worker.value("koner_batch_token_budget") <= budget / 2
            )
    await assert_all_came_out(streams, raw=200, enriched=200)


def broken_engine():
    engine = FakeEngine()
    engine.broken = True
    return engine


def hanging_engine():
    engine = FakeEngine()
    engine.gate.clear()
    return engine


def at_most_two(windows):
    if len(windows) > 2:
        raise EngineOutOfMemory("out of memory")
