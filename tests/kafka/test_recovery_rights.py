"""What docs/recovery.md says a user needs for each command is enough, and each of it is needed and asked for."""

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from brokers import Produced, produce
from fake_engine import FakeEngine
from kafka_broker import KafkaMissing
from logging_state import logging_restored
from running import Stream, query, review
from secured_kafka import LIMITED, PASSWORD, Rule, SecuredKafka, secured_kafka
from typer.testing import CliRunner

from worker import cli
from worker.ner import loading

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka")]

STAMP = 1_772_625_600_000


@dataclass(frozen=True)
class Command:
    """A command line and the rules it needs; names are of the stream's topics and of its group."""

    arguments: str
    topics: tuple[tuple[str, str], ...]  # operation and topic
    others: tuple[Rule, ...] = ()
    delivery: str = "at_least_once"


LETTERS = (("Read", "dead_letters"), ("Write", "dead_letters"), ("Write", "reviews"), ("Write", "queries"))
AGAIN = (("Read", "reviews"), ("Write", "enriched"), ("Write", "dead_letters"))
PROGRESS = Rule("Read", "group", "koner-replay-{reviews}-", "prefixed")
COMMANDS = {
    "verify": Command(
        "verify",
        (("Read", "queries"), ("Read", "reviews"), ("Read", "enriched"), ("Read", "dead_letters")),
        (Rule("Describe", "group", "{group}"),),
    ),
    "dead-letters-list": Command("dead-letters list", (("Read", "dead_letters"),)),
    "dead-letters-replay": Command("dead-letters replay", LETTERS),
    "dead-letters-replay-exactly-once": Command(
        "dead-letters replay", LETTERS, (Rule("Write", "transactional-id", "koner-replay-{group}"),), "exactly_once"
    ),
    "replay": Command("replay {reviews}", AGAIN, (PROGRESS,)),
    "replay-exactly-once": Command(
        "replay {reviews}",
        AGAIN,
        (PROGRESS, Rule("Write", "transactional-id", "koner-koner-replay-{reviews}-", "prefixed")),
        "exactly_once",
    ),
}


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    try:
        with secured_kafka(tmp_path_factory.mktemp("secured"), LIMITED) as broker:
            yield broker
    except KafkaMissing as missing:
        pytest.fail(str(missing)) if os.environ.get("CI") else pytest.skip(str(missing))


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("KONER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(loading, "load_engine", lambda *_, **__: FakeEngine())
    with logging_restored():
        yield


def letter(topic: str, value: bytes) -> Produced:
    headers = {"reason": "model_error", "detail": "", "topic": topic, "partition": "0", "offset": "0"}
    headers["failed-at"] = "2026-03-04T12:00:01Z"
    ours = tuple((f"koner-{name}", text.encode()) for name, text in headers.items())
    return Produced(value, headers=ours, timestamp_ms=STAMP)


async def filled(secured: SecuredKafka) -> Stream:
    """Topics with a record that is fine and one that is not, and dead letters of both sources."""
    stream = await Stream(secured.broker.bootstrap_servers).create(partitions=1)
    await stream.produce_reviews([Produced(review(1), timestamp_ms=STAMP), Produced(b"{")])
    await stream.produce_queries([Produced(query(1), timestamp_ms=STAMP)])
    letters = [letter(stream.reviews, review(1)), letter(stream.queries, query(1))]
    await produce(stream.bootstrap_servers, stream.dead_letters, letters)
    return stream


def rules_of(command: Command, stream: Stream) -> list[Rule]:
    names = {"reviews": stream.reviews, "group": stream.settings().group}
    topics = [Rule(operation, "topic", getattr(stream, topic)) for operation, topic in command.topics]
    others = [Rule(one.operation, one.resource, one.name.format(**names), one.pattern) for one in command.others]
    return topics + others


def call(command: Command, stream: Stream, secured: SecuredKafka) -> Any:
    settings = stream.settings()
    variables = {
        **secured.way_in("SASL", sasl_username=LIMITED),
        "sources": json.dumps([source.model_dump() for source in settings.sources]),
        "dead_letter_topic": stream.dead_letters,
        "group": settings.group,
        "delivery": command.delivery,
    }
    arguments = command.arguments.format(reviews=stream.reviews).split()
    given = {f"KONER_{name.upper()}": str(value) for name, value in variables.items()}
    done = CliRunner().invoke(cli.koner, arguments, env=given)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert PASSWORD not in done.output
    return done


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_documented_rights_suffice(secured: SecuredKafka, command: Command) -> None:
    stream = asyncio.run(filled(secured))
    asyncio.run(secured.allow(LIMITED, rules_of(command, stream)))
    done = call(command, stream, secured)
    assert (done.exit_code, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("command", "number"),
    [
        pytest.param(command, number, id=f"{name}-{number}")
        for name, command in COMMANDS.items()
        for number in range(len(command.topics) + len(command.others))
    ],
)
def test_each_of_them_is_needed_and_asked_for(secured: SecuredKafka, command: Command, number: int) -> None:
    stream = asyncio.run(filled(secured))
    rules = rules_of(command, stream)
    missing = rules.pop(number)
    seen = Rule("Describe", missing.resource, missing.name, missing.pattern)
    asyncio.run(secured.allow(LIMITED, rules if missing.operation == "Describe" else [*rules, seen]))
    done = call(command, stream, secured)
    assert (done.exit_code, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert f"user {LIMITED} lacks " in done.stderr
