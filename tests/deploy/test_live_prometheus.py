"""A real Prometheus, scraping a real worker, answers every query of the dashboard and of the alerts."""

import asyncio
import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
from aiokafka import AIOKafkaProducer
from deployment import DEPLOY, load_script
from fake_engine import POISON, FakeEngine

from worker.app import create_app
from worker.demo.broker import EmbeddedBroker
from worker.demo.show import demo_settings
from worker.stream import topics

check_queries = load_script(DEPLOY / "check_queries.py")
PATIENCE_SECONDS = 60
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is missing: install it (Debian: apt install prometheus)"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """A Prometheus with the alert rules: its address, and the port that it scrapes as the job koner."""
    port, scraped = free_port(), free_port()
    config = {
        "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "1s"},
        "rule_files": [str(DEPLOY / "prometheus" / "alerts.yml")],
        "scrape_configs": [{"job_name": "koner", "static_configs": [{"targets": [f"127.0.0.1:{scraped}"]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))
    command = [
        "prometheus",
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    process = subprocess.Popen(command)
    try:
        yield f"http://127.0.0.1:{port}", scraped
    finally:
        process.terminate()
        process.wait(20)


async def keep_sending(bootstrap_servers: str) -> None:
    """Send good and bad records of both kinds, a few at a time, until cancelled."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap_servers, enable_idempotence=False) as producer:
        number = 0
        while True:
            for text in ("이병헌 부산", "송강호 기생충 2019년", POISON, "긴 글 " * 40):
                number += 1
                query = json.dumps({"query_id": str(number), "text": text}).encode()
                review = json.dumps({"review_id": str(number), "text": text}).encode()
                await producer.send("queries.raw", query)
                await producer.send("reviews.raw", review)
            for topic in ("queries.raw", "reviews.raw"):
                await producer.send_and_wait(topic, b"not json")
            await asyncio.sleep(0.1)  # a steady trickle, so that rates are not zero


def health_of_rules(address: str) -> dict[str, str]:
    """What Prometheus itself says of each alert rule."""
    with urllib.request.urlopen(f"{address}/api/v1/rules") as answer:
        groups = json.load(answer)["data"]["groups"]
    return {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}


@needs_prometheus
async def test_every_query_of_dashboard_and_alerts_returns_data(prometheus: tuple[str, int]) -> None:
    address, port = prometheus
    queries = [*check_queries.dashboard_queries(interval="5s"), *check_queries.alert_queries()]
    async with EmbeddedBroker() as broker:
        settings = demo_settings(broker.bootstrap_servers, port)
        await topics.create(settings, partitions=2, replication=1)
        app = create_app(settings, FakeEngine())
        await app.start()
        sending = asyncio.create_task(keep_sending(broker.bootstrap_servers))
        try:
            deadline = monotonic() + PATIENCE_SECONDS
            failures = ["Prometheus was not asked yet"]
            while failures and monotonic() < deadline:
                await asyncio.sleep(0.5)  # Prometheus scrapes when it likes and tells nobody
                try:
                    failures = await asyncio.to_thread(check_queries.failures, address, queries)
                except urllib.error.URLError:
                    continue
            assert failures == []
            nonsense = check_queries.Query("nowhere", "koner_no_such_metric")
            assert await asyncio.to_thread(check_queries.failures, address, [nonsense])
            health = await asyncio.to_thread(health_of_rules, address)
            assert len(health) >= 16
            assert [name for name, state in health.items() if state == "err"] == []
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await app.stop()
