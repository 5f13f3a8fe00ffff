"""The host: a Faust app that runs the data plane as one of its services and serves the pages.

Faust's own producer and consumer are not started: the data plane talks to Kafka itself, and a broker that is away
must not keep the pages from being served.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from time import monotonic
from typing import Any, Protocol, get_args

import faust
from aiohttp.web import AppRunner, TCPSite
from faust.app.base import BootStrategy
from faust.web.drivers.aiohttp import Web
from mode import Service

from worker.contracts import Reason
from worker.ner.engine import Engine
from worker.observe.live import Recent
from worker.observe.metrics import Metrics
from worker.observe.pages import LOOPBACK, guard, views
from worker.observe.summary import Status, Summary
from worker.settings import Settings
from worker.stream.pipeline import Pipeline

LIFE = logging.getLogger("mode.koner")  # what services say of their own starts and stops

TICK_SECONDS = 1.0  # between two samples of the live page's figures
RECORDS_SHOWN = 12  # on the live page


class HostError(Exception):
    """The process cannot do its work here; the message says why and what to do."""


class DataPlane(Protocol):
    """What the host asks of the pipeline."""

    async def start(self) -> None:
        """Begin; returns although the broker may be away."""
        ...

    async def stop(self) -> None:
        """Finish what is in flight within the grace time, commit, and leave the group."""
        ...

    async def wait(self) -> None:
        """Return when it stopped; raise what ended it."""
        ...

    def status(self) -> Status:
        """How it is doing now."""
        ...


MakePipeline = Callable[[Settings, Engine, Metrics, Recent], DataPlane]


@dataclass(frozen=True, slots=True)
class HostStatus:
    """What the host says of itself before the data plane has begun and after it has ended."""

    alive: bool
    ready: bool
    problems: tuple[str, ...]


class DataPlaneService(Service):  # type: ignore[misc]  # mode's types are not followed
    """Runs the data plane within the app's life, and keeps what ended it."""

    logger = LIFE

    def __init__(self, pipeline: DataPlane, **options: Any) -> None:
        super().__init__(**options)
        self.pipeline = pipeline
        self.ended = asyncio.Event()
        self.failure: Exception | None = None
        self._watch: asyncio.Task[None] | None = None
        self._stopping = False

    async def on_start(self) -> None:
        """Start the pipeline and watch it."""
        await self.pipeline.start()
        self._watch = asyncio.create_task(self._wait(), name="data plane")

    async def on_stop(self) -> None:
        """Drain the pipeline, if it was started."""
        self._stopping = True
        if self._watch is None:
            return
        try:
            await self.pipeline.stop()
        except Exception as error:
            self.failure = error
        await self._watch

    def status(self) -> Status:
        """The truth, whatever part of its life the pipeline is in."""
        if self.failure is not None:
            return HostStatus(alive=False, ready=False, problems=(f"the worker ended: {self.failure}",))
        if self._stopping:
            return HostStatus(alive=True, ready=False, problems=("stopping",))
        if self._watch is None:
            return HostStatus(alive=True, ready=False, problems=("starting",))
        return self.pipeline.status()

    async def _wait(self) -> None:
        try:
            await self.pipeline.wait()
        except Exception as error:
            self.failure = error
        self.ended.set()


class Pages(Web):  # type: ignore[misc]
    """Faust's web server with our pages alone: none of Faust's blueprints."""

    logger = LIFE

    default_blueprints = production_blueprints = debug_blueprints = optional_blueprints = ()

    def __init__(self, app: faust.App, host: str, port: int, **options: Any) -> None:
        super().__init__(app, **options)
        self._host = host
        self._port = port  # Faust's own setting does not take 0, any free one
        self._runner = AppRunner(self.web_app, access_log=None, shutdown_timeout=1.0)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that pages are served on, once they are."""
        host, port, *_ = self._runner.addresses[0]
        return str(host), int(port)

    async def start_server(self) -> None:
        """Open the port; raises `HostError` if it is not to be had."""
        try:
            await super().start_server()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
            raise HostError(
                f"cannot serve pages on {self._host}:{self._port}: {reason}; set web_host or web_port"
            ) from None

    def _new_transport_tcp(self) -> TCPSite:
        return TCPSite(self._runner, self._host, self._port)


class Boot(BootStrategy):  # type: ignore[misc]
    """The pages first, the data plane last: they are there while it starts and while it drains."""

    enable_kafka = False
    enable_sensors = False

    def server(self) -> Iterable[Any]:
        """Services in the order they start; they stop in the opposite one."""
        services: Iterable[Any] = self._chain(self.web_server(), self.agents(), [self.app.data_plane])
        return services


class Host(faust.App):  # type: ignore[misc]
    """koner-stream as a Faust app; made by `create_app`."""

    logger = LIFE

    BootStrategy = Boot

    def __init__(
        self, settings: Settings, model: Mapping[str, str], metrics: Metrics, recent: Recent, pipeline: DataPlane
    ) -> None:
        super().__init__(
            "koner",
            env={},  # Faust's own environment variables do not count here
            store="memory://",
            web_application_options={"middlewares": [guard]},
        )
        self.settings = settings
        self.metrics = metrics
        self.pipeline = pipeline
        self.data_plane = DataPlaneService(pipeline)
        self.summary = Summary(
            model,
            metrics,
            recent,
            self.data_plane.status,
            version=version("koner-stream"),
            records=settings.live_records,
            clock=monotonic,
        )
        local = settings.web_host in LOOPBACK
        pages = views(self.data_plane.status, metrics.registry, self.summary, bound_to_loopback=local)
        for path, page in pages.items():
            self.page(path)(page)
        self.timer(TICK_SECONDS, traced=False)(self._tick)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the pages; a `web_port` of 0 has become a free one."""
        address: tuple[str, int] = self.web.address
        return address

    async def wait_ended(self) -> None:
        """Return when the data plane has stopped; raises what ended it (`StreamError`, `SettingsError`)."""
        await self.data_plane.ended.wait()
        if self.data_plane.failure is not None:
            raise self.data_plane.failure

    async def _tick(self) -> None:
        self.summary.tick()

    def _new_consumer(self) -> Any:
        """Faust's consumer, which never runs; so the loop of its thread, which nobody would close, is closed here."""
        consumer = super()._new_consumer()
        consumer._thread.thread_loop.close()
        return consumer

    def _new_web(self) -> Pages:
        return Pages(self, self.settings.web_host, self.settings.web_port)

    def _create_directories(self) -> None:
        """Nothing is kept on disk, so that the process runs on a read-only file system."""


def create_app(
    settings: Settings,
    engine: Engine,
    metrics: Metrics | None = None,
    *,
    make_pipeline: MakePipeline = Pipeline,
) -> Host:
    """The app, not yet started: `await app.start()` serves pages and enriches, `await app.stop()` drains and ends.

    To be made within a running event loop. `start` raises `HostError` if the port is not to be had; what ends the
    data plane is raised by `wait_ended`.
    """
    metrics = metrics or Metrics()
    recent = Recent(RECORDS_SHOWN if settings.live_records else 0)
    model = asdict(engine.info)
    metrics.model_info.labels(*(model[name] for name in ("name", "revision", "taxonomy", "engine", "device"))).set(1)
    _begin_at_zero(metrics, settings)
    return Host(settings, model, metrics, recent, make_pipeline(settings, engine, metrics, recent))


def _begin_at_zero(metrics: Metrics, settings: Settings) -> None:
    """Make the series of what should not happen: an increase from nothing would not be seen as one."""
    for source in settings.sources:
        metrics.lost_records.labels(source.topic)
        for reason in get_args(Reason):
            metrics.dead_letters.labels(source.topic, reason)
