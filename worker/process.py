"""The worker's process: from settings to an exit code, with what signals mean."""

import asyncio
import gc
import logging
import os
import signal
from types import FrameType
from typing import Any, NoReturn

import uvloop
from aiokafka.errors import KafkaError

from worker import logs
from worker.app import HostError, MakePipeline, create_app
from worker.ner.engine import Engine
from worker.ner.errors import ModelError
from worker.ner.loading import engine_of
from worker.settings import Settings, SettingsError, unknown_variables
from worker.stream.errors import StreamError
from worker.stream.pipeline import Pipeline

log = logging.getLogger(__name__)


def run(settings: Settings) -> int:
    """Load the engine and work until a signal or a fatal error; returns the exit code.

    SIGTERM and SIGINT drain and end with 0, a second one ends at once with 1. Whatever the user can mend is one line
    on stderr and 1.
    """
    logs.configure(settings.log_format, settings.log_level)
    for line in unknown_variables(os.environ):
        log.warning("%s", line)
    signal.signal(signal.SIGTERM, _leave)  # a container's first process has no default action for it
    try:
        engine = _load(settings)
        spare_the_garbage_collector()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings, engine))
    except (HostError, ModelError, SettingsError, StreamError) as error:
        log.error("%s", error)
        return 1
    except KeyboardInterrupt:  # before the loop took the signals over
        return 0
    except Exception:
        log.critical("the worker ended; this is a bug", exc_info=True)
        return 1
    return 0


def spare_the_garbage_collector() -> None:
    """Look for cycles seldom, and never among what the start made.

    Thousands of records in flight are no garbage, but the collector's usual thresholds have it walk them all the time:
    a fifth of the data plane's time (benchmarks/dataplane.py).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


async def serve(settings: Settings, engine: Engine, make_pipeline: MakePipeline = Pipeline) -> None:
    """Run the app until SIGTERM or SIGINT, then drain; raises what kept it from starting or ended it."""
    app = create_app(settings, engine, make_pipeline=make_pipeline)
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_on_unheard)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, number, told)
    leave = asyncio.create_task(told.wait())
    ended = asyncio.create_task(app.data_plane.ended.wait())
    started = asyncio.create_task(app.start())
    try:
        await asyncio.wait((started, leave), return_when=asyncio.FIRST_COMPLETED)
        if started.done():
            started.result()
            log.info("serving pages on http://%s:%d/", *app.address)
            await asyncio.wait((ended, leave), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (started, leave, ended):
            task.cancel()
        await app.stop()
    if app.data_plane.failure is not None:
        raise app.data_plane.failure
    log.info("stopped")


def _on_unheard(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What nobody awaits: aiokafka leaves requests behind where a broker goes away, and that has been told already."""
    if isinstance(context.get("exception"), KafkaError):
        log.debug("left behind by the Kafka client: %r", context["exception"])
    else:
        loop.default_exception_handler(context)


def _on_signal(number: signal.Signals, told: asyncio.Event) -> None:
    if told.is_set():
        log.warning("%s again: ending at once, what is in flight will be read again", number.name)
        os._exit(1)
    log.info("%s: finishing what is in flight", number.name)
    told.set()


def _leave(_: int, __: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _load(settings: Settings) -> Engine:
    engine = engine_of(settings)
    info = engine.info
    log.info("model %s %s, taxonomy %s, %s on %s", info.name, info.revision, info.taxonomy, info.engine, info.device)
    return engine
