"""The data plane alone: the worker's pipeline with an engine that finds nothing, against a bare aiokafka loop.

    python benchmarks/dataplane.py --brokers 127.0.0.1:9092

The bare loop does what cannot be left out: getmany, parse, add two members, dump, send_batch, and a commit a second
after the acknowledgements. Both run in this process, in turn, on topics of their own with the same records.
"""

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, process_time
from typing import Any

import orjson
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from load import Timing, fill, read_texts, review, time_pipeline

from worker import logs
from worker.ner.engine import Encoded, ModelInfo, Window
from worker.process import spare_the_garbage_collector
from worker.records import Entity, Span
from worker.settings import Settings

IN_FLIGHT_BATCHES = 16
BATCH_TOKENS = 16_384  # what a fast device takes at a time


class IdleEngine:
    """An engine that costs nothing and finds nothing."""

    info = ModelInfo("idle", "0", "seed", "none", "cpu")
    forward_threads = 1

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return [Encoded(text, (Window(None, len(text) + 2),), None) for text in texts]

    def forward(self, windows: Sequence[Window]) -> list[list[Span]]:
        return [[] for _ in windows]

    def assemble(self, encoded: Encoded, spans: Sequence[Sequence[Span]]) -> list[Entity]:
        return []


async def time_bare_loop(settings: Settings, count: int) -> Timing:
    """The least that a worker on aiokafka has to do, as fast as it can be written."""
    source = settings.sources[0]
    brokers = settings.bootstrap_servers
    consumer = AIOKafkaConsumer(
        source.topic,
        bootstrap_servers=brokers,
        group_id=settings.group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=brokers,
        acks="all",
        enable_idempotence=True,
        compression_type=settings.compression,
        max_batch_size=262_144,
    )
    await consumer.start()
    await producer.start()
    pending: list[asyncio.Future[Any]] = []
    done, started, cpu, committed = 0, 0.0, 0.0, monotonic()
    try:
        while done < count:
            fetched = await consumer.getmany(timeout_ms=200)
            if fetched and not started:
                started, cpu = monotonic(), process_time()
            for partition, records in fetched.items():
                batch = producer.create_batch()
                for record in records:
                    value = _enriched(record)
                    while batch.append(key=record.key, value=value, timestamp=record.timestamp) is None:
                        batch.close()
                        pending.append(await producer.send_batch(batch, source.output, partition=partition.partition))
                        batch = producer.create_batch()
                batch.close()
                pending.append(await producer.send_batch(batch, source.output, partition=partition.partition))
                done += len(records)
            if len(pending) > IN_FLIGHT_BATCHES or monotonic() - committed > settings.commit_interval_seconds:
                await asyncio.gather(*pending)
                pending.clear()
                if monotonic() - committed > settings.commit_interval_seconds:
                    await consumer.commit()
                    committed = monotonic()
        await asyncio.gather(*pending)
        return Timing(count, monotonic() - started, process_time() - cpu)
    finally:
        await consumer.stop()
        await producer.stop()


def _enriched(record: Any) -> bytes:
    value = orjson.loads(record.value)
    value["entities"] = []
    value["enrichment"] = {"source": {"topic": record.topic, "partition": record.partition, "offset": record.offset}}
    return orjson.dumps(value)


async def compare(brokers: str, count: int, partitions: int, runs: int, texts: Path | None) -> dict[str, Any]:
    """Time both in turn, `runs` times, each time on a topic of its own; returns the figures."""
    values = [review(number, text) for number, text in enumerate(read_texts(texts, count))]
    timings: dict[str, list[Timing]] = {"bare": [], "pipeline": []}
    for run in range(runs):
        timings["bare"].append(await time_bare_loop(await fill(brokers, partitions, values), count))
        settings = (await fill(brokers, partitions, values)).model_copy(update={"batch_tokens": BATCH_TOKENS})
        timings["pipeline"].append(await time_pipeline(settings, IdleEngine(), count))
        rates = ", ".join(f"{name} {timing[-1].rate:,.0f}/s" for name, timing in timings.items())
        print(f"run {run + 1}: {rates}", file=sys.stderr)
    rates = {name: statistics.median(timing.rate for timing in each) for name, each in timings.items()}
    return {
        "records": count,
        "bytes_a_record": round(sum(map(len, values)) / len(values)),
        "partitions": partitions,
        "batch_tokens": BATCH_TOKENS,
        "runs": runs,
        "bare_records_a_second": round(rates["bare"]),
        "pipeline_records_a_second": round(rates["pipeline"]),
        "bare_cpu_seconds": round(statistics.median(timing.cpu_seconds for timing in timings["bare"]), 2),
        "pipeline_cpu_seconds": round(statistics.median(timing.cpu_seconds for timing in timings["pipeline"]), 2),
        "ratio": round(rates["pipeline"] / rates["bare"], 3),
    }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brokers", default="127.0.0.1:9092", help="a Kafka to make topics on (default %(default)s)")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3, help="of each, in turn; the median counts (default 3)")
    parser.add_argument(
        "--texts", type=Path, help="JSON lines with text, gzipped or not; by default the demo's samples"
    )
    options = parser.parse_args()
    logs.configure("text", "error")
    spare_the_garbage_collector()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(compare(options.brokers, options.records, options.partitions, options.runs, options.texts))
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
