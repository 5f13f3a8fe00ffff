"""The data plane as its host sees it: start it, ask how it is, stop it.

It holds the engine's threads for as long as it lives, and one session with Kafka after another: a session that fails is
followed by a new one, which reads again from the last commit.
"""

import asyncio
import logging
from dataclasses import dataclass
from time import monotonic

from aiokafka.errors import IllegalOperation, InvalidSessionTimeoutError, InvalidTransactionTimeout, KafkaError

from worker.contracts import Contracts
from worker.ner.engine import Engine
from worker.observe.live import Recent
from worker.observe.metrics import Metrics
from worker.observe.tracing import make_tracer
from worker.settings import Settings, SettingsError
from worker.stream.access import check_access
from worker.stream.delivery import BatchRefused, SizeLimits
from worker.stream.errors import StreamError
from worker.stream.inference import Inference
from worker.stream.permission import NO_PERMISSION, lacking
from worker.stream.session import Session
from worker.stream.tasks import end_tasks
from worker.stream.topics import MissingTopics, missing
from worker.stream.work import Work

log = logging.getLogger(__name__)

CPU_BATCH_TOKENS = 512
CUDA_BATCH_TOKENS = 16_384
FIRST_RETRY_SECONDS = 0.5
LAST_RETRY_SECONDS = 10.0
STEADY_SECONDS = 30.0  # a session that ran this long is followed by the next one at once
ENGINE_PATIENCE = 5.0
SESSION_END_SECONDS = 10.0  # that a session's own tasks have to end before it is cancelled once more


@dataclass(frozen=True, slots=True)
class Status:
    """How the data plane is. Alive: it moves, or waits for the broker. Ready: it has its partitions and a broker."""

    alive: bool
    ready: bool
    problems: tuple[str, ...]  # one line each, without anybody's words


class Pipeline:
    """Reads, enriches and publishes until it is stopped."""

    def __init__(self, settings: Settings, engine: Engine, metrics: Metrics, recent: Recent) -> None:
        self._settings = settings
        self._engine = engine
        self._metrics = metrics
        self._recent = recent
        self._contracts = Contracts()
        self._limits = SizeLimits()
        default_tokens = CPU_BATCH_TOKENS if engine.info.device == "cpu" else CUDA_BATCH_TOKENS
        self._tracer = make_tracer(settings)
        self._inference = Inference(
            engine,
            metrics,
            tracer=self._tracer,
            batch_tokens=settings.batch_tokens or default_tokens,
            bulk_share=settings.bulk_share,
            on_done=self._pass_on,
            on_broken=self._break,
        )
        self._session: Session | None = None
        self._running: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._broken: StreamError | None = None
        info = engine.info
        metrics.model_info.labels(info.name, info.revision, info.taxonomy, info.engine, info.device).set(1)

    async def start(self) -> None:
        """Start the engine's threads and begin to connect; returns at once."""
        self._inference.start()
        self._running = asyncio.create_task(self._run(), name="koner-pipeline")

    async def wait(self) -> None:
        """Wait until the pipeline has stopped.

        Raises `StreamError` where it could not go on, `SettingsError` where a certificate or a key cannot be used.
        """
        if self._running is not None:
            await asyncio.shield(self._running)

    async def stop(self) -> None:
        """Finish what is in flight within `grace_seconds`, commit, leave the group, end the threads."""
        self._stopping.set()
        if self._running is not None:
            await asyncio.gather(self._running, return_exceptions=True)
        await self._inference.stop(ENGINE_PATIENCE)
        await asyncio.to_thread(self._tracer.close)

    def status(self) -> Status:
        """How the pipeline is, now."""
        problems = []
        running = self._running is not None and not self._running.done()
        if not running:
            problems.append("the pipeline is not running")
        stuck = self._inference.longest_running()
        if stuck > self._settings.engine_deadline_seconds:
            problems.append(f"the engine has been on one batch for {stuck:.0f} s")
        alive = not problems
        session = self._session
        if session is None or not session.broker_answers:
            problems.append(f"the broker {self._settings.bootstrap_servers} does not answer")
        elif not session.assigned:
            problems.append(f"the group {self._settings.group} has not assigned partitions yet")
        elif session.held_up:
            problems.append(session.held_up)
        if self._stopping.is_set():
            problems.append("the worker is stopping")
        return Status(alive, not problems, tuple(problems))

    async def _run(self) -> None:
        retry_seconds = FIRST_RETRY_SECONDS
        while not self._stopping.is_set():
            began = monotonic()
            try:
                await self._run_session()
            except (SettingsError, StreamError):
                raise
            except BatchRefused as refused:
                log.warning(self._limits.learn(refused, self._settings.dead_letter_topic))
                continue
            except NO_PERMISSION as error:
                raise StreamError(lacking(error, self._settings)) from None
            except InvalidSessionTimeoutError:
                raise StreamError(
                    f"{self._settings.bootstrap_servers}: refuses session_timeout_seconds "
                    f"{self._settings.session_timeout_seconds:g}; set it within the broker's "
                    "group.min.session.timeout.ms and group.max.session.timeout.ms"
                ) from None
            except InvalidTransactionTimeout:
                raise StreamError(
                    f"{self._settings.bootstrap_servers}: refuses transaction_timeout_seconds "
                    f"{self._settings.transaction_timeout_seconds:g}; set it to at most the broker's "
                    "transaction.max.timeout.ms"
                ) from None
            except (KafkaError, IllegalOperation, OSError) as error:
                if monotonic() - began > STEADY_SECONDS:
                    retry_seconds = FIRST_RETRY_SECONDS
                log.warning(
                    "no session with %s: %s; trying again in %.1f s, nothing is lost",
                    self._settings.bootstrap_servers,
                    type(error).__name__,
                    retry_seconds,
                )
            except Exception as error:
                log.debug("the data plane failed", exc_info=True)  # its message may quote a record
                raise StreamError(
                    f"the data plane failed with {type(error).__name__}; nothing was skipped. This is a bug: "
                    "log_level debug shows where"
                ) from error
            await self._pause(retry_seconds)
            retry_seconds = min(retry_seconds * 2, LAST_RETRY_SECONDS)
        if self._broken is not None:
            raise self._broken

    async def _run_session(self) -> None:
        """One session, from connecting to closing; returns when the pipeline is to stop."""
        session = Session(
            self._settings,
            self._engine,
            self._inference,
            self._contracts,
            self._metrics,
            self._recent,
            limits=self._limits,
            tracer=self._tracer,
        )
        self._session = session
        working = asyncio.create_task(self._work(session))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                await self._wind_down(session, working)
            if self._broken is not None:
                raise self._broken
            if not working.cancelled():
                working.result()
        finally:
            await end_tasks([working, stopping], SESSION_END_SECONDS)
            self._metrics.broker_up.set(0)
            await session.close()
            self._session = None

    async def _work(self, session: Session) -> None:
        await check_access(self._settings)
        absent = await missing(self._settings)
        if absent:
            raise MissingTopics(absent)
        await session.start()
        await session.run()

    async def _wind_down(self, session: Session, working: asyncio.Task[None]) -> None:
        """Let a session finish what it has; one that is still connecting, or broken, has nothing to finish."""
        if session.assigned and self._broken is None:
            ending = asyncio.create_task(session.stop())
            await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                await asyncio.wait({working})
            await end_tasks([ending])
        else:
            await end_tasks([working], SESSION_END_SECONDS)

    def _pass_on(self, works: list[Work]) -> None:
        if self._session is not None:
            self._session.assemble(works)

    def _break(self, error: StreamError) -> None:
        if self._broken is None:
            self._broken = error
            self._stopping.set()

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return
