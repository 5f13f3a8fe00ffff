"""The whole worker against its engine alone, on the same texts.

    python benchmarks/whole.py --brokers 127.0.0.1:9092 --texts reviews.jsonl.gz --records 20000

The engine alone gets all texts at once: it encodes in one thread while another runs batches of like length under the
same token budget. What is missing from 1 is the price of Kafka, the contracts, order and bounds.
"""

import argparse
import asyncio
import json
import statistics
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import monotonic, process_time
from typing import Any

import uvloop
from load import Timing, fill, read_texts, review, time_pipeline

from worker import logs
from worker.ner.batching import cut
from worker.ner.engine import Encoded, Engine, Window
from worker.ner.loading import load_engine
from worker.records import Span
from worker.stream.pipeline import CPU_BATCH_TOKENS, CUDA_BATCH_TOKENS

CHUNK = 2_000  # texts encoded at once, and the stretch within which they are sorted by length


def time_engine(engine: Engine, texts: Sequence[str], budget: int) -> Timing:
    """Encode, run and assemble `texts`, encoding ahead of the forward passes."""
    started, cpu = monotonic(), process_time()
    with ThreadPoolExecutor(1) as encoding, ThreadPoolExecutor(engine.forward_threads) as forward:
        chunks = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
        for encoded in _ahead(encoding, engine, chunks):
            windows = [window for text in encoded for window in text.windows]
            spans = _run(engine, forward, windows, budget)
            for text in encoded:
                engine.assemble(text, [spans.popleft() for _ in text.windows])
    return Timing(len(texts), monotonic() - started, process_time() - cpu)


def _ahead(pool: ThreadPoolExecutor, engine: Engine, chunks: Sequence[Sequence[str]]) -> Iterator[list[Encoded]]:
    waiting: deque[Future[list[Encoded]]] = deque()
    for chunk in chunks:
        waiting.append(pool.submit(engine.encode, chunk))
        if len(waiting) > 2:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _run(engine: Engine, pool: ThreadPoolExecutor, windows: Sequence[Window], budget: int) -> deque[list[Span]]:
    batches = cut([window.tokens for window in windows], budget)
    found: list[list[Span]] = [[] for _ in windows]
    results = pool.map(engine.forward, [[windows[index] for index in batch] for batch in batches])
    for batch, spans in zip(batches, results, strict=True):
        for index, of_window in zip(batch, spans, strict=True):
            found[index] = of_window
    return deque(found)


async def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Time both in turn, `runs` times; returns the figures."""
    engine = load_engine(options.model, engine=options.engine, device=options.device, threads=options.threads)
    budget = options.batch_tokens or (CPU_BATCH_TOKENS if engine.info.device == "cpu" else CUDA_BATCH_TOKENS)
    texts = read_texts(options.texts, options.records)
    values = [review(number, text) for number, text in enumerate(texts)]
    time_engine(engine, texts[: min(len(texts), CHUNK)], budget)  # warm
    timings: dict[str, list[Timing]] = {"engine": [], "pipeline": []}
    for run in range(options.runs):
        timings["engine"].append(await asyncio.to_thread(time_engine, engine, texts, budget))
        settings = (await fill(options.brokers, options.partitions, values)).model_copy(
            update={"batch_tokens": budget, "threads": options.threads}
        )
        timings["pipeline"].append(await time_pipeline(settings, engine, len(texts)))
        rates = ", ".join(f"{name} {timing[-1].rate:,.1f}/s" for name, timing in timings.items())
        print(f"run {run + 1}: {rates}", file=sys.stderr)
    rates = {name: statistics.median(timing.rate for timing in each) for name, each in timings.items()}
    return {
        "model": engine.info.name,
        "revision": engine.info.revision,
        "engine": engine.info.engine,
        "device": engine.info.device,
        "records": len(texts),
        "batch_tokens": budget,
        "runs": options.runs,
        "engine_records_a_second": round(rates["engine"], 1),
        "pipeline_records_a_second": round(rates["pipeline"], 1),
        "ratio": round(rates["pipeline"] / rates["engine"], 3),
    }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brokers", default="127.0.0.1:9092", help="a Kafka to make topics on (default %(default)s)")
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--runs", type=int, default=1, help="of each, in turn; the median counts (default 1)")
    parser.add_argument(
        "--texts", type=Path, help="JSON lines with text, gzipped or not; by default the demo's samples"
    )
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--engine", default="auto", choices=["auto", "torch", "onnxruntime"])
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, help="CPU threads of the engine; by default one a core")
    parser.add_argument("--batch-tokens", type=int, help="by default what the worker takes on the device")
    options = parser.parse_args()
    logs.configure("text", "error")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(compare(options))
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
