"""How fast an engine is on given texts, with nothing around it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from time import perf_counter

from worker.ner.annotate import BatchFigures, annotate
from worker.ner.engine import Engine
from worker.ner.errors import EngineError

_WARM_UP = 64  # texts


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """One run over all texts: encoding, forward passes and assembling, in batches sorted by length."""

    model: str
    revision: str
    engine: str
    device: str
    texts: int
    failed: int  # texts that the engine could not do
    entities: int
    tokens: int  # padding aside
    batches: int
    seconds: float
    texts_per_second: float
    tokens_per_second: float
    padding_share: float  # of the tokens that ran
    batch_seconds_p50: float
    batch_seconds_p99: float
    forward_share: float  # of the time, spent in forward passes; up to the number of forward threads


def bench(engine: Engine, texts: Sequence[str], *, batch_tokens: int | None = None) -> EngineFigures:
    """Time the engine on `texts`, after a few of them have warmed it up. Raises ValueError for no texts."""
    if not texts:
        raise ValueError("no texts to measure on")
    for _ in annotate(engine, islice(texts, _WARM_UP), batch_tokens=batch_tokens):
        pass
    batches: list[BatchFigures] = []
    failed = entities = 0
    started = perf_counter()
    for result in annotate(engine, texts, batch_tokens=batch_tokens, on_batch=batches.append):
        if isinstance(result, EngineError):
            failed += 1
        else:
            entities += len(result)
    seconds = perf_counter() - started
    tokens = sum(batch.tokens for batch in batches)
    padding = sum(batch.padding for batch in batches)
    times = sorted(batch.seconds for batch in batches)
    return EngineFigures(
        model=engine.info.name,
        revision=engine.info.revision,
        engine=engine.info.engine,
        device=engine.info.device,
        texts=len(texts),
        failed=failed,
        entities=entities,
        tokens=tokens,
        batches=len(batches),
        seconds=seconds,
        texts_per_second=len(texts) / seconds,
        tokens_per_second=tokens / seconds,
        padding_share=padding / (tokens + padding) if tokens else 0.0,
        batch_seconds_p50=_quantile(times, 0.5),
        batch_seconds_p99=_quantile(times, 0.99),
        forward_share=sum(times) / seconds,
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0
