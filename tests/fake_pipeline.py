"""A data plane that a test moves by hand, and an engine that is only asked who it is."""

import asyncio
from types import SimpleNamespace
from typing import Any

from worker.app import HostStatus
from worker.ner.engine import ModelInfo
from worker.observe.live import Recent
from worker.observe.metrics import Metrics
from worker.settings import Settings

ENGINE: Any = SimpleNamespace(info=ModelInfo("tiny", "0123abcd", "seed", "onnxruntime", "cpu"))


class FakePipeline:
    """Keeps `worker.app.DataPlane`; to be made within a running loop."""

    def __init__(self, settings: Settings, engine: Any, metrics: Metrics, recent: Recent) -> None:
        self.settings, self.metrics, self.recent = settings, metrics, recent
        self.now = HostStatus(alive=True, ready=True, problems=())
        self.started, self.stopping, self.stopped = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.may_stop = asyncio.Event()
        self.may_stop.set()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        self.started.set()

    async def stop(self) -> None:
        self.stopping.set()
        await self.may_stop.wait()
        self.stopped.set()
        if not self._ended.done():
            self._ended.set_result(None)

    async def wait(self) -> None:
        await self._ended

    def fail(self, error: Exception) -> None:
        """End by itself."""
        self._ended.set_exception(error)

    def status(self) -> HostStatus:
        return self.now
