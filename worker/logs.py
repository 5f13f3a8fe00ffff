"""Log lines on stderr: for people, or one JSON object a line for machines.

Lines hold what happened and where (topics, partitions, offsets, counts), never a record's text and never a secret.
"""

import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Literal, TextIO

import orjson

Format = Literal["auto", "text", "json"]

# What these say at these levels and above is worth an operator's while.
QUIET = {
    "aiohttp": logging.WARNING,
    "aiokafka": logging.WARNING,
    "asyncio": logging.WARNING,
    "faust": logging.WARNING,
    "mode": logging.WARNING,
    "httpx": logging.WARNING,
    "transformers": logging.ERROR,
}
REPEAT_SECONDS = 60.0  # how often a client may repeat that its broker is away

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class OncePer:
    """A logging filter that lets a library's statement through once in `seconds` and counts the ones it held back.

    aiokafka says at each try, several times a second, that a broker is away. Lines of one place in the code are one
    statement, whatever they are filled in with.
    """

    def __init__(self, seconds: float = REPEAT_SECONDS, clock: Callable[[], float] = monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._last: dict[tuple[str, int], float] = {}
        self._held: dict[tuple[str, int], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line may pass; one that does tells how many before it did not."""
        place = (record.pathname, record.lineno)
        now = self._clock()
        if place in self._last and now - self._last[place] < self._seconds:
            self._held[place] = self._held.get(place, 0) + 1
            return False
        self._last[place] = now
        held = self._held.pop(place, 0)
        if held:
            record.msg, record.args = f"{record.getMessage()} (and {held} lines like it)", ()
        return True


class LibraryLines:
    """Holds back `aiokafka`'s repetitions, and `aiohttp`'s word on requests that are no HTTP: anyone can send those."""

    def __init__(self, once: OncePer) -> None:
        self._once = once

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line may pass."""
        if record.name == "aiohttp.server" and record.exc_info and record.exc_info[0] is not None:
            return record.exc_info[0].__module__ != "aiohttp.http_exceptions"
        return self._once.filter(record) if record.name.partition(".")[0] == "aiokafka" else True


class JsonLines(logging.Formatter):
    """One JSON object a line: `time` (RFC 3339, UTC), `level`, `logger`, `message`, what `extra` gave, `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "time": _rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((name, value) for name, value in vars(record).items() if name not in _STANDARD and name not in line)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class TextLines(logging.Formatter):
    """`12:31:07 warning worker.stream.source: what happened`, in local time."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(level)s %(name)s: %(message)s", datefmt="%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """The line, and a traceback below it where there is one."""
        record.level = record.levelname.lower()
        return super().format(record)


def configure(form: Format = "auto", level: str = "info", stream: TextIO | None = None) -> None:
    """Send all logging of the process to `stream` (stderr), replacing what was set up before."""
    stream = stream if stream is not None else sys.stderr
    if form == "auto":
        form = "text" if stream.isatty() else "json"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    handler.addFilter(LibraryLines(OncePer()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in QUIET.items():
        logging.getLogger(name).setLevel(logging.INFO if level == "debug" else max(least, root.level))
    logging.captureWarnings(True)


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
