"""A process that replays, for tests that kill it: prints how far it is, line by line, and `done` at the end."""

import asyncio
import contextlib
import sys

from fake_engine import FakeEngine
from running import Stream

from worker.recovery.ranges import Request
from worker.recovery.replay import replay
from worker.recovery.sending_back import replay_dead_letters


def _print_progress(done: int, total: int) -> None:
    print(done, total, flush=True)


async def _run(what: str, bootstrap_servers: str, name: str, delivery: str) -> None:
    options = {"delivery": delivery, "max_in_flight_records": 300, "transaction_timeout_seconds": 10.0}
    stream = Stream(bootstrap_servers, name=name, options=options)
    if what == "topic":
        await replay(stream.settings(), FakeEngine(), Request(stream.reviews), progress=_print_progress)
    else:
        await replay_dead_letters(stream.settings(), progress=_print_progress)
    print("done", flush=True)


async def replay_until(stream: Stream, what: str, stop: int | None) -> bool:
    """Run such a process for `topic` or `dead-letters`, kill -9 at `stop` offsets; returns whether it got through."""
    delivery = stream.options["delivery"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, what, stream.bootstrap_servers, stream.name, delivery),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    async for line in process.stdout:
        word = line.split()[0]
        if word != b"done" and stop is not None and int(word) >= stop:
            with contextlib.suppress(ProcessLookupError):  # it may have got through meanwhile
                process.kill()
            await process.wait()
            return False
    return await process.wait() == 0


if __name__ == "__main__":
    asyncio.run(_run(*sys.argv[1:]))
