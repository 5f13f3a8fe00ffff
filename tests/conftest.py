"""Brokers for the tests: the embedded one, and a real Kafka from KAFKA_HOME, each started once a test process."""

import asyncio
import os
import uuid
from collections.abc import Callable, Iterator

import pytest
from kafka_broker import KafkaBroker, KafkaMissing

from worker.demo.broker import EmbeddedBroker


@pytest.hookimpl(tryfirst=True)  # before `-m` selects and xdist groups by what is marked here
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that need a real Kafka, and keep them in one xdist worker (`--dist loadgroup`) that starts one."""
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        fixtures = {*getattr(item, "fixturenames", ()), parameters.get("any_broker")}
        if fixtures & {"kafka", "own_kafka"}:
            item.add_marker(pytest.mark.kafka)
            item.add_marker(pytest.mark.xdist_group("kafka"))


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaBroker]:
    """A real Kafka that all tests share: use topics and groups of your own, and leave it running."""
    broker = _kafka_or_skip()
    with broker:
        yield broker


@pytest.fixture
def own_kafka() -> Iterator[KafkaBroker]:
    """A real Kafka for one test, which may stop, kill and freeze it."""
    broker = _kafka_or_skip()
    with broker:
        yield broker


@pytest.fixture(scope="session")
def embedded() -> Iterator[EmbeddedBroker]:
    """An embedded broker that all tests share: use topics and groups of your own."""
    broker = EmbeddedBroker()
    asyncio.run(broker.__aenter__())
    yield broker
    asyncio.run(broker.__aexit__(None, None, None))


@pytest.fixture(params=["embedded", "kafka"])
def any_broker(request: pytest.FixtureRequest) -> str:
    """The address of either broker: a test that asks for this runs on both."""
    broker: EmbeddedBroker | KafkaBroker = request.getfixturevalue(request.param)
    return broker.bootstrap_servers


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Make a name of a topic or a group that no other test uses."""
    return lambda name: f"{name}.{uuid.uuid4().hex[:12]}"


def _kafka_or_skip() -> KafkaBroker:
    try:
        return KafkaBroker()
    except KafkaMissing as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))
