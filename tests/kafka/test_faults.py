"""What goes wrong around the worker, on a real Kafka and in both delivery modes: the broker and the way to it."""

import asyncio
import os
import subprocess
import time
from contextlib import contextmanager

import pytest
from faults import assert_all_came_out, at_work, both_modes, reviews, until_committed, until_out, until_told
from kafka_broker import KafkaBroker
from proxy import Proxy

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("harmed")]


async def test_a_broker_that_restarts_is_waited_for(harmed):
    streams = await both_modes(harmed.bootstrap_servers)
    for stream in streams:
        await stream.produce_reviews(reviews(900))
    async with at_work(streams) as workers:
        await until_out(workers, 100)
        await asyncio.to_thread(harmed.stop)
        try:
            await until_told(workers, "does not answer")
            for worker in workers:
                await worker.until(lambda worker=worker: worker.value("koner_broker_up") == 0)
                assert worker.pipeline.status().alive
        finally:
            await asyncio.to_thread(harmed.start)
        await until_committed(streams)
        for worker in workers:
            await worker.until_ready()
            await worker.until(lambda worker=worker: worker.value("koner_broker_up") == 1)
    await assert_all_came_out(streams, raw=900)


async def test_a_broker_frozen_longer_than_the_session_timeout_is_waited_for(harmed):
    streams = await both_modes(harmed.bootstrap_servers)
    for stream in streams:
        await stream.produce_reviews(reviews(900))
    async with at_work(streams) as workers:
        await until_out(workers, 100)
        harmed.freeze()
        frozen = time.monotonic()
        try:
            await until_told(workers, "does not answer")
            for worker in workers:
                await worker.until(lambda worker=worker: worker.value("koner_broker_up") == 0)
            thaw_at = frozen + 2 * streams[0].settings().session_timeout_seconds
            await asyncio.sleep(max(0.0, thaw_at - time.monotonic()))
        finally:
            harmed.thaw()
        await until_committed(streams)
        for worker in workers:
            await worker.until_ready()
    await assert_all_came_out(streams, raw=900)


async def test_a_slow_network_that_cuts_connections_costs_time_and_nothing_else(harmed):
    streams = await both_modes(harmed.bootstrap_servers)
    for stream in streams:
        await stream.produce_reviews(reviews(600))
    delay, cuts = 0.03, 6
    through = f"127.0.0.1:{harmed.proxy_port}"
    async with (
        Proxy(harmed.proxy_port, harmed.behind_proxy, delay=delay) as proxy,
        at_work(streams, bootstrap_servers=through) as workers,
    ):
        for number in range(cuts):
            await until_out(workers, 40 * (number + 1))
            assert proxy.cut()
        await until_committed(streams)
        for worker in workers:
            publishing = worker.value("koner_stage_seconds_sum", stage="publish")
            assert publishing > 2 * delay * worker.value("koner_stage_seconds_count", stage="publish")
        assert sum(worker.value("koner_publish_retries_total") for worker in workers) > 0
    await assert_all_came_out(streams, raw=600)


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own, in memory."""
    with small_disk(tmp_path, megabytes=96) as path:
        yield path


@pytest.fixture
def broker_on_disk(harmed, disk):  # `harmed` skips where there is no Kafka
    with KafkaBroker({"log.dirs": str(disk / "data")}) as broker:
        yield broker


async def test_a_full_disk_ends_the_broker_and_loses_nothing(disk, broker_on_disk):
    streams = await both_modes(broker_on_disk.bootstrap_servers)
    for stream in streams:
        await stream.produce_reviews(reviews(900))
    async with at_work(streams) as workers:
        await until_out(workers, 100)
        ballast = disk / "ballast"
        fill(ballast)
        await until_told(workers, "does not answer")
        for worker in workers:
            await worker.until(lambda worker=worker: worker.value("koner_broker_up") == 0)
            assert worker.value("koner_records_out_total") < 900
        ballast.unlink()
        await asyncio.to_thread(broker_on_disk.restart)
        await until_committed(streams)
    await assert_all_came_out(streams, raw=900)


@contextmanager
def small_disk(path, megabytes):
    """A file system of its own, in memory; skips where none may be mounted."""
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(path)]
    if os.geteuid() or subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(ballast):
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
