"""A broker that tests of faults may harm, and a model that its workers load quickly."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka_broker import HOST, KafkaBroker, KafkaMissing, free_ports
from model_folder import make_model_folder


class HarmedBroker(KafkaBroker):
    """A broker with a second listener whose clients are sent to `proxy_port`: put a proxy to `behind_proxy` there."""

    def __init__(self) -> None:
        (self.proxy_port,) = free_ports(1)
        super().__init__(listeners={"PROXIED": "PLAINTEXT"}, advertised={"PROXIED": f"{HOST}:{self.proxy_port}"})

    @property
    def behind_proxy(self) -> str:
        return self.bootstrap("PROXIED")


@pytest.fixture(scope="session")
def harmed(request: pytest.FixtureRequest) -> Iterator[HarmedBroker]:
    """A real Kafka to stop, freeze and slow down, shared by tests that leave it running."""
    try:
        broker = HarmedBroker()
    except KafkaMissing:
        request.getfixturevalue("kafka")  # skips, or fails where it must not
        raise
    with broker:
        yield broker


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights."""
    return make_model_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Let go of what failed connections leave before the next test: Python 3.11 breaks off an import otherwise.

    A failure that nobody retrieved is logged when it is collected, and one that is logged amid `ast.parse` ends it.
    """
    yield
    gc.collect()
