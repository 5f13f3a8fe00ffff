"""The engine's threads: one encodes texts into the lanes, the others take batches and run them.

The event loop never waits for the device, and the device never waits for the loop: threads hand batches to each other,
and only results come back to the loop.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import Condition, Thread, current_thread
from time import monotonic

from worker.ner.batching import TokenBudget
from worker.ner.engine import Encoded, Engine
from worker.ner.errors import EngineError
from worker.ner.execution import BatchRunner, Outcome
from worker.observe.metrics import Metrics
from worker.observe.tracing import NoTracer, Tracer
from worker.stream.errors import StreamError
from worker.stream.lanes import LANES, Batch, Lanes
from worker.stream.work import Partition, Work

log = logging.getLogger(__name__)

CHUNK = 64  # texts encoded at a time: small enough that a query never waits long behind reviews
LOOK_AHEAD_BATCHES = 16  # encoded batches that may wait in a lane
LOOK_AHEAD_TOKENS = 32_768  # or as many tokens, where batches are small: texts of like length must meet
KNOWN_GOOD = "이병헌 영화"  # what tells a broken engine from a poison text


class Inference:
    """Runs an engine on works, off the event loop.

    `on_done` gets works on the loop when all their windows are back, or with `error` set where the model could not do
    them; `on_broken` is called once if the engine fails on a text it is known to do.
    """

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        *,
        batch_tokens: int,
        bulk_share: float,
        on_done: Callable[[list[Work]], None],
        on_broken: Callable[[StreamError], None],
        tracer: Tracer | None = None,
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._tracer = tracer or NoTracer()
        self._on_done = on_done
        self._on_broken = on_broken
        self._budget = TokenBudget(batch_tokens)
        self._runner = BatchRunner(engine, self._budget, lambda kind: metrics.engine_errors.labels(kind).inc())
        self._lanes = Lanes(
            bulk_share=bulk_share, most_tokens=max(LOOK_AHEAD_BATCHES * batch_tokens, LOOK_AHEAD_TOKENS)
        )
        self._texts: dict[str, deque[Work]] = {lane: deque() for lane in LANES}
        self._text_came = Condition()
        self._closed = False
        self._running: dict[str, float | None] = {}  # thread name to the monotonic start of what it runs
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: list[Thread] = []
        metrics.token_budget.set(self._budget.tokens)

    def start(self) -> None:
        """Start the threads; results come to the running loop."""
        self._loop = asyncio.get_running_loop()
        self._threads = [
            Thread(target=self._guard, args=(self._encode_lane, lane), name=f"koner-encode-{lane}", daemon=True)
            for lane in LANES
        ]
        self._threads += [
            Thread(target=self._guard, args=(self._forward,), name=f"koner-forward-{number}", daemon=True)
            for number in range(self._engine.forward_threads)
        ]
        self._running = {thread.name: None for thread in self._threads}
        for thread in self._threads:
            thread.start()

    async def stop(self, patience: float) -> None:
        """End the threads, waiting at most `patience` seconds for what they run; what is queued is forgotten."""
        with self._text_came:
            self._closed = True
            for texts in self._texts.values():
                texts.clear()
            self._text_came.notify_all()
        self._lanes.close()
        deadline = monotonic() + patience
        for thread in self._threads:
            await asyncio.to_thread(thread.join, max(0.0, deadline - monotonic()))

    def submit(self, works: Sequence[Work]) -> None:
        """Take up works of one lane, in order."""
        lane = works[0].partition.source.lane
        with self._text_came:
            self._texts[lane].extend(works)
            self._text_came.notify_all()

    def discard(self, partition: Partition) -> None:
        """Forget what waits for `partition`; what runs comes back through `on_done` all the same."""
        with self._text_came:
            for lane, texts in self._texts.items():
                self._texts[lane] = deque(work for work in texts if work.partition is not partition)
        self._lanes.discard(partition)

    def longest_running(self) -> float:
        """Seconds that the engine's oldest unfinished call has been running; 0 when idle."""
        return max((monotonic() - started for started in self._running.values() if started is not None), default=0.0)

    def observe(self) -> None:
        """Bring the gauges up to date."""
        for lane in LANES:
            self._metrics.lane_windows.labels(lane).set(self._lanes.depth(lane))
        self._metrics.token_budget.set(self._budget.tokens)

    # The encoding threads, one a lane, so that a long queue of reviews holds up no query.

    def _encode_lane(self, name: str, lane: str) -> None:
        while self._lanes.wait_for_room(lane):
            works = self._next_texts(lane)
            if not works:
                return
            self._running[name] = started = monotonic()
            failed = self._encode(works)
            self._metrics.stage_seconds.labels("encode").observe(monotonic() - started)
            self._running[name] = None
            blank = []
            for work in works:
                if work.encoded is not None:
                    work.missing = len(work.encoded.windows)
                    work.spans = [[] for _ in work.encoded.windows]
                    if not work.missing:
                        blank.append(work)
            self._lanes.put(lane, works)
            if blank or failed:
                self._call(self._on_done, blank + failed)

    def _next_texts(self, lane: str) -> list[Work]:
        with self._text_came:
            self._text_came.wait_for(lambda: self._closed or self._texts[lane])
            texts = self._texts[lane]
            return [texts.popleft() for _ in range(min(CHUNK, len(texts)))]

    def _encode(self, works: Sequence[Work]) -> list[Work]:
        """Set `encoded` of each work; returns those that cannot be encoded, with `error` set."""
        try:
            for work, encoded in zip(works, self._encode_texts(works), strict=True):
                work.encoded = encoded
        except Exception as error:
            if len(works) == 1:
                works[0].error = EngineError(f"encoding raised {type(error).__name__}")
                self._check_engine()
                return list(works)
            middle = len(works) // 2
            return self._encode(works[:middle]) + self._encode(works[middle:])
        return []

    def _encode_texts(self, works: Sequence[Work]) -> list[Encoded]:
        return self._engine.encode([work.document.text for work in works])

    # The forward threads.

    def _forward(self, name: str) -> None:
        while (batch := self._lanes.take(self._budget.tokens)) is not None:
            self._running[name] = started = monotonic()
            with self._trace(batch):
                outcomes = self._runner.run([entry.window for entry in batch.waiting])
            seconds = monotonic() - started
            if any(isinstance(outcome, EngineError) for outcome in outcomes):
                self._check_engine()
            self._running[name] = None
            self._measure(batch, started, seconds)
            self._call(self._take_back, batch, outcomes)

    def _check_engine(self) -> None:
        """Raise where the engine fails on a text that it is known to do: then the texts are not to blame."""
        try:
            for encoded in self._engine.encode([KNOWN_GOOD]):
                self._engine.forward(encoded.windows)
        except Exception as error:
            raise StreamError(
                f"the engine {self._engine.info.engine} on {self._engine.info.device} fails on every text "
                f"({type(error).__name__}); nothing was skipped, restart the worker or change its model or device"
            ) from error

    def _trace(self, batch: Batch) -> AbstractContextManager[None]:
        if not self._tracer.enabled:
            return nullcontext()
        attributes: dict[str, str | int | float] = {
            "messaging.batch.message_count": len(batch.waiting),
            "koner.lane": batch.lane,
            "koner.tokens": batch.tokens,
            "koner.padding": batch.padding,
        }
        return self._tracer.span("process", attributes, (entry.work.record.headers for entry in batch.waiting))

    def _measure(self, batch: Batch, started: float, seconds: float) -> None:
        metrics, lane = self._metrics, batch.lane
        metrics.engine_busy_seconds.inc(seconds)
        metrics.stage_seconds.labels("forward").observe(seconds)
        metrics.stage_seconds.labels("queue").observe(started - min(entry.since for entry in batch.waiting))
        metrics.batches.labels(lane).inc()
        metrics.batch_windows.observe(len(batch.waiting))
        metrics.batch_tokens.labels(lane).inc(batch.tokens)
        metrics.batch_padding.labels(lane).inc(batch.padding)

    # Between the threads and the loop.

    def _take_back(self, batch: Batch, outcomes: Sequence[Outcome]) -> None:
        """Note, on the loop, what came of a batch, and pass on the works that are whole."""
        done = []
        for entry, outcome in zip(batch.waiting, outcomes, strict=True):
            work = entry.work
            if isinstance(outcome, EngineError):
                work.error = outcome
            else:
                work.spans[entry.number] = outcome
            work.missing -= 1
            if not work.missing:
                done.append(work)
        if done:
            self._on_done(done)

    def _call(self, callback: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:  # the loop has closed: nobody waits for results any more
            log.debug("a result came after the loop had closed")

    def _guard(self, run: Callable[..., None], *arguments: object) -> None:
        """Run a thread's loop; whatever ends it early ends the stream, loudly."""
        try:
            run(current_thread().name, *arguments)
        except StreamError as error:
            self._call(self._on_broken, error)
        except Exception as error:
            log.debug("an engine thread failed", exc_info=True)  # its message may quote a text
            self._call(self._on_broken, StreamError(f"an engine thread failed: {type(error).__name__}"))
