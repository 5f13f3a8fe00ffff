"""`koner demo` as a process: where stdout is a pipe, where it is a terminal, and where somebody has had enough."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from deployment import ROOT

from worker.demo.feed import samples
from worker.demo.show import forget_kafka_settings

PATIENCE_SECONDS = 90
PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from fake_engine import FakeEngine
from worker.demo.show import run
sys.exit(run(load_engine=lambda settings: FakeEngine(), **{options!r}))
"""


@contextmanager
def demo(
    *, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE, **options: object
) -> Iterator[subprocess.Popen]:
    """The demo with the tests' engine, in a process of its own that does not outlive the test."""
    program = PROGRAM.format(tests=str(ROOT / "tests"), options=options)
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    with subprocess.Popen(
        [sys.executable, "-P", "-c", program], stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_pipe_gets_every_record_as_a_json_line_and_nothing_else() -> None:
    with demo() as process:
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, errors.decode()
    records = [json.loads(line) for line in output.splitlines()]
    raw = {json.loads(sample.value)["text"] for sample in samples()}
    assert len(records) == len(samples())
    assert {record["text"] for record in records} == raw
    for record in records:
        assert list(record)[-2:] == ["entities", "enrichment"]
        for entity in record["entities"]:
            assert record["text"][entity["start"] : entity["end"]] == entity["text"]
    told = errors.decode()
    for words in ("first enriched record after", "630 enriched (162 queries, 468 reviews)", "records/s", "p50", "p99"):
        assert words in told
    assert "Traceback" not in told
    assert "http://" not in told


def test_records_start_over_until_as_many_as_asked_for_have_gone_through() -> None:
    with demo(records=1_500) as process:
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, errors.decode()
    assert len(output.splitlines()) == 1_500


def test_a_reader_who_leaves_ends_the_demo_quietly() -> None:
    with demo(records=1_000_000) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["entities"] is not None
        process.stdout.close()
        errors = process.stderr.read().decode()
        assert process.wait(PATIENCE_SECONDS) == 0, errors
    assert "Traceback" not in errors
    assert "Error" not in errors


def test_ctrl_c_half_way_ends_cleanly_and_leaves_no_broker_behind() -> None:
    with demo(records=1_000_000, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1
    assert re.search(r"koner demo: stopped after [\d,]+ of 1,000,000 records", errors.decode())
    assert "Traceback" not in errors.decode()
    assert psutil.wait_procs(children, timeout=5)[1] == []


def test_a_terminal_gets_coloured_lines_a_summary_and_the_live_page_until_ctrl_c(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with demo(stdout=theirs, stderr=theirs, records=200, port=0) as process:
        os.close(theirs)
        shown = _read_until(ours, r"http://127\.0\.0\.1:\d+/")
        page = re.search(r"http://127\.0\.0\.1:\d+/", shown)
        assert page is not None
        with urllib.request.urlopen(page[0]) as answer:
            assert "koner" in answer.read().decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 0
    os.close(ours)
    assert "\x1b[" in shown
    assert "이병헌" in shown
    assert "/PER" in shown
    assert "200/200" in shown
    assert "records/s" in shown
    assert "Traceback" not in shown


def _read_until(terminal: int, pattern: str) -> str:
    read = b""
    while not re.search(pattern, read.decode(errors="ignore")):
        read += os.read(terminal, 65_536)
    return read.decode(errors="ignore")


def test_a_port_that_is_taken_is_told_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with demo(port=port) as process:
            output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1
    assert output == b""
    assert errors.decode().count("\n") == 1
    assert f"koner demo: cannot serve pages on 127.0.0.1:{port}" in errors.decode()


@pytest.mark.parametrize("variable", ["KONER_BATCH_TOKENS"])
def test_a_wrong_setting_of_the_environment_is_told_in_one_line(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "many")
    with demo() as process:
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1
    assert errors.decode().startswith("koner demo: KONER_BATCH_TOKENS: ")
    assert errors.decode().count("\n") == 1


def test_the_users_own_kafka_settings_do_not_reach_the_demo() -> None:
    environment = {
        "KONER_BOOTSTRAP_SERVERS": "production:9092",
        "KONER_SECURITY_PROTOCOL": "SASL_SSL",
        "KONER_SASL_PASSWORD_FILE": "/run/secrets/not-here",
        "KONER_SOURCES": "[]",
        "KONER_TAXONOMY": "movies",
        "HOME": "/home/somebody",
    }
    forget_kafka_settings(environment)
    assert environment == {"KONER_TAXONOMY": "movies", "HOME": "/home/somebody"}
