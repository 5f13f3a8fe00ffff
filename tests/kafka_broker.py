"""A real Apache Kafka for tests: one node, KRaft, in a temporary folder, from the jars in KAFKA_HOME."""

import asyncio
import base64
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from worker.demo.broker import cluster_id
from worker.demo.child import ChildProcess

HOST = "127.0.0.1"
HOW_TO_GET_ONE = (
    "set KAFKA_HOME to an unpacked Apache Kafka 4 (https://kafka.apache.org/downloads; its libs/ is what counts) "
    "and have Java 17 or newer"
)

_START_SECONDS = 90.0
_STOP_SECONDS = 30.0
_RETRY_SECONDS = 0.05

_QUICK_START = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")

_LOGGING = """\
rootLogger.level = WARN
rootLogger.appenderRefs = console
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %c - %m%n
"""


class KafkaMissing(Exception):
    """There is no Kafka to run here; the message says how to get one."""


class KafkaBroker:
    """A broker that keeps its data and its port over restarts, and ends with this process. All calls block.

    `properties` are added to server.properties, or replace what is there. `listeners` are further ones, by name, with
    their security protocol (such as `{"SECURE": "SASL_SSL"}`); `bootstrap(name)` tells their addresses. `scram` holds
    users and passwords that both SCRAM mechanisms take. `advertised` gives addresses, by listener, that clients are
    sent to in place of its own.
    """

    def __init__(
        self,
        properties: Mapping[str, str] | None = None,
        listeners: Mapping[str, str] | None = None,
        scram: Mapping[str, str] | None = None,
        advertised: Mapping[str, str] | None = None,
    ) -> None:
        self._java, self._class_path = find_kafka()
        self._folder = Path(tempfile.mkdtemp(prefix="koner-kafka-"))
        names = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **(listeners or {})}
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        self._cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
        self._scram = scram or {}
        self._advertised = advertised or {}
        self._formatted = False
        self._child: ChildProcess | None = None
        self._write_configuration(names, properties or {})

    @property
    def bootstrap_servers(self) -> str:
        return self.bootstrap("PLAINTEXT")

    def bootstrap(self, listener: str) -> str:
        """The address of a listener, host:port."""
        return f"{HOST}:{self._ports[listener]}"

    @property
    def folder(self) -> Path:
        """Where the broker's configuration and data lie."""
        return self._folder

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    def start(self) -> None:
        """Start the broker and wait until it answers; format its folder the first time."""
        assert not self.running
        if not self._formatted:
            self._format()
            self._formatted = True
        options = [*_QUICK_START, "-Xmx512m", f"-Dlog4j2.configurationFile={self._folder / 'log4j2.properties'}"]
        self._child = ChildProcess(
            [self._java, *options, "-cp", self._class_path, "kafka.Kafka", str(self._configuration)],
            env=dict(os.environ),
            cwd=self._folder,
        )
        try:
            asyncio.run(self._wait_until_it_answers())
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End the broker with SIGTERM, as an operator would, and wait until it has ended."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the broker with SIGKILL and wait until it has ended."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Start it again with its data and ports, after it was stopped, killed or while it runs."""
        if self.running:
            self.stop()
        self.start()

    def freeze(self) -> None:
        """Suspend the broker (SIGSTOP): its connections stay open, and nothing answers."""
        assert self._child is not None
        self._child.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a suspended broker go on."""
        assert self._child is not None
        self._child.send(signal.SIGCONT)

    def close(self) -> None:
        """Kill the broker and delete its folder."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def output(self) -> str:
        """The end of what the broker logged."""
        return self._child.output() if self._child is not None else ""

    def __enter__(self) -> "KafkaBroker":
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _configuration(self) -> Path:
        return self._folder / "server.properties"

    def _write_configuration(self, names: Mapping[str, str], properties: Mapping[str, str]) -> None:
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{self.bootstrap('CONTROLLER')}",
            "listeners": ",".join(f"{name}://{self.bootstrap(name)}" for name in names),
            "advertised.listeners": ",".join(
                f"{name}://{self._advertised.get(name, self.bootstrap(name))}" for name in names if name != "CONTROLLER"
            ),
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in names.items()),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(self._folder / "data"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",  # a worker that is gone is noticed soon
            "auto.create.topics.enable": "false",
            "broker.heartbeat.interval.ms": "500",  # a killed broker is let in again only when its session has ended
            "broker.session.timeout.ms": "3000",
            "log.retention.ms": "-1",  # tests send old timestamps
            **properties,
        }
        self._configuration.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        (self._folder / "log4j2.properties").write_text(_LOGGING)

    def _format(self) -> None:
        command = [self._java, *_QUICK_START, "-Xmx256m", "-cp", self._class_path]
        command += [f"-Dlog4j2.configurationFile={self._folder / 'log4j2.properties'}"]
        command += ["kafka.tools.StorageTool", "format", "-t", self._cluster_id, "-c", str(self._configuration)]
        for user, password in self._scram.items():
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
                command += ["--add-scram", f"{mechanism}=[name={user},password={password}]"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"Kafka's folder could not be formatted: {done.stdout[-2000:]}{done.stderr[-2000:]}")

    async def _wait_until_it_answers(self) -> None:
        assert self._child is not None
        deadline = time.monotonic() + _START_SECONDS
        while await cluster_id(HOST, self._ports["PLAINTEXT"]) != self._cluster_id:
            if not self._child.running:
                raise RuntimeError(f"Kafka ended while it started: {self._child.output()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"Kafka does not answer after {_START_SECONDS:.0f} s: {self._child.output()}")
            await asyncio.sleep(_RETRY_SECONDS)

    def _end(self, with_signal: signal.Signals) -> None:
        if self._child is None:
            return
        self._child.send(with_signal)
        self._child.send(signal.SIGCONT)
        if not self._child.wait(_STOP_SECONDS):
            self._child.send(signal.SIGKILL)
            self._child.wait()


def find_kafka() -> tuple[str, str]:
    """Return the path of Java and Kafka's class path. Raises `KafkaMissing`."""
    home = os.environ.get("KAFKA_HOME")
    if not home:
        raise KafkaMissing(f"KAFKA_HOME is not set: {HOW_TO_GET_ONE}")
    libraries = Path(home).resolve() / "libs"
    if not any(libraries.glob("kafka_*.jar")):
        raise KafkaMissing(f"KAFKA_HOME={home} holds no libs/kafka_*.jar: {HOW_TO_GET_ONE}")
    java_home = os.environ.get("JAVA_HOME")
    java = str(Path(java_home) / "bin" / "java") if java_home else shutil.which("java")
    if java is None or not os.access(java, os.X_OK):
        raise KafkaMissing(f"there is no java: {HOW_TO_GET_ONE}")
    return java, f"{libraries}/*"


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that nothing listens on, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
