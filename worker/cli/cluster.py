"""Ask a cluster something, and turn what can go wrong with it into one line and an exit code."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from worker.cli.answers import fail

if TYPE_CHECKING:
    from worker.settings import Settings

Answer = TypeVar("Answer")


def ask_cluster(
    settings: "Settings", question: Coroutine[Any, Any, Answer], *, rights: str = "", interrupted: str = "interrupted"
) -> Answer:
    """Run a question to the cluster to its end; what a user can mend is one line and exit 1.

    `rights` names the access rights that the question needs, for a user who lacks one; without it the worker's own are
    told. Ctrl-C and SIGTERM cancel the question, wait until it has finished what is under way, and say `interrupted`.
    """
    import logging

    from worker.audit.reading import ReadingError
    from worker.recovery.errors import RecoveryError
    from worker.settings import SettingsError
    from worker.stream.errors import StreamError

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it says at length what is one line here
    try:
        return asyncio.run(_until_told(question))
    except (KeyboardInterrupt, asyncio.CancelledError):
        fail(interrupted)
    except (SettingsError, StreamError) as error:
        fail(str(error))
    except (ReadingError, RecoveryError) as error:
        fail(asyncio.run(_reason(settings, error, rights)))
    except (RuntimeError, OSError) as error:  # aiokafka's own are RuntimeErrors
        fail(asyncio.run(_explain(settings, error, rights)))


async def _until_told(question: Coroutine[Any, Any, Answer]) -> Answer:
    """Let SIGTERM end it as Ctrl-C does, which `asyncio.run` sees to."""
    task = asyncio.ensure_future(question)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_on_unheard)
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def _on_unheard(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What nobody awaits: aiokafka leaves requests behind where one fails, and that one is told already."""
    if not type(context.get("exception")).__module__.startswith("aiokafka."):
        loop.default_exception_handler(context)


async def _reason(settings: "Settings", error: Exception, rights: str) -> str:
    """The line of an error that has one; where the broker let nobody in, why it did not."""
    from worker.audit.reading import ReadingError
    from worker.stream.permission import NO_PERMISSION

    cause = error.__context__
    if isinstance(cause, NO_PERMISSION) or (isinstance(error, ReadingError) and isinstance(cause, RuntimeError)):
        return await _explain(settings, cause, rights)
    return str(error)


async def _explain(settings: "Settings", error: Exception, rights: str) -> str:
    from worker.stream.access import explain
    from worker.stream.permission import NO_PERMISSION

    if rights and isinstance(error, NO_PERMISSION):
        user = f"user {settings.sasl_username}" if settings.sasl_username else "this user"
        return f"{settings.bootstrap_servers}: {user} lacks a right ({type(error).__name__}); needed are {rights}"
    return await explain(settings, error)
