import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import NodeNotReadyError
from fake_pipeline import ENGINE, FakePipeline

from worker.app import Host, HostError, HostStatus, create_app
from worker.process import serve
from worker.settings import Settings
from worker.stream.errors import StreamError

FAUST_PAGES = ("/stats/", "/router/", "/table/", "/graph/", "/performance/", "/favicon.ico", "/metrics/", "//")


async def test_pages_tell_that_a_working_worker_is_alive_and_ready(start) -> None:
    worker = await start()
    assert await worker.get("/health") == (200, {"alive": True, "problems": []})
    assert await worker.get("/ready") == (200, {"ready": True, "problems": []})


async def test_a_broker_that_is_away_fails_readiness_and_not_health(start) -> None:
    worker = await start()
    worker.pipeline.now = HostStatus(alive=True, ready=False, problems=("the broker b:9092 does not answer",))
    assert await worker.get("/ready") == (503, {"ready": False, "problems": ["the broker b:9092 does not answer"]})
    assert await worker.get("/health") == (200, {"alive": True, "problems": []})


async def test_a_hanging_engine_fails_health(start) -> None:
    worker = await start()
    worker.pipeline.now = HostStatus(alive=False, ready=False, problems=("the engine has been on one batch for 200 s",))
    status, body = await worker.get("/health")
    assert (status, body["problems"]) == (503, ["the engine has been on one batch for 200 s"])


async def test_a_data_plane_that_ended_fails_health_and_says_why(start) -> None:
    worker = await start()
    worker.pipeline.fail(StreamError("enriched.dead-letters: refuses a record"))
    with pytest.raises(StreamError, match="refuses a record"):
        await worker.app.wait_ended()
    for path in ("/health", "/ready"):
        status, body = await worker.get(path)
        assert status == 503
        assert body["problems"] == ["the worker ended: enriched.dead-letters: refuses a record"]


async def test_pages_are_served_while_the_data_plane_drains(start) -> None:
    worker = await start()
    worker.pipeline.may_stop.clear()
    stopping = asyncio.create_task(worker.app.stop())
    await worker.pipeline.stopping.wait()
    assert await worker.get("/ready") == (503, {"ready": False, "problems": ["stopping"]})
    assert (await worker.get("/health"))[0] == 200
    worker.pipeline.may_stop.set()
    await stopping
    assert worker.pipeline.stopped.is_set()
    await worker.app.wait_ended()


async def test_a_drain_that_fails_is_remembered(start) -> None:
    worker = await start()

    async def refuse() -> None:
        worker.pipeline.fail(StreamError("enriched: no such topic"))
        raise StreamError("enriched: no such topic")

    worker.pipeline.stop = refuse
    await worker.app.stop()
    with pytest.raises(StreamError, match="no such topic"):
        await worker.app.wait_ended()


@pytest.mark.parametrize("path", FAUST_PAGES)
async def test_no_other_page_exists(start, path: str) -> None:
    worker = await start()
    assert (await worker.get(path))[0] == 404


@pytest.mark.parametrize("path", ["/", "/metrics", "/health", "/ready", "/live.json"])
async def test_pages_only_tell(start, path: str) -> None:
    worker = await start()
    async with worker.client.post(worker.url(path), data=b"x") as answer:
        assert answer.status == 405
    async with worker.client.head(worker.url(path)) as answer:
        assert answer.status == 200
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_two_workers_in_one_process_do_not_meet(start) -> None:
    first, second = await start(), await start()
    assert first.app.address != second.app.address
    first.pipeline.metrics.records_in.labels("queries.raw").inc(3)
    assert 'koner_records_in_total{source="queries.raw"} 3.0' in (await first.get("/metrics"))[1]
    assert "koner_records_in_total{" not in (await second.get("/metrics"))[1]


async def test_what_should_not_happen_is_counted_from_zero(start) -> None:
    metrics = (await (await start()).get("/metrics"))[1]
    assert 'koner_dead_letters_total{reason="schema",source="queries.raw"} 0.0' in metrics
    assert 'koner_lost_records_total{source="reviews.raw"} 0.0' in metrics


async def test_a_port_that_is_taken_is_one_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        app = _app(web_port=port)
        with pytest.raises(HostError, match=rf"cannot serve pages on 127\.0\.0\.1:{port}: .*in use; set web_host or"):
            await app.start()
        await app.stop()
        assert not app.pipeline.started.is_set()
        assert not app.pipeline.stopped.is_set()


async def test_a_host_that_is_not_ours_is_one_clear_error() -> None:
    app = _app(web_host="192.0.2.1", web_port=0)
    with pytest.raises(HostError, match=r"cannot serve pages on 192\.0\.2\.1:0: Cannot assign"):
        await app.start()
    await app.stop()


async def test_nothing_is_written_and_the_environment_of_faust_does_not_count(
    start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"NODE_HOSTNAME": "x", "WEB_PORT": "1", "WEB_BIND": "192.0.2.1", "APP_DATADIR": "data"}.items():
        monkeypatch.setenv(name, value)
    worker = await start()
    assert (await worker.get("/health"))[0] == 200
    assert os.listdir(tmp_path) == []


async def test_sigterm_drains_the_worker() -> None:
    made: asyncio.Future[FakePipeline] = asyncio.get_running_loop().create_future()

    def make(*collaborators: Any) -> FakePipeline:
        pipeline = FakePipeline(*collaborators)
        made.set_result(pipeline)
        return pipeline

    serving = asyncio.create_task(serve(Settings(web_port=0), ENGINE, make))
    pipeline = await made
    await pipeline.started.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(serving, 10)
    assert pipeline.stopped.is_set()


async def test_what_ends_the_data_plane_ends_the_process_with_that_error() -> None:
    def make(*collaborators: Any) -> FakePipeline:
        pipeline = FakePipeline(*collaborators)
        pipeline.fail(StreamError("the broker refuses this worker"))
        return pipeline

    with pytest.raises(StreamError, match="refuses this worker"):
        await asyncio.wait_for(serve(Settings(web_port=0), ENGINE, make), 10)


NEVER_DRAINS = """
import sys, uvloop
from fake_pipeline import ENGINE, FakePipeline
from worker import logs
from worker.process import serve
from worker.settings import Settings

class Stuck(FakePipeline):
    async def start(self):
        print("started", flush=True)
        self.may_stop.clear()

    async def stop(self):
        print("draining", flush=True)
        await super().stop()

logs.configure("json")
uvloop.run(serve(Settings(web_port=0), ENGINE, Stuck))
"""


def test_a_second_signal_while_draining_ends_at_once() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", NEVER_DRAINS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "draining\n"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "ending at once" in errors
    assert "Traceback" not in errors


def _app(**settings: Any) -> Host:
    return create_app(Settings(**settings), ENGINE, make_pipeline=FakePipeline)


async def test_requests_the_kafka_client_left_behind_are_no_errors(caplog: pytest.LogCaptureFixture) -> None:
    made: asyncio.Future[FakePipeline] = asyncio.get_running_loop().create_future()

    def make(*collaborators: Any) -> FakePipeline:
        made.set_result(FakePipeline(*collaborators))
        return made.result()

    serving = asyncio.create_task(serve(Settings(web_port=0), ENGINE, make))
    await (await made).started.wait()
    loop = asyncio.get_running_loop()
    loop.call_exception_handler({"message": "never retrieved", "exception": NodeNotReadyError("node 1")})
    loop.call_exception_handler({"message": "never retrieved", "exception": ValueError("ours")})
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.wait_for(serving, 10)
    told = [record.exc_info for record in caplog.records if record.levelname == "ERROR"]
    assert [type(info[1]) for info in told if info] == [ValueError]
