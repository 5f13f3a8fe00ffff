from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from fake_pipeline import ENGINE, FakePipeline

from worker.app import Host, create_app
from worker.settings import Settings


@dataclass(frozen=True)
class Running:
    """A started app, its fake pipeline, and a client for its pages."""

    app: Host
    client: aiohttp.ClientSession

    @property
    def pipeline(self) -> FakePipeline:
        return self.app.pipeline

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        """Status and body (JSON where it is)."""
        async with self.client.get(self.url(path), **options) as answer:
            body = await (answer.json() if answer.content_type == "application/json" else answer.text())
            return answer.status, body

    def url(self, path: str) -> str:
        host, port = self.app.address
        return f"http://{host}:{port}{path}"


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts apps on free ports; they and their clients end with the test."""
    running: list[Running] = []

    async def begin(**settings: Any) -> Running:
        app = create_app(Settings(web_port=0, **settings), ENGINE, make_pipeline=FakePipeline)
        running.append(Running(app, aiohttp.ClientSession()))
        await app.start()
        return running[-1]

    yield begin
    for one in running:
        await one.client.close()
        await one.app.stop()
