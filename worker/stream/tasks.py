"""How tasks are ended."""

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_SECONDS = 1.0


async def end_tasks(tasks: Iterable[asyncio.Future[Any]], again_seconds: float = AGAIN_SECONDS) -> None:
    """Cancel tasks, and again every `again_seconds` until each has ended; what they raise is not raised here.

    Once is not always enough: a task that waits by `asyncio.wait_for`, as aiokafka does for every response, goes on as
    if nothing had been asked where the response comes in the same turn of the loop (Python 3.11,
    https://github.com/python/cpython/issues/86296).
    """
    ending = set(tasks)
    pending = {task for task in ending if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=again_seconds)
    for task in ending:
        if not task.cancelled():
            task.exception()  # heard
