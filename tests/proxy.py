"""A TCP proxy on loopback that makes a broker slow and cuts its connections."""

import asyncio
from contextlib import suppress

CHUNK_BYTES = 64 * 1024


class Proxy:
    """Passes bytes between `port` and `target` (host:port) while it is entered.

    `delay` is how many seconds every chunk is held back, each way; it may change at any time. `cut` ends all
    connections as a broken network does.
    """

    def __init__(self, port: int, target: str, *, delay: float = 0.0) -> None:
        self._port = port
        self._host, _, target_port = target.rpartition(":")
        self._target_port = int(target_port)
        self.delay = delay
        self.chunks = 0
        self.cuts = 0
        self._connections: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]] = {}
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def cut(self) -> int:
        """Reset every connection; returns how many there were."""
        cut = list(self._connections.values())
        for writers in cut:
            for writer in writers:
                writer.transport.abort()
        self.cuts += len(cut)
        return len(cut)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = (writer,)
        try:
            there, back = await asyncio.open_connection(self._host, self._target_port)
            self._connections[task] = (writer, back)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._pass_on(reader, back))
                ways.create_task(self._pass_on(there, writer))
        except OSError:  # the broker is away
            pass
        finally:
            for end in self._connections.pop(task):
                end.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                await asyncio.sleep(self.delay)
                self.chunks += 1
                writer.write(chunk)
                await writer.drain()
        writer.transport.abort()  # either side's end ends both
