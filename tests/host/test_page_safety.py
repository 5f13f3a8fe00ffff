"""What a stranger can do through the pages: look, and nothing else."""

import asyncio
import io

import pytest
from logging_state import logging_restored

from worker import logs

PAGES = ("/", "/live.json", "/metrics", "/health", "/ready")
ELSEWHERE = ("/nothing", "/ready/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/metrics%00", "/?x=" + "y" * 4000)
METHODS = ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "MKCOL")
SECRETS = {"sasl_password": "s3cret-of-the-tests", "ssl_key_password": "k3y-of-the-tests"}


async def test_the_pages_are_served_to_this_machine_alone_unless_told_otherwise(start) -> None:
    worker = await start()
    host, _ = worker.app.address
    assert host == "127.0.0.1"


@pytest.mark.parametrize("method", METHODS)
async def test_nothing_but_looking_is_allowed_anywhere(start, method: str) -> None:
    worker = await start()
    before = [await worker.get("/health"), await worker.get("/ready")]
    for path in (*PAGES, *ELSEWHERE):
        async with worker.client.request(method, worker.url(path), data=b"x" * 100_000) as answer:
            assert answer.status in (404, 405), path
    assert [await worker.get("/health"), await worker.get("/ready")] == before
    assert not worker.pipeline.stopping.is_set()


@pytest.mark.parametrize("path", ["/nothing", "/ready/..%2f..%2fetc/passwd", "/metrics%00"])
async def test_what_is_not_there_is_not_found_and_echoes_nothing(start, path: str) -> None:
    worker = await start()
    async with worker.client.get(worker.url(path + "<script>alert(1)</script>")) as answer:
        assert answer.status == 404
        assert "script" not in await answer.text()


async def test_no_page_tells_a_secret(start) -> None:
    worker = await start(security_protocol="SASL_SSL", sasl_username="koner", ssl_certfile="certificate.pem", **SECRETS)
    for path in PAGES:
        async with worker.client.get(worker.url(path)) as answer:
            page = await answer.text()
        assert answer.status == 200
        assert not any(secret in page for secret in SECRETS.values())


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"NONSENSE / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: y\r\n" * 50_000 + b"\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"\0" * 1000,
    ],
)
async def test_what_is_no_http_is_refused_and_fills_no_log(start, request_bytes: bytes) -> None:
    said = io.StringIO()
    worker = await start()
    with logging_restored():
        logs.configure("text", "info", said)
        reader, writer = await asyncio.open_connection(*worker.app.address)
        writer.write(request_bytes)
        answer = await asyncio.wait_for(reader.read(200), 10)
        writer.transport.abort()
    assert answer.startswith((b"HTTP/1.0 400 ", b"HTTP/1.1 400 "))
    assert said.getvalue() == ""
    assert (await worker.get("/health"))[0] == 200
