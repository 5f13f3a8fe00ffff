"""Logging in to a real Kafka that demands it, with right and wrong credentials, and with just enough rights."""

import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import uvloop
from brokers import Produced
from fake_engine import FakeEngine
from kafka_broker import KafkaMissing, free_ports
from running import Stream, query, review, running
from secured_kafka import KEY_PASSWORD, LIMITED, PASSWORD, Rule, SecuredKafka, secured_kafka

from worker.observe.live import Recent
from worker.observe.metrics import Metrics
from worker.settings import SettingsError, load
from worker.stream.access import AccessRefused, check_access
from worker.stream.connection import client_options
from worker.stream.errors import StreamError
from worker.stream.pipeline import Pipeline

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka")]

ROOT = Path(__file__).parents[2]
WRONG = "wr0ng-of-the-tests"
SECRETS = (PASSWORD, KEY_PASSWORD, WRONG)
LEAVER = "leaver"  # a user whose password is withdrawn
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

# `koner run` with an engine of rules instead of a model.
WORKER = """
import sys
from fake_engine import FakeEngine
from worker import process
from worker.settings import load
process.engine_of = lambda _: FakeEngine()
sys.exit(process.run(load()))
"""


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    try:
        with secured_kafka(tmp_path_factory.mktemp("secured"), LIMITED, LEAVER) as broker:
            yield broker
    except KafkaMissing as missing:
        pytest.fail(str(missing)) if os.environ.get("CI") else pytest.skip(str(missing))


def ways_in(secured: SecuredKafka) -> dict[str, dict[str, Any]]:
    client, open_client = secured.client, secured.client_key_open
    key_password = secured.authority.certificate.with_name("key-password")
    key_password.write_text(f"{KEY_PASSWORD}\n")
    password = key_password.with_name("password")
    password.write_text(f"{PASSWORD}\n")
    return {
        "tls": secured.way_in("TLS"),
        "client certificate": secured.way_in("MUTUAL", ssl_certfile=str(open_client.together())),
        "client certificate, encrypted key": secured.way_in(
            "MUTUAL",
            ssl_certfile=str(client.certificate),
            ssl_keyfile=str(client.key),
            ssl_key_password_file=str(key_password),
        ),
        "plain": secured.way_in("SASL", sasl_mechanism="PLAIN"),
        "plain over tls": secured.way_in("SASLTLS", sasl_mechanism="PLAIN"),
        "scram-sha-256": secured.way_in("SASL", sasl_mechanism="SCRAM-SHA-256"),
        "scram-sha-512 over tls, password in a file": secured.way_in(
            "SASLTLS", sasl_password=None, sasl_password_file=str(password)
        ),
    }


@pytest.mark.parametrize(
    "way",
    [
        "tls",
        "client certificate",
        "client certificate, encrypted key",
        "plain",
        "plain over tls",
        "scram-sha-256",
        "scram-sha-512 over tls, password in a file",
    ],
)
async def test_records_flow_by_every_way_in(secured: SecuredKafka, way: str) -> None:
    stream = await Stream(secured.broker.bootstrap_servers).create()
    await stream.produce_reviews([Produced(review(number)) for number in range(5)])
    async with running(stream.settings(**ways_in(secured)[way])) as worker:
        assert len(await stream.read_enriched(5)) == 5
        await worker.until_ready()


def wrong_ways(secured: SecuredKafka) -> dict[str, tuple[dict[str, Any], str]]:
    """What is set, and what the line says after the broker's address."""
    stranger = str(secured.stranger.certificate)
    foreign = secured.foreign_client
    return {
        "password, plain": (
            secured.way_in("SASL", sasl_mechanism="PLAIN", sasl_password=WRONG),
            "the broker refuses user koner (PLAIN); check sasl_username and sasl_password",
        ),
        "password, scram": (
            secured.way_in("SASLTLS", sasl_password=WRONG),
            "the broker refuses user koner (SCRAM-SHA-512); check sasl_username and sasl_password",
        ),
        "user": (
            secured.way_in("SASLTLS", sasl_mechanism="SCRAM-SHA-256", sasl_username="nobody"),
            "the broker refuses user nobody (SCRAM-SHA-256); check sasl_username and sasl_password",
        ),
        "authority": (
            secured.way_in("TLS", ssl_cafile=stranger),
            "the broker's certificate is not trusted: unable to get local issuer certificate; "
            "give the certificate of its authority in ssl_cafile",
        ),
        "authority, before a password is sent": (
            secured.way_in("SASLTLS", ssl_cafile=stranger, sasl_mechanism="PLAIN"),
            "the broker's certificate is not trusted: unable to get local issuer certificate; "
            "give the certificate of its authority in ssl_cafile",
        ),
        "name in the certificate": (
            secured.way_in("MISNAMED"),
            "the broker's certificate is not trusted: IP address mismatch, certificate is not valid for '127.0.0.1'; "
            "connect by a name that the certificate holds",
        ),
        "no client certificate": (
            secured.way_in("MUTUAL"),
            "the broker asks for a client certificate (bad certificate); give ssl_certfile and ssl_keyfile",
        ),
        "client certificate of a stranger": (
            secured.way_in("MUTUAL", ssl_certfile=str(foreign.certificate), ssl_keyfile=str(foreign.key)),
            f"the broker refuses the certificate {foreign.certificate} (certificate unknown); "
            "give one in ssl_certfile that it trusts",
        ),
        "no tls where it is spoken": (
            {"bootstrap_servers": secured.broker.bootstrap("TLS")},
            "the broker speaks TLS here; set security_protocol to SSL or SASL_SSL, or give another listener's port",
        ),
        "tls where it is not spoken": (
            secured.way_in("TLS", bootstrap_servers=secured.broker.bootstrap_servers),
            "the broker speaks no TLS here; set security_protocol accordingly, or give its TLS listener's port",
        ),
        "password in the clear where tls is spoken": (
            secured.way_in("SASL", bootstrap_servers=secured.broker.bootstrap("SASLTLS")),
            "the broker speaks TLS here; set security_protocol to SASL_SSL, or give another listener's port",
        ),
        "no user where one is demanded": (
            {"bootstrap_servers": secured.broker.bootstrap("SASL")},
            "the broker demands a user and a password; set security_protocol to SASL_PLAINTEXT, sasl_mechanism to "
            "one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, sasl_username and sasl_password",
        ),
        "a user where none is taken": (
            secured.way_in("SASL", bootstrap_servers=secured.broker.bootstrap_servers),
            "the broker takes no credentials here; set security_protocol to PLAINTEXT, "
            "or give its SASL listener's port",
        ),
    }


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    "wrong",
    [
        "password, plain",
        "password, scram",
        "user",
        "authority",
        "authority, before a password is sent",
        "name in the certificate",
        "no client certificate",
        "client certificate of a stranger",
        "no tls where it is spoken",
        "tls where it is not spoken",
        "password in the clear where tls is spoken",
        "no user where one is demanded",
        "a user where none is taken",
    ],
)
def test_a_wrong_way_in_is_one_clear_line(secured: SecuredKafka, wrong: str, loop: str) -> None:
    options, told = wrong_ways(secured)[wrong]
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner, pytest.raises(AccessRefused) as refused:
        runner.run(check_access(load(**options)))
    assert str(refused.value) == f"{options['bootstrap_servers']}: {told}"


def test_a_broker_that_is_away_is_no_refusal_and_one_that_lets_us_in_is_enough(
    secured: SecuredKafka, caplog: pytest.LogCaptureFixture
) -> None:
    (port,) = free_ports(1)
    right = secured.way_in("TLS")
    asyncio.run(check_access(load(**{**right, "bootstrap_servers": f"127.0.0.1:{port}"})))
    both = f"127.0.0.1:{port},{secured.broker.bootstrap('MISNAMED')},{right['bootstrap_servers']}"
    asyncio.run(check_access(load(**{**right, "bootstrap_servers": both})))
    assert [record.getMessage() for record in caplog.records if record.name == "worker.stream.access"] == [
        f"{secured.broker.bootstrap('MISNAMED')}: the broker's certificate is not trusted: IP address mismatch, "
        "certificate is not valid for '127.0.0.1'; connect by a name that the certificate holds; "
        "other brokers let this worker in"
    ]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"ssl_cafile": "nowhere.pem"}, "ssl_cafile nowhere.pem: No such file or directory"),
        ({"ssl_cafile": __file__}, "holds no certificate; give a PEM file of certificates"),
        ({"ssl_certfile": "nowhere.pem"}, "ssl_certfile nowhere.pem: No such file or directory"),
        ({"ssl_certfile": __file__}, "holds no certificate, or its key is missing"),
        ({"ssl_keyfile": "client"}, "the key is encrypted and does not open; give ssl_key_password or"),
        ({"ssl_keyfile": "client", "ssl_key_password": WRONG}, "the key is encrypted and does not open; check"),
        ({"ssl_keyfile": "foreign-client"}, "is not the key of the certificate in"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_one_clear_line(
    secured: SecuredKafka, options: dict[str, str], told: str
) -> None:
    options = dict(options)
    if "ssl_keyfile" in options:
        options["ssl_keyfile"] = str(secured.client.key.with_name(f"{options['ssl_keyfile']}.key"))
        options["ssl_certfile"] = str(secured.client.certificate)
    settings = load(**secured.way_in("MUTUAL", **options))
    with pytest.raises(SettingsError) as refused:
        client_options(settings)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    assert WRONG not in str(refused.value)


@pytest.mark.parametrize("wrong", ["password, plain", "authority", "no client certificate"])
def test_the_worker_ends_with_one_line_and_tells_no_secret(secured: SecuredKafka, wrong: str) -> None:
    options, told = wrong_ways(secured)[wrong]
    if wrong == "password, plain":
        options = secured.way_in("SASLTLS", sasl_mechanism="PLAIN", sasl_password=WRONG)
    done = subprocess.run(
        [sys.executable, "-c", WORKER], env=environment(**options), capture_output=True, text=True, timeout=60
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    wrongs = [line for line in lines if line["level"] not in ("debug", "info")]
    assert done.returncode == 1
    assert [(line["level"], line["message"]) for line in wrongs] == [
        ("error", f"{options['bootstrap_servers']}: {told}")
    ]
    assert_no_secret(done.stdout + done.stderr)


@pytest.mark.parametrize("wrong", ["password, scram", "name in the certificate"])
def test_a_command_ends_with_the_same_line(secured: SecuredKafka, wrong: str) -> None:
    options, told = wrong_ways(secured)[wrong]
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", "topics", "list"],
        env=environment(**options),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == f"koner: {options['bootstrap_servers']}: {told}\n"


async def test_a_worker_that_is_let_in_tells_no_secret(secured: SecuredKafka) -> None:
    stream = await Stream(secured.broker.bootstrap_servers).create()
    await stream.produce_reviews([Produced(review(1))])
    settings = stream.settings(**secured.way_in("SASLTLS", sasl_mechanism="PLAIN"))
    sources = json.dumps([source.model_dump() for source in settings.sources])
    options = secured.way_in("SASLTLS", sasl_mechanism="PLAIN", sources=sources, group=settings.group)
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        WORKER,
        env=environment(**options, dead_letter_topic=settings.dead_letter_topic),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        await stream.read_enriched(1)
        worker.send_signal(signal.SIGTERM)
        said, _ = await asyncio.wait_for(worker.communicate(), 30)
    finally:
        if worker.returncode is None:
            worker.kill()
    assert worker.returncode == 0
    assert "assigned" in said.decode()
    assert_no_secret(said.decode())


@asynccontextmanager
async def counted(target: str) -> AsyncIterator[tuple[str, list[None]]]:
    """An address that passes connections on to `target`, and one item for each of them."""
    host, port = target.split(":")
    made: list[None] = []

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.append(None)
        other_reader, other_writer = await asyncio.open_connection(host, int(port))

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65_536):
                    sink.write(data)
                    await sink.drain()
            except OSError:
                pass
            finally:
                sink.close()

        await asyncio.gather(copy(reader, other_writer), copy(other_reader, writer))

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    try:
        yield "127.0.0.1:{1}".format(*server.sockets[0].getsockname()), made
    finally:
        server.close()


@pytest.mark.parametrize(("wrong", "most"), [("password, scram", 1), ("authority", 1), ("no client certificate", 2)])
async def test_a_refused_worker_does_not_try_again(secured: SecuredKafka, wrong: str, most: int) -> None:
    options, told = wrong_ways(secured)[wrong]
    async with counted(options["bootstrap_servers"]) as (address, connections):
        pipeline = Pipeline(load(**{**options, "bootstrap_servers": address}), FakeEngine(), Metrics(), Recent())
        await pipeline.start()
        try:
            with pytest.raises(AccessRefused, match=re.escape(told)):
                await asyncio.wait_for(pipeline.wait(), 30)
        finally:
            await pipeline.stop()
        assert 1 <= len(connections) <= most


def documented_rules(stream: Stream, delivery: str) -> list[Rule]:
    """The rules of docs/security.md for a way of delivery, with this stream's names."""
    names = {
        "queries.raw": stream.queries,
        "reviews.raw": stream.reviews,
        "enriched": stream.enriched,
        "enriched.dead-letters": stream.dead_letters,
        "koner": f"{stream.name}.group",
        "koner-koner-": f"koner-{stream.name}.group-",
    }
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rules = []
    for line in re.findall(r"^kafka-acls .*$", text, flags=re.MULTILINE):
        words = shlex.split(line)
        pairs = list(pairwise(words))
        (operation,) = (value for option, value in pairs if option == "--operation")
        pattern = next((value for option, value in pairs if option == "--resource-pattern-type"), "literal")
        rules += [
            Rule(operation, option.removeprefix("--"), names[value], pattern)
            for option, value in pairs
            if option in ("--topic", "--group", "--transactional-id", "--cluster")
        ]
    return [rule for rule in rules if rule.resource != "transactional-id" or delivery == "exactly_once"]


def as_limited(secured: SecuredKafka, stream: Stream, delivery: str) -> dict[str, Any]:
    stream.options["delivery"] = delivery
    return secured.way_in("SASL", sasl_username=LIMITED)


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
async def test_the_documented_rules_suffice(secured: SecuredKafka, delivery: str) -> None:
    stream = await Stream(secured.broker.bootstrap_servers).create()
    rules = documented_rules(stream, delivery)
    assert len(rules) == (6 if delivery == "exactly_once" else 5)
    await secured.allow(LIMITED, rules)
    await stream.produce_reviews([Produced(review(1)), Produced(b"{")])
    await stream.produce_queries([Produced(query(1))])
    async with running(stream.settings(**as_limited(secured, stream, delivery))) as worker:
        assert len(await stream.read_enriched(2)) == 2
        assert len(await stream.read_dead_letters(1)) == 1
        await worker.until(
            lambda: delivery == "exactly_once" or worker.value("koner_commits_total", outcome="done") > 0
        )
        assert worker.value("koner_commits_total", outcome="failed") == 0


RIGHTS = {
    "queries": "Read on topic {0.queries}",
    "reviews": "Read on topic {0.reviews}",
    "enriched": "Write on topic {0.enriched}",
    "dead-letters": "Write on topic {0.dead_letters}",
    "group": "Read on group {0.name}.group",
    "transactional-id": "Write and Describe on transactional ids with the prefix koner-{0.name}.group-",
}


@pytest.mark.parametrize(
    ("delivery", "without"),
    [
        (delivery, name)
        for delivery in ("at_least_once", "exactly_once")
        for name in RIGHTS
        if name != "transactional-id" or delivery == "exactly_once"
    ],
)
async def test_each_of_the_documented_rules_is_needed_and_told_where_it_is_missing(
    secured: SecuredKafka, delivery: str, without: str
) -> None:
    stream = await Stream(secured.broker.bootstrap_servers).create()
    rules = documented_rules(stream, delivery)
    (missing,) = (rule for rule in rules if without in (rule.resource, rule.name.rpartition(".")[2]))
    reduced = [replace(rule, operation="Describe") if rule is missing else rule for rule in rules]
    await secured.allow(LIMITED, reduced)
    # In one transaction, so that what is refused takes the other with it.
    await stream.produce_reviews([Produced(review(1), partition=0), Produced(b"{", partition=0)])
    await stream.produce_queries([Produced(query(1))])
    settings = stream.settings(**as_limited(secured, stream, delivery))
    told = f"user {LIMITED} lacks {RIGHTS[without].format(stream)}; grant it with kafka-acls"
    assert told in await how_it_ends(settings)


async def test_a_topic_that_the_user_may_not_see_is_named(secured: SecuredKafka) -> None:
    stream = await Stream(secured.broker.bootstrap_servers).create()
    rules = [rule for rule in documented_rules(stream, "at_least_once") if rule.name != stream.enriched]
    await secured.allow(LIMITED, rules)
    settings = stream.settings(**as_limited(secured, stream, "at_least_once"))
    assert await how_it_ends(settings) == (
        f"topic {stream.enriched} does not exist, or may not be seen by this user; make them with `koner topics create`"
    )


async def test_a_worker_whose_password_is_withdrawn_ends_with_one_line(secured: SecuredKafka) -> None:
    stream = await Stream(secured.broker.bootstrap_servers).create()
    await secured.allow(LEAVER, documented_rules(stream, "at_least_once"))
    await stream.produce_reviews([Produced(review(1))])
    options = secured.way_in("SASL", sasl_mechanism="PLAIN", sasl_username=LEAVER)
    pipeline = Pipeline(stream.settings(**options), FakeEngine(), Metrics(), Recent())
    await pipeline.start()
    try:
        await stream.read_enriched(1)
        await asyncio.to_thread(secured.withdraw, LEAVER)
        with pytest.raises(AccessRefused) as ended:
            await asyncio.wait_for(pipeline.wait(), 60)
    finally:
        await pipeline.stop()
    assert str(ended.value) == (
        f"{secured.broker.bootstrap('SASL')}: the broker refuses user {LEAVER} (PLAIN); "
        "check sasl_username and sasl_password"
    )


async def how_it_ends(settings: Any) -> str:
    """Run a pipeline until it gives up, and return its line."""
    pipeline = Pipeline(settings, FakeEngine(), Metrics(), Recent())
    await pipeline.start()
    try:
        with pytest.raises(StreamError) as ended:
            await asyncio.wait_for(pipeline.wait(), 30)
    finally:
        await pipeline.stop()
    assert "\n" not in str(ended.value)
    return str(ended.value)


def environment(**settings: Any) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KONER_")}
    given = {f"KONER_{name.upper()}": str(value) for name, value in settings.items()}
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    return {
        **kept,
        "PYTHONPATH": path,
        "KONER_WEB_PORT": "0",
        "KONER_LOG_FORMAT": "json",
        "KONER_LOG_LEVEL": "debug",
    } | given


def assert_no_secret(said: str) -> None:
    for secret in SECRETS:
        assert secret not in said
    assert "Traceback" not in said
