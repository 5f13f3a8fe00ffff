"""The host with the real data plane, on the embedded broker."""

import asyncio
from typing import Any

import aiohttp
import orjson
import pytest
from brokers import Produced, create_topics, produce
from fake_engine import FakeEngine

from worker.app import Host, create_app
from worker.settings import Settings, load
from worker.stream.errors import StreamError

NOBODY = "127.0.0.1:9"


def _settings(bootstrap_servers: str, name: str, **options: Any) -> Settings:
    return load(
        bootstrap_servers=bootstrap_servers,
        group=f"{name}.group",
        sources=[{"topic": f"{name}.raw", "kind": "review", "output": f"{name}.enriched"}],
        dead_letter_topic=f"{name}.dead-letters",
        idempotence=False,
        session_timeout_seconds=6.0,
        web_port=0,
        **options,
    )


async def _until(app: Host, client: aiohttp.ClientSession, path: str, answer: Any) -> Any:
    """Ask a page until `answer` is true of its status and body."""
    host, port = app.address
    async with asyncio.timeout(30):
        while True:
            async with client.get(f"http://{host}:{port}{path}") as response:
                body = await response.json()
                if answer(response.status, body):
                    return body
            await asyncio.sleep(0.05)


async def test_records_flow_and_the_page_shows_them(embedded, unique) -> None:
    name = unique("host")
    settings = _settings(embedded.bootstrap_servers, name)
    await create_topics(
        embedded.bootstrap_servers, *(f"{name}.{topic}" for topic in ("raw", "enriched", "dead-letters"))
    )
    app = create_app(settings, FakeEngine())
    async with aiohttp.ClientSession() as client:
        await app.start()
        try:
            await _until(app, client, "/ready", lambda status, _: status == 200)
            value = orjson.dumps({"review_id": "1", "text": "😀 이병헌 최고"})
            await produce(embedded.bootstrap_servers, f"{name}.raw", [Produced(value=value), Produced(value=b"{")])
            live = await _until(app, client, "/live.json", lambda _, body: body["totals"].get("out") == 2)
        finally:
            await app.stop()
    assert live["totals"]["enriched"] == live["totals"]["dead_letter"] == 1
    assert live["dead_letters"] == [{"source": f"{name}.raw", "reason": "not_json", "count": 1.0}]
    (record,) = live["records"]
    assert [segment.get("type") for segment in record["segments"]] == [None, "PER", None]
    await app.wait_ended()


async def test_a_broker_that_is_away_keeps_neither_pages_nor_the_end_from_coming(unique) -> None:
    app = create_app(_settings(NOBODY, unique("away")), FakeEngine())
    async with aiohttp.ClientSession() as client:
        await app.start()
        try:
            body = await _until(app, client, "/ready", lambda status, _: status == 503)
            await _until(app, client, "/health", lambda status, _: status == 200)
        finally:
            await asyncio.wait_for(app.stop(), 15)
    assert NOBODY in body["problems"][0]
    await app.wait_ended()


async def test_topics_that_do_not_exist_end_the_worker_and_name_the_command(embedded, unique) -> None:
    name = unique("absent")
    app = create_app(_settings(embedded.bootstrap_servers, name), FakeEngine())
    await app.start()
    try:
        with pytest.raises(StreamError, match=rf"{name}\.raw.*`koner topics create`"):
            await asyncio.wait_for(app.wait_ended(), 20)
    finally:
        await app.stop()
