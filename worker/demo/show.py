"""`koner demo`: the very worker of `koner run`, on a broker of its own, over records that ship with the package."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from time import monotonic, time
from typing import Any, Final

import uvloop
from aiokafka.errors import KafkaError
from rich.console import Console

from worker import logs
from worker.app import Host, HostError, create_app
from worker.demo.broker import EmbeddedBroker, EmbeddedBrokerError
from worker.demo.feed import feed, samples
from worker.demo.results import Results
from worker.demo.screen import JsonLinesScreen, Screen, TerminalScreen, summary
from worker.demo.tally import Tally
from worker.ner.engine import Engine
from worker.ner.errors import ModelError
from worker.settings import ENVIRONMENT_PREFIX, Settings, SettingsError, load
from worker.stream import topics
from worker.stream.errors import StreamError
from worker.stream.tasks import end_tasks

PARTITIONS: Final = 3
AHEAD: Final = 5_000  # records sent whose results have not been seen: what the embedded broker has to remember
USUAL_PORT: Final = 6066
SILENCE_SECONDS: Final = 60.0  # without any result, after which the demo gives up
GRACE_SECONDS: Final = 2.0
POLL_SECONDS: Final = 0.02
USERS_SETTINGS: Final = frozenset(
    {"model", "taxonomy", "engine", "device", "precision", "batch_tokens", "bulk_share", "threads"}
)

LoadEngine = Callable[[Settings], Engine]


class DemoError(Exception):
    """The demo cannot go on; the message says why and what to do."""


def run(
    records: int | None = None,
    port: int | None = None,
    *,
    page: bool = True,
    load_engine: LoadEngine | None = None,
) -> int:
    """Run the demo over `records` records (each sample once by default); returns the exit code.

    With a terminal on stdout, the live page is then served on `port` (6066, or a free one) until Ctrl-C, unless `page`
    is false. Otherwise the enriched records are the only thing on stdout, and the demo ends after the last one.
    """
    began = time()
    terminal = sys.stdout.isatty()
    people = Console() if terminal else Console(stderr=True)
    screen: Screen = TerminalScreen(people) if terminal else JsonLinesScreen(sys.stdout.fileno(), people)
    logs.configure("text", "warning")
    forget_kafka_settings(os.environ)
    demo = _Demo(records, port, screen, people, load_engine or _load_engine, began, page=page and terminal)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(demo.run())
    except (DemoError, EmbeddedBrokerError, HostError, KafkaError, ModelError, SettingsError, StreamError) as error:
        print(f"koner demo: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read stdout has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:  # a second Ctrl-C, or one before the loop took the signal over
        return 1


def forget_kafka_settings(environment: MutableMapping[str, str]) -> None:
    """Take out of an environment what it says of the user's own Kafka; what it says of the model stays."""
    kept = {ENVIRONMENT_PREFIX + name.upper() for name in USERS_SETTINGS}
    for name in [name for name in environment if name.startswith(ENVIRONMENT_PREFIX) and name not in kept]:
        del environment[name]


def demo_settings(bootstrap_servers: str, port: int) -> Settings:
    """The worker's settings on the embedded broker. Raises `SettingsError`."""
    return load(
        bootstrap_servers=bootstrap_servers,
        group="koner-demo",
        delivery="at_least_once",
        idempotence=False,  # the embedded broker knows no idempotent producers
        session_timeout_seconds=2.0,  # the embedded broker lets a worker wait half of it to join
        grace_seconds=GRACE_SECONDS,
        web_port=port,
    )


class _Demo:
    """One run, from the broker's start to its end."""

    def __init__(
        self,
        records: int | None,
        port: int | None,
        screen: Screen,
        people: Console,
        load_engine: LoadEngine,
        began: float,
        *,
        page: bool,
    ) -> None:
        self._samples = samples()
        self._total = records if records is not None else len(self._samples)
        self._port = port
        self._page = page
        self._load_engine = load_engine
        self._screen = screen
        self._people = people
        self._began = began
        self._tally = Tally()

    async def run(self) -> int:
        told = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, told.set)
        working = asyncio.create_task(self._work())
        leaving = asyncio.create_task(told.wait())
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        for number in (signal.SIGINT, signal.SIGTERM):  # a second one ends at once
            loop.remove_signal_handler(number)
        leaving.cancel()
        if working.done():
            return working.result()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        finished = self._tally.done >= self._total
        if not finished:
            print(f"koner demo: stopped after {self._tally.done:,} of {self._total:,} records", file=sys.stderr)
        return 0 if finished else 1

    async def _work(self) -> int:
        async with AsyncExitStack() as stack:
            broker = EmbeddedBroker()
            port = self._port if self._port is not None else _usual_port()
            loading = asyncio.create_task(asyncio.to_thread(self._load_engine, demo_settings("127.0.0.1:1", port)))
            stack.push_async_callback(_settle, loading)
            await stack.enter_async_context(broker)
            settings = demo_settings(broker.bootstrap_servers, port)
            await topics.create(settings, partitions=PARTITIONS, replication=1)
            engine = await loading
            app = create_app(settings, engine)
            stack.push_async_callback(app.stop)
            await app.start()
            elapsed = await self._follow(app, settings)
            self._people.print(summary(self._tally, elapsed, asdict(engine.info)))
            if self._page:
                self._people.print(f"\nThe live page is on http://{app.address[0]}:{app.address[1]}/ until Ctrl-C.")
                await app.wait_ended()
        return 0

    async def _follow(self, app: Host, settings: Settings) -> float:
        """Send everything and show what comes of it; returns the seconds from sending to the last result."""
        room = asyncio.Semaphore(AHEAD)
        results = Results(settings)
        try:
            await results.start()
            await _until_first_ends(_until_ready(app), _no_end(app))
            started = monotonic()
            self._screen.start(self._total)
            feeding = feed(settings, self._samples, self._total, room)
            await _until_first_ends(self._show(results, room, app), _no_end(app), beside=feeding)
            return monotonic() - started
        finally:
            self._screen.finish()
            await results.stop()

    async def _show(self, results: Results, room: asyncio.Semaphore, app: Host) -> None:
        heard = monotonic()
        async for poll in results.polls():
            new = self._tally.add(poll)
            for _ in new:
                room.release()
            if new:
                if self._tally.done == len(new):
                    self._people.print(f"first enriched record after {_process_age(self._began):.1f} s", style="dim")
                heard = monotonic()
                await asyncio.to_thread(self._screen.show, new, self._tally.done)
            elif monotonic() - heard > SILENCE_SECONDS:
                raise DemoError(f"nothing came out for {SILENCE_SECONDS:.0f} s: {_problems(app)}")
            if self._tally.done >= self._total:
                return


async def _until_ready(app: Host) -> None:
    """Wait until the worker has its partitions, so that joining the group is not measured."""
    deadline = monotonic() + SILENCE_SECONDS
    while not app.data_plane.status().ready:
        if monotonic() > deadline:
            raise DemoError(f"the worker is not ready after {SILENCE_SECONDS:.0f} s: {_problems(app)}")
        await asyncio.sleep(POLL_SECONDS)


def _problems(app: Host) -> str:
    return "; ".join(app.data_plane.status().problems) or "it gives no reason"


async def _no_end(app: Host) -> None:
    """Raise what ends the worker, for as long as it is not to end."""
    await app.wait_ended()
    raise DemoError("the worker ended by itself")


async def _until_first_ends(*main: Coroutine[Any, Any, None], beside: Coroutine[Any, Any, None] | None = None) -> None:
    """Run all until one of `main` ends; a failure of any of them is raised, and nothing is left running."""
    first = {asyncio.create_task(coroutine) for coroutine in main}
    pending = first | ({asyncio.create_task(beside)} if beside is not None else set())
    try:
        while first <= pending:
            ended, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
    finally:
        await end_tasks(pending)


async def _settle(task: Awaitable[Any]) -> None:
    await asyncio.gather(task, return_exceptions=True)


def _load_engine(settings: Settings) -> Engine:
    from worker.ner.loading import engine_of

    return engine_of(settings)


def _usual_port() -> int:
    """The port the pages are usually on, or 0 (any free one) if something else has it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", USUAL_PORT))
        except OSError:
            return 0
    return USUAL_PORT


def _process_age(since: float) -> float:
    """Seconds since this process began, its interpreter's start included; since `since` where only Linux could tell."""
    try:
        started_ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        since_boot = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError):
        return time() - since
    return since_boot - started_ticks / os.sysconf("SC_CLK_TCK")
