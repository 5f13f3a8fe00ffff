import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime

import pytest
from logging_state import logging_restored

from worker import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    with logging_restored():
        yield


def _lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_hold_time_level_logger_message_and_extras() -> None:
    stream = io.StringIO()
    logs.configure("json", stream=stream)
    logging.getLogger("worker.stream").info("committed %d", 3, extra={"partition": 7})
    (line,) = _lines(stream)
    assert datetime.fromisoformat(str(line.pop("time"))).utcoffset() is not None
    assert line == {"level": "info", "logger": "worker.stream", "message": "committed 3", "partition": 7}


def test_a_json_line_stays_one_line_with_a_traceback_and_line_breaks() -> None:
    stream = io.StringIO()
    logs.configure("json", stream=stream)
    try:
        raise ValueError("one\ntwo")
    except ValueError:
        logging.getLogger("worker").exception("failed:\n%s", object())
    (line,) = _lines(stream)
    assert "ValueError: one\ntwo" in str(line["exception"])


def test_auto_is_text_on_a_terminal_and_json_elsewhere() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        logs.configure("auto", stream=stream)
        logging.getLogger("worker.app").warning("hello")
    assert terminal.getvalue().endswith("warning worker.app: hello\n")
    assert _lines(pipe)[0]["message"] == "hello"


@pytest.mark.parametrize("name", ["aiokafka.consumer.group_coordinator", "faust.app", "mode.services", "aiohttp.web"])
def test_chatter_of_libraries_is_left_out_and_their_errors_are_not(name: str) -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    logging.getLogger(name).info("rejoining")
    logging.getLogger(name).error("refused")
    assert [line["message"] for line in _lines(stream)] == ["refused"]


def test_a_level_above_that_of_a_library_counts_for_it_too() -> None:
    stream = io.StringIO()
    logs.configure("json", "error", stream)
    logging.getLogger("aiokafka").warning("slow")
    assert stream.getvalue() == ""


def test_a_statement_of_a_client_comes_once_in_a_minute_and_tells_what_was_held_back() -> None:
    now = 0.0
    once = logs.OncePer(60.0, clock=lambda: now)
    stream = io.StringIO()
    logger = logging.getLogger("aiokafka.trial")
    handler = logging.StreamHandler(stream)
    handler.addFilter(once)
    logger.addHandler(handler)
    try:
        for second in range(0, 125, 5):
            now = float(second)
            logger.error("Unable connect to node with id %s", second)
            if second == 60:
                logger.error("something else")
    finally:
        logger.removeHandler(handler)
    assert stream.getvalue().splitlines() == [
        "Unable connect to node with id 0",
        "Unable connect to node with id 60 (and 11 lines like it)",
        "something else",
        "Unable connect to node with id 120 (and 11 lines like it)",
    ]


def test_our_own_lines_are_never_held_back() -> None:
    stream = io.StringIO()
    logs.configure("json", stream=stream)
    for _ in range(3):
        logging.getLogger("worker.stream.pipeline").warning("no session")
        logging.getLogger("aiokafka.client").error("Unable connect")
    assert [line["message"] for line in _lines(stream)] == ["no session", "Unable connect", "no session", "no session"]
