"""Workers, a real broker and trouble: what the soak test and the fault tests drive, and a program to run by hand.

    KAFKA_HOME=… python tests/kafka/storm.py soak --seconds 600 --delivery exactly_once --seed 1
    KAFKA_HOME=… python tests/kafka/storm.py backlog reviews.jsonl.gz --count 20000 --queries 2000 --term 1 --kill 1
    KAFKA_HOME=… python tests/kafka/storm.py backlog reviews.jsonl.gz --count 6000 --queries 600 --workers 2 --kill 3 \
        --broker-restart 1 --delivery exactly_once

Workers are processes of their own (`koner run`), ended, killed and stalled by signals. At the end the audit reads all
topics; what it finds is printed as JSON, and the exit code is 1 if anything was lost, or doubled under exactly once.
"""

import argparse
import asyncio
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from brokers import Produced
from kafka_broker import KafkaBroker, free_ports
from running import Stream

from worker.audit.check import audit
from worker.audit.report import Report

KONER = [sys.executable, "-c", "from worker.cli import main; main()"]
PARTITIONS = 4
GRACE = 60.0


class WorkerProcess:
    """One `koner run`, started and ended as often as wanted."""

    def __init__(self, name: str, config: Path, folder: Path, threads: int) -> None:
        self.name = name
        self._threads = threads
        (self.web_port,) = free_ports(1)
        self._config = config
        self._log = (folder / f"{name}.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None
        self.memory: list[tuple[float, int]] = []  # monotonic seconds, resident bytes

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        environment = {**os.environ, "KONER_WEB_PORT": str(self.web_port), "KONER_THREADS": str(self._threads)}
        command = [*KONER, "run", "--config", str(self._config)]
        self._process = subprocess.Popen(command, env=environment, stdout=self._log, stderr=self._log)

    def send(self, number: signal.Signals) -> None:
        if self.running:
            assert self._process is not None
            self._process.send_signal(number)

    async def end(self, number: signal.Signals) -> int:
        """Send a signal that ends the worker and wait; its exit code comes back."""
        self.send(number)
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait, GRACE)

    def sample_memory(self) -> None:
        if self.running:
            assert self._process is not None
            self.memory.append((time.monotonic(), psutil.Process(self._process.pid).memory_info().rss))

    def metric(self, name: str) -> float:
        """The sum of a metric's samples at this worker; 0 while it serves no pages."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.web_port}/metrics", timeout=2) as page:
                lines = page.read().decode().splitlines()
        except OSError:
            return 0.0
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


@dataclass
class Storm:
    """A broker, topics, workers, and the count of what was done to them."""

    broker: KafkaBroker
    stream: Stream
    folder: Path
    config: Path
    workers: list[WorkerProcess] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)

    def count(self, what: str) -> None:
        self.done[what] = self.done.get(what, 0) + 1

    def add_worker(self, threads: int = 1, web_port: int | None = None) -> WorkerProcess:
        worker = WorkerProcess(f"worker-{len(self.workers)}", self.config, self.folder, threads)
        if web_port is not None:
            worker.web_port = web_port
        self.workers.append(worker)
        worker.start()
        return worker

    async def committed(self) -> tuple[int, int]:
        """How many raw records the group has committed, and how many there are."""
        settings = self.stream.settings()
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.broker.bootstrap_servers, group_id=settings.group, enable_auto_commit=False
        )
        await consumer.start()
        try:
            partitions = [
                TopicPartition(source.topic, number) for source in settings.sources for number in range(PARTITIONS)
            ]
            ends = await consumer.end_offsets(partitions)
            committed = [await consumer.committed(partition) or 0 for partition in partitions]
            return sum(committed), sum(ends.values())
        finally:
            await consumer.stop()

    async def until_committed(self, share: float, timeout: float, of: int | None = None) -> None:
        """Wait until the group has committed `share` of the raw records there are (or of `of`)."""
        async with asyncio.timeout(timeout):
            while True:
                try:
                    committed, end = await self.committed()
                except (KafkaError, TimeoutError):
                    committed, end = 0, 1
                if committed >= share * (of or end) and end >= (of or 0) * share:
                    return
                for worker in self.workers:
                    worker.sample_memory()
                await asyncio.sleep(0.25)

    async def audit(self, **options: Any) -> Report:
        return await audit(self.stream.settings(), everything=True, **options)


@asynccontextmanager
async def storm(broker: KafkaBroker, *, model: str = "bundled", **options: Any) -> AsyncIterator[Storm]:
    """A storm on `broker` with topics of its own; its workers end with the context."""
    stream = await Stream(broker.bootstrap_servers, options=options).create(PARTITIONS)
    folder = Path(tempfile.mkdtemp(prefix="koner-storm-"))
    config = folder / "koner.toml"
    settings = stream.settings(model=model)
    sources = "".join(
        f'\n[[sources]]\ntopic = "{source.topic}"\nkind = "{source.kind}"\noutput = "{source.output}"\n'
        for source in settings.sources
    )
    names = ("bootstrap_servers", "group", "dead_letter_topic", "delivery", "model", "compression")
    numbers = ("commit_interval_seconds", "drain_seconds", "session_timeout_seconds", "transaction_seconds")
    config.write_text(
        "".join(f'{name} = "{getattr(settings, name)}"\n' for name in names)
        + "".join(f"{name} = {getattr(settings, name)}\n" for name in numbers)
        + sources
    )
    it = Storm(broker, stream, folder, config)
    try:
        yield it
        shutil.rmtree(folder, ignore_errors=True)  # after a failure the workers' logs are kept there
    finally:
        for worker in it.workers:
            worker.send(signal.SIGCONT)
            worker.send(signal.SIGKILL)


def made_up_records(number: int) -> Iterator[tuple[str, Produced]]:
    """Endless records: nine reviews to a query, every hundredth of them one that must be refused."""
    generator = random.Random(number)
    people, titles = ["이병헌", "송강호", "전도연", "박찬욱"], ["기생충", "밀양", "올드보이", "괴물"]
    index = 0
    while True:
        index += 1
        key = b"key-%d" % generator.randrange(200)
        person, title = generator.choice(people), generator.choice(titles)
        if index % 100 == 0:
            value = generator.choice([b"not json", b'{"review_id": "1", "text": 7}', b'{"text": "\xff"}', b"[]"])
            yield "review", Produced(value, key=key)
        elif index % 10 == 0:
            yield "query", Produced(_json(query_id=str(index), text=f"{person} {title}"), key=key)
        else:
            text = f"{person} 나온 {title} 진짜 재밌다" + "ㅋ" * generator.randrange(30)
            yield "review", Produced(_json(review_id=str(index), text=text), key=key, headers=(("n", b"%d" % index),))


def real_records(reviews: Path, count: int, queries: int) -> Iterator[tuple[str, Produced]]:
    """Reviews from a file of JSON lines, queries made of their first words, and one in a hundred to be refused."""
    bad = [b"{", b'{"review_id": 3, "text": "x"}', b'{"review_id": "1", "text": "\xed\xa0"}', b"\xff\xfe"]
    bad.append(_json(review_id="long", text="가" * 20_001))
    with gzip.open(reviews, "rt", encoding="utf-8") as lines:
        for index, line in zip(range(count), lines, strict=False):
            record = json.loads(line)
            key = None if index % 9 == 0 else record["movie_id"].encode()
            value = bad[index // 100 % len(bad)] if index % 100 == 99 else _json(**record)
            stamp = 1_500_000_000_000 + index
            yield "review", Produced(value, key=key, headers=(("line", b"%d" % index),), timestamp_ms=stamp)
            if index * queries // count > (index - 1) * queries // count:
                words = " ".join(record["text"].split()[:3])
                yield "query", Produced(_json(query_id=str(index), text=words), key=key, timestamp_ms=stamp)


def _json(**fields: Any) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode()


async def feed(it: Storm, records: Iterable[tuple[str, Produced]], *, until: Callable[[], bool], rate: float) -> int:
    """Produce at `rate` records a second until `until` says so; what the broker acknowledged is counted."""
    producer = AIOKafkaProducer(bootstrap_servers=it.broker.bootstrap_servers, enable_idempotence=True, linger_ms=10)
    await producer.start()
    sent = 0
    began = time.monotonic()
    futures = []
    try:
        for kind, record in records:
            if until():
                break
            topic = it.stream.queries if kind == "query" else it.stream.reviews
            futures.append(
                await producer.send(
                    topic, record.value, key=record.key, headers=list(record.headers), timestamp_ms=record.timestamp_ms
                )
            )
            sent += 1
            if rate and sent % 50 == 0:
                await asyncio.sleep(max(0.0, began + sent / rate - time.monotonic()))
        await asyncio.gather(*futures)
    finally:
        await producer.stop()
    return sent


async def rage(it: Storm, seconds: float, seed: int) -> None:
    """Do harm at random for `seconds`: kills, stalls, scale-outs, shut-downs, broker restarts and freezes."""
    generator = random.Random(seed)
    end = time.monotonic() + seconds
    harms = ["kill", "kill", "kill", "term", "stall", "stall", "scale_out", "broker_restart", "broker_kill", "freeze"]
    while time.monotonic() < end:
        await asyncio.sleep(generator.uniform(1.0, 5.0))
        harm = generator.choice(harms)
        alive = [worker for worker in it.workers if worker.running]
        if harm in ("kill", "term", "stall") and alive:
            worker = generator.choice(alive)
            if harm == "stall":  # longer than the session: its partitions move on, and it wakes as a zombie
                worker.send(signal.SIGSTOP)
                await asyncio.sleep(it.stream.settings().session_timeout_seconds + generator.uniform(0.5, 3.0))
                worker.send(signal.SIGCONT)
            else:
                code = await worker.end(signal.SIGKILL if harm == "kill" else signal.SIGTERM)
                assert harm == "kill" or code == 0, f"{worker.name} exited with {code} at SIGTERM"
                await asyncio.sleep(generator.uniform(0.0, 2.0))
                worker.start()
        elif harm == "scale_out":
            if len(it.workers) < 3:
                it.add_worker()
            else:
                await it.workers[-1].end(signal.SIGTERM) if it.workers[-1].running else it.workers[-1].start()
        elif harm == "broker_restart":
            await asyncio.to_thread(it.broker.restart)
        elif harm == "broker_kill":
            await asyncio.to_thread(it.broker.kill)
            await asyncio.sleep(generator.uniform(0.0, 3.0))
            await asyncio.to_thread(it.broker.start)
        elif harm == "freeze":
            it.broker.freeze()
            await asyncio.sleep(generator.uniform(1.0, it.stream.settings().session_timeout_seconds + 2.0))
            it.broker.thaw()
        it.count(harm)


async def soak(broker: KafkaBroker, *, seconds: float, seed: int, rate: float, **options: Any) -> dict[str, Any]:
    """Feed and harm for `seconds`, let the workers finish, and audit."""
    async with storm(broker, session_timeout_seconds=6.0, **options) as it:
        it.add_worker()
        it.add_worker()
        end = time.monotonic() + seconds
        feeding = asyncio.create_task(feed(it, made_up_records(seed), until=lambda: time.monotonic() > end, rate=rate))
        await rage(it, seconds, seed)
        produced = await feeding
        if not any(worker.running for worker in it.workers):
            it.workers[0].start()
        await it.until_committed(1.0, timeout=300)
        report = await it.audit()
        return {
            "produced": produced,
            "seconds": seconds,
            "seed": seed,
            "harm": it.done,
            "clean": report.clean,
            "audit": report.as_json(),
        }


async def backlog(
    broker: KafkaBroker,
    records: Iterable[tuple[str, Produced]],
    harms: Sequence[str],
    *,
    workers: int,
    threads: int,
    web_port: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Produce everything, start workers, do each harm in turn as the work goes on, and audit.

    `seconds` of the result is from the workers' start to the last commit; `steady` is the greatest rate of records a
    second over any stretch of five seconds, all workers together.
    """
    async with storm(broker, **options) as it:
        total = await feed(it, records, until=lambda: False, rate=0)
        began = time.monotonic()
        for number in range(workers):
            it.add_worker(threads, None if web_port is None else web_port + number)
        done: list[tuple[float, float]] = []
        watching = asyncio.create_task(_watch(it, done))
        codes = []
        for number, harm in enumerate(harms, 1):
            await it.until_committed(number / (len(harms) + 1), timeout=600, of=total)
            worker = it.workers[number % workers]
            if harm == "broker_restart":
                await asyncio.to_thread(broker.restart)
            else:
                codes.append(await worker.end(signal.SIGKILL if harm == "kill" else signal.SIGTERM))
                worker.start()
            it.count(harm)
        await it.until_committed(1.0, timeout=900, of=total)
        seconds = time.monotonic() - began
        watching.cancel()
        for worker in it.workers:
            codes.append(await worker.end(signal.SIGTERM))
        report = await it.audit()
        return {
            "produced": total,
            "harm": it.done,
            "exit_codes": codes,
            "seconds": round(seconds, 1),
            "steady": round(_steady(done), 1),
            "memory_mb": {worker.name: _thirds(worker.memory) for worker in it.workers},
            "clean": report.clean,
            "audit": report.as_json(),
        }


async def _watch(it: Storm, done: list[tuple[float, float]]) -> None:
    """Note every half second how many records the group has committed."""
    while True:
        with suppress(KafkaError, TimeoutError):
            done.append((time.monotonic(), (await it.committed())[0]))
        await asyncio.sleep(0.5)


def _steady(done: Sequence[tuple[float, float]]) -> float:
    spans = [(b[1] - a[1]) / (b[0] - a[0]) for a in done for b in done if 5 <= b[0] - a[0] <= 6]
    return max(spans, default=0.0)


def _thirds(samples: Sequence[tuple[float, int]]) -> list[float]:
    """Resident megabytes at the start, in the middle and at the end."""
    if not samples:
        return []
    picked = (samples[min(4, len(samples) - 1)], samples[len(samples) // 2], samples[-1])
    return [round(size / 1e6, 1) for _, size in picked]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    soaking = commands.add_parser("soak", help="random harm from a seed")
    soaking.add_argument("--seconds", type=float, default=60.0, help="how long to do harm")
    soaking.add_argument("--seed", type=int, default=1)
    soaking.add_argument("--rate", type=float, default=100.0, help="records produced a second")
    working = commands.add_parser("backlog", help="a file of reviews, and harm on the way")
    working.add_argument("reviews", type=Path, help="JSON lines, gzipped")
    working.add_argument("--count", type=int, default=6000, help="reviews")
    working.add_argument("--queries", type=int, default=600)
    working.add_argument("--workers", type=int, default=1)
    working.add_argument("--threads", type=int, default=2, help="CPU threads of a worker")
    working.add_argument("--web-port", type=int, help="port of the first worker's pages; by default any")
    working.add_argument("--term", type=int, default=0, help="how often to stop a worker")
    working.add_argument("--kill", type=int, default=0, help="how often to kill a worker")
    working.add_argument("--broker-restart", type=int, default=0, help="how often to restart the broker")
    for command in (soaking, working):
        command.add_argument("--delivery", choices=["at_least_once", "exactly_once"], default="at_least_once")
        command.add_argument("--model", default="bundled")
    given = parser.parse_args()
    options = {"delivery": given.delivery, "model": given.model}
    with KafkaBroker() as broker:
        if given.command == "soak":
            work = soak(broker, seconds=given.seconds, seed=given.seed, rate=given.rate, **options)
        else:
            harms = ["term"] * given.term + ["kill"] * given.kill + ["broker_restart"] * given.broker_restart
            records = real_records(given.reviews, given.count, given.queries)
            work = backlog(
                broker, records, harms, workers=given.workers, threads=given.threads, web_port=given.web_port, **options
            )
        result = asyncio.run(work)
    print(json.dumps(result, ensure_ascii=False, indent=2, default=str))
    return 0 if result["clean"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
