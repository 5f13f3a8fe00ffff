"""Annotation without Kafka: an iterable of texts through an engine, in order, in bounded memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from time import perf_counter
from typing import Final

from worker.ner.batching import TokenBudget, cut, default_tokens
from worker.ner.engine import Encoded, Engine, Window
from worker.ner.errors import EngineError
from worker.ner.execution import BatchRunner, Outcome
from worker.records import Entity, Span

LOOK_AHEAD: Final = 4096  # texts that are sorted by length together
_FIRST_BLOCK: Final = 256  # so that the first results come soon
_BLOCK_CHARACTERS: Final = 2_000_000
_CHUNK: Final = 256  # texts encoded at a time

Result = list[Entity] | EngineError


@dataclass(frozen=True, slots=True)
class BatchFigures:
    """One batch as it ran."""

    windows: int
    tokens: int  # padding aside
    padding: int  # tokens
    seconds: float  # of the forward pass, decoding included


def annotate(
    engine: Engine,
    texts: Iterable[str],
    *,
    batch_tokens: int | None = None,
    on_batch: Callable[[BatchFigures], None] | None = None,
) -> Iterator[Result]:
    """The entities of each text in order, or why the engine could not do that one.

    Texts are read ahead, at most 4,096 of them or two million characters, and run in batches of like length within
    `batch_tokens` (by default what suits the engine's device). The next texts are encoded while batches run.
    `on_batch` may be called from several threads at once.
    """
    budget = TokenBudget(batch_tokens or default_tokens(engine.info.device))
    runner = BatchRunner(engine, budget, lambda kind: None)

    def run(windows: list[Window]) -> list[Outcome]:
        started = perf_counter()
        outcomes = runner.run(windows)
        if on_batch is not None:
            lengths = [window.tokens for window in windows]
            padding = max(lengths) * len(lengths) - sum(lengths)
            on_batch(BatchFigures(len(windows), sum(lengths), padding, perf_counter() - started))
        return outcomes

    blocks = _blocks(texts)
    with ThreadPoolExecutor(1, "encode") as encoding, ThreadPoolExecutor(engine.forward_threads, "forward") as forward:
        block = next(blocks, [])
        waiting = encoding.submit(_encode, engine, block)
        while block:
            encoded = waiting.result()
            block = next(blocks, [])
            waiting = encoding.submit(_encode, engine, block)
            windows = [window for one in encoded for window in one.windows]
            batches = cut([window.tokens for window in windows], budget.tokens)
            outcomes: list[Outcome] = [[] for _ in windows]
            parts = forward.map(run, [[windows[index] for index in batch] for batch in batches])
            for batch, found in zip(batches, parts, strict=True):
                for index, outcome in zip(batch, found, strict=True):
                    outcomes[index] = outcome
            rest = iter(outcomes)
            for one in encoded:
                yield _assemble(engine, one, list(islice(rest, len(one.windows))))


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    most = _FIRST_BLOCK
    block: list[str] = []
    characters = 0
    for text in texts:
        block.append(text)
        characters += len(text)
        if len(block) >= most or characters >= _BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
            most = min(2 * most, LOOK_AHEAD)
    if block:
        yield block


def _encode(engine: Engine, texts: Sequence[str]) -> list[Encoded]:
    chunks = (texts[start : start + _CHUNK] for start in range(0, len(texts), _CHUNK))
    return list(chain.from_iterable(engine.encode(chunk) for chunk in chunks))


def _assemble(engine: Engine, encoded: Encoded, outcomes: Sequence[Outcome]) -> Result:
    spans: list[list[Span]] = []
    for outcome in outcomes:
        if isinstance(outcome, EngineError):
            return outcome
        spans.append(outcome)
    return engine.assemble(encoded, spans)
