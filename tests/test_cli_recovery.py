"""The commands that check and recover, as a user calls them, on the embedded broker."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import InvalidTimestampError
from brokers import Produced, produce
from fake_engine import FakeEngine
from logging_state import logging_restored
from running import Stream, review
from typer.testing import CliRunner

from worker import cli
from worker.demo.broker import EmbeddedBroker
from worker.ner import loading
from worker.recovery import sending_back

COMMANDS = (
    ("verify",),
    ("dead-letters", "list"),
    ("dead-letters", "show", "0@0"),
    ("dead-letters", "replay"),
    ("replay", "reviews.raw"),
)
BAD = (b'{"review_id": "1", "text": 7}', b"no JSON, and a secret")


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str

    @property
    def json(self):
        return json.loads(self.stdout)

    @property
    def line(self) -> str:
        """What the command says when it fails: one line, and nothing on stdout."""
        (line,) = self.stderr.splitlines()
        assert self.stdout == ""
        return line.removeprefix("koner: ")


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("KONER_")]:
        monkeypatch.delenv(name)
    with logging_restored():
        yield


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Engines of rules in place of models, but for what is no name; gets the name of each that was loaded."""
    loaded: list[str] = []
    load = loading.load_engine

    def load_rules(model: str, **options: Any) -> Any:
        if "/" in model:
            return load(model, **options)
        loaded.append(model)
        return FakeEngine()

    monkeypatch.setattr(loading, "load_engine", load_rules)
    return loaded


@pytest.fixture
def stream(embedded: EmbeddedBroker) -> Stream:
    return asyncio.run(Stream(embedded.bootstrap_servers).create(partitions=2))


def environment(stream: Stream) -> dict[str, str]:
    settings = stream.settings()
    return {
        "KONER_BOOTSTRAP_SERVERS": stream.bootstrap_servers,
        "KONER_GROUP": settings.group,
        "KONER_SOURCES": json.dumps([source.model_dump() for source in settings.sources]),
        "KONER_DEAD_LETTER_TOPIC": stream.dead_letters,
        "KONER_IDEMPOTENCE": "false",
    }


def koner(*arguments: str, stream: Stream | None = None, **variables: str) -> Done:
    """Run the command line in this process."""
    given = (environment(stream) if stream is not None else {}) | variables
    result = CliRunner().invoke(cli.koner, arguments, env=given)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


def fill(stream: Stream, good: int = 4) -> None:
    """Raw reviews, of which two are bad, in partition 0."""
    records = [Produced(review(n), b"k", (("trace", b"7"),), partition=0) for n in range(good)]
    records += [Produced(value, b"k", (("trace", b"7"),), partition=0) for value in BAD]
    asyncio.run(stream.produce_reviews(records))


def enrich(stream: Stream) -> Done:
    """Enrich the reviews that `fill` made; it leaves dead letters of the two that are bad."""
    done = koner("replay", stream.reviews, stream=stream)
    assert (done.returncode, done.stderr) == (0, "")
    return done


def test_a_topic_goes_through_a_model_once(stream: Stream, engines: list[str]) -> None:
    fill(stream)
    planned = koner("replay", stream.reviews, "--model", "better", "--dry-run", stream=stream).json
    assert engines == ["better"]
    assert (planned["dry_run"], planned["output"], planned["enriched"]) == (True, stream.enriched, 0)
    assert planned["partitions"][0] == {"partition": 0, "start": 0, "end": 6, "done": 0}
    done = enrich(stream).json
    assert (done["enriched"], done["dead_letters"]) == (4, {"schema": 1, "not_json": 1})
    assert enrich(stream).json["enriched"] == 0
    again = koner("replay", stream.reviews, "--offsets", "0:1-3", "--again", stream=stream)
    assert again.json["enriched"] == 2
    unloaded = koner("replay", stream.reviews, "--model", "./no/such", stream=stream)
    assert (unloaded.returncode, unloaded.line) == (1, "model ./no/such: no such folder")
    elsewhere = koner("replay", "no.such.topic", stream=stream)
    assert (elsewhere.returncode, elsewhere.line) == (
        1,
        "no.such.topic is neither a source nor an output in these settings; say whether its records are "
        "query, review or enriched",
    )


def test_verify_is_content_where_everything_came_out(stream: Stream) -> None:
    fill(stream)
    enrich(stream)
    done = koner("verify", "--everything", "--no-doubles", stream=stream)
    assert (done.returncode, done.stderr) == (0, "")
    counts = done.json["counts"]
    assert done.json["clean"]
    assert (counts["raw"], counts["enriched"], counts["dead_letters"], counts["missing"]) == (6, 4, 2, 0)
    koner("replay", stream.reviews, "--again", stream=stream)
    assert koner("verify", "--everything", stream=stream).returncode == 0
    twice = koner("verify", "--everything", "--no-doubles", stream=stream)
    assert (twice.returncode, twice.stderr) == (1, "koner: not clean: double 6\n")


def test_verify_names_what_is_missing_and_fails(stream: Stream) -> None:
    fill(stream)
    pending = koner("verify", stream=stream)
    assert (pending.returncode, pending.json["counts"]["pending"]) == (0, 6)
    done = koner("verify", "--everything", "--examples", "1", "--from", f"{stream.reviews}[0]@2", stream=stream)
    assert (done.returncode, done.stderr) == (1, "koner: not clean: missing 4\n")
    (partition,) = (one for one in done.json["partitions"] if one["raw"])
    (example,) = partition["faults"]["missing"]["examples"]
    assert example == {"source": {"topic": stream.reviews, "partition": 0, "offset": 2}}
    nowhere = koner("verify", "--from", f"{stream.reviews}[9]@2", stream=stream)
    assert (nowhere.returncode, nowhere.line) == (1, f"--from {stream.reviews}[9]: there is no such partition")


def test_dead_letters_are_listed_without_words_unless_they_are_asked_for(stream: Stream) -> None:
    fill(stream)
    enrich(stream)
    done = koner("dead-letters", "list", stream=stream)
    assert (done.returncode, done.stderr) == (0, "")
    assert {(group["source"], group["reason"], group["count"]) for group in done.json["groups"]} == {
        (stream.reviews, "schema", 1),
        (stream.reviews, "not_json", 1),
    }
    assert "secret" not in done.stdout
    chosen = koner(
        "dead-letters", "list", "--words", "--reason", "not_json", "--since", "2026-01-01T00:00Z", stream=stream
    )
    (group,) = chosen.json["groups"]
    assert group["examples"][0]["value"] == BAD[1].decode()
    before = koner("dead-letters", "list", "--source", stream.reviews, "--until", "2026-01-01T00:00Z", stream=stream)
    assert before.json["count"] == 0


def test_a_dead_letter_is_shown_whole(stream: Stream) -> None:
    fill(stream)
    enrich(stream)
    listed = koner("dead-letters", "list", "--reason", "schema", stream=stream).json["groups"][0]["examples"][0][
        "place"
    ]
    shown = koner("dead-letters", "show", f"{listed['partition']}@{listed['offset']}", stream=stream)
    assert shown.returncode == 0
    assert (shown.json["value"], shown.json["key"], shown.json["headers"]) == (BAD[0].decode(), "k", [["trace", "7"]])
    assert shown.json["detail"] == '/text: 7 is not of type "string"'
    nothing = koner("dead-letters", "show", "0@99", stream=stream)
    assert nothing.returncode == 1
    assert nothing.line.startswith(f"{stream.dead_letters}[0]@99: ")


def test_dead_letters_are_sent_back_once(stream: Stream) -> None:
    fill(stream, good=1)
    enrich(stream)
    planned = koner("dead-letters", "replay", "--dry-run", stream=stream)
    assert (planned.json["dry_run"], planned.json["sent"]) == (True, 2)
    done = koner("dead-letters", "replay", "--reason", "schema", stream=stream)
    assert (done.returncode, done.stderr, done.json["sent"]) == (0, "", 1)
    assert done.json["by_source"] == {stream.reviews: {"schema": 1}}
    rest = koner("dead-letters", "replay", stream=stream)
    assert (rest.returncode, rest.json["sent"], rest.json["already"]) == (0, 1, 1)
    assert rest.stderr == "koner: left out, as they were sent back before: 1; --again sends them once more\n"
    assert koner("dead-letters", "replay", "--again", stream=stream).json["sent"] == 2
    nobody = koner("dead-letters", "replay", "--at", "0@999", stream=stream)
    assert nobody.stderr == "koner: places where no dead letter lies that is meant: 1\n"
    pending = koner("verify", stream=stream)
    assert (pending.returncode, pending.json["counts"]["raw"]) == (0, 3 + 4)


def test_dead_letters_that_cannot_be_sent_back_are_told_of(stream: Stream) -> None:
    def letter(topic: str, value: bytes) -> Produced:
        headers = {"reason": "schema", "detail": "/text", "topic": topic, "partition": "0", "offset": "1"}
        return Produced(value, headers=tuple((f"koner-{name}", text.encode()) for name, text in headers.items()))

    letters = [letter("of.another", b"{}"), letter(stream.reviews, b"x" * 5_000)]
    asyncio.run(produce(stream.bootstrap_servers, stream.dead_letters, letters))
    done = koner("dead-letters", "replay", stream=stream, KONER_MAX_PUBLISH_BYTES="2000")
    assert (done.returncode, done.json["foreign"], done.json["too_large"], done.json["sent"]) == (0, 1, 1, 0)
    assert [line.split(";")[0] for line in done.stderr.splitlines()] == [
        "koner: left where they are, of topics that are no source in these settings: 1",
        "koner: left where they are, larger than max_publish_bytes: 1",
    ]


def test_letters_that_their_topic_refuses_are_named(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(stream)
    enrich(stream)
    send_one = sending_back._Sender._send_one

    async def refuse(producer: Any, letter: Any, at: Any) -> Any:
        if letter.value != BAD[0]:
            return await send_one(producer, letter, at)
        refused = asyncio.get_running_loop().create_future()
        refused.set_exception(InvalidTimestampError())
        return refused

    monkeypatch.setattr(sending_back._Sender, "_send_one", staticmethod(refuse))
    done = koner("dead-letters", "replay", stream=stream)
    assert (done.returncode, done.json["sent"], done.json["refused"]) == (1, 1, 1)
    (line,) = done.stderr.splitlines()
    (place,) = koner("dead-letters", "list", "--reason", "schema", stream=stream).json["groups"][0]["examples"]
    at = f"{place['place']['partition']}@{place['place']['offset']}"
    told = f"koner: left where they are, refused by {stream.reviews} (InvalidTimestampError): 1, at {at}; check"
    assert line.startswith(told)


def test_nothing_of_a_dead_letter_is_obeyed_by_a_terminal(stream: Stream) -> None:
    value = "no JSON: \x1b]0;title\x07\x9b31m\x7f끝"
    asyncio.run(stream.produce_reviews([Produced(value.encode(), b"\x1bc", partition=0)]))
    enrich(stream)
    listed = koner("dead-letters", "list", "--words", stream=stream)
    (example,) = listed.json["groups"][0]["examples"]
    assert (example["value"], example["key"]) == (value, "\x1bc")
    assert not set(listed.stdout) & set("\x1b\x07\x9b\x7f")
    code, shown = at_a_terminal(stream, "dead-letters", "list", "--words", TERM="xterm", COLUMNS="300")
    assert code == 0
    assert r"no JSON: \x1b]0;title\x07\x9b31m\x7f끝" in shown
    assert r"\x1bc" in shown
    assert not set(shown) & set("\x07\x9b\x7f")
    assert "\x1b]" not in shown


def test_a_person_at_a_terminal_gets_tables(stream: Stream) -> None:
    fill(stream)
    code, shown = at_a_terminal(stream, "verify", "--everything", "--examples", "1")
    assert code == 1
    assert "raw record" in shown
    assert f"{stream.reviews}[0]@0" in shown
    assert "koner: not clean: missing 6" in shown
    assert "{" not in shown


def at_a_terminal(stream: Stream, *arguments: str, **variables: str) -> tuple[int, str]:
    """Run a command at a terminal; returns its exit code and what is seen there."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.cli", *arguments],
        env={**os.environ, **environment(stream), "COLUMNS": "160", "TERM": "dumb", **variables},
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    with os.fdopen(controller, "rb", buffering=0) as output, contextlib.suppress(OSError):  # its way to say the end
        shown = b""
        for part in iter(lambda: output.read(1 << 16), b""):
            shown += part
    return process.wait(60), shown.decode()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("verify", "--from", "reviews.raw@3"), "--from reviews.raw@3: give TOPIC[PARTITION]@OFFSET, as"),
        (("verify", "--from", "other[0]@3"), "--from other[0]: give a source's topic: queries.raw, reviews.raw"),
        (("dead-letters", "list", "--since", "yesterday"), "--since yesterday: give a time with its zone, as"),
        (("dead-letters", "list", "--since", "2026-03-04"), "--since 2026-03-04: give a time with its zone, as"),
        (("dead-letters", "list", "--reason", "dull"), "--reason dull: give one of not_utf8, not_json, schema,"),
        (("dead-letters", "show", "118"), "dead letter 118: give PARTITION@OFFSET, as 0@118"),
        (("dead-letters", "replay", "--at", "0:118"), "--at 0:118: give PARTITION@OFFSET, as 0@118"),
        (
            ("dead-letters", "replay", "--since", "2026-03-05T00:00Z", "--until", "2026-03-04T00:00Z"),
            "--since 2026-03-05T00:00Z is not before --until 2026-03-04T00:00Z",
        ),
        (("replay", "reviews.raw", "--offsets", "100-200"), "--offsets 100-200: give PARTITION:FIRST-END, as"),
        (("replay", "reviews.raw", "--offsets", "0:9-9"), "--offsets 0:9-9: END is the offset after the last"),
        (
            ("replay", "reviews.raw", "--offsets", "0", "--offsets", "0:1-"),
            "--offsets 0:1-: partition 0 is given twice",
        ),
    ],
)
def test_a_wrong_call_is_one_clear_line(arguments: tuple[str, ...], told: str) -> None:
    done = koner(*arguments)
    assert done.returncode == 2
    assert done.line.startswith(told)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_broker_that_is_away_is_one_clear_line(command: tuple[str, ...]) -> None:
    done = koner(*command, "--bootstrap-servers", "127.0.0.1:9")
    assert done.returncode == 1
    assert done.line.startswith("no answer from 127.0.0.1:9 (KafkaConnectionError)")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_topics_that_are_missing_are_one_clear_line(command: tuple[str, ...], stream: Stream) -> None:
    variables = {**environment(stream), "KONER_DEAD_LETTER_TOPIC": "not.there"}
    command = tuple(stream.reviews if argument == "reviews.raw" else argument for argument in command)
    done = koner(*command, **variables)
    assert (done.returncode, done.line) == (1, "not.there: no such topic, or no right to see it")


@pytest.mark.parametrize(
    ("number", "command", "told"),
    [
        (signal.SIGINT, ("verify",), "interrupted; nothing was changed"),
        (
            signal.SIGTERM,
            ("dead-letters", "replay"),
            "interrupted; what was sent is noted, and the same command goes on with the rest",
        ),
    ],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_command_that_is_interrupted_says_so_in_one_line(
    number: signal.Signals, command: tuple[str, ...], told: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes connections, and answers nothing
        deaf.settimeout(60)
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", *command, "--bootstrap-servers", address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(cli.__file__).parents[2],
        )
        connection, _ = deaf.accept()
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
        connection.close()
    assert (process.returncode, stdout, stderr) == (1, "", f"koner: {told}\n")
