"""A dead letter as a value, and which of them are meant."""

import base64
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from worker.audit.coordinates import REASON_HEADER, read_letter_headers
from worker.records import Origin
from worker.stream.work import Headers

REPLAYED_HEADER = "koner-replayed"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be enriched, as it lies among the dead letters."""

    place: Origin  # in the dead-letter topic
    source: Origin  # where the worker read it
    reason: str
    detail: str
    failed_at: datetime | None
    replays: int  # how often it had been replayed when it failed
    key: bytes | None
    value: bytes
    headers: Headers  # the raw record's own, but for how often it was replayed
    timestamp: int  # milliseconds since the epoch, the raw record's own

    @property
    def size(self) -> int:
        """Bytes of key, value and headers."""
        headers = sum(len(name) + len(value or b"") for name, value in self.headers)
        return len(self.key or b"") + len(self.value) + headers

    def as_json(self, *, words: bool = False) -> dict[str, Any]:
        """The letter as JSON-ready members; key, value and headers, which are people's words, only with `words`."""
        members: dict[str, Any] = {
            "place": _origin(self.place),
            "source": _origin(self.source),
            "reason": self.reason,
            "detail": self.detail,
            "failed_at": format_time(self.failed_at),
            "replays": self.replays,
            "timestamp": self.timestamp,
            "bytes": self.size,
        }
        if words:
            members |= {
                "key": _show(self.key),
                "value": _show(self.value),
                "headers": [[name, _show(value)] for name, value in self.headers],
            }
        return members


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant: those for which everything that is given holds."""

    reasons: frozenset[str] = field(default=frozenset())
    sources: frozenset[str] = field(default=frozenset())  # topics they came from
    since: datetime | None = None  # failed at this time or later
    until: datetime | None = None  # failed before this time
    places: frozenset[tuple[int, int]] = field(default=frozenset())  # partition and offset among the dead letters

    def holds(self, letter: DeadLetter) -> bool:
        """Whether `letter` is meant. One without a readable time is meant only where no time is asked for."""
        if self.reasons and letter.reason not in self.reasons:
            return False
        if self.sources and letter.source.topic not in self.sources:
            return False
        if self.places and (letter.place.partition, letter.place.offset) not in self.places:
            return False
        if self.since is None and self.until is None:
            return True
        at = letter.failed_at
        return at is not None and (self.since is None or at >= self.since) and (self.until is None or at < self.until)


EVERY = Selection()


def read_dead_letter(record: Any) -> DeadLetter | None:
    """Read a record of the dead-letter topic; None where its headers, or a missing value, say it is no dead letter."""
    read = read_letter_headers(record.headers)
    if read is None or not read.source.topic or record.value is None:
        return None
    # The raw record's headers come first, and may hold names of ours: the last of a name counts.
    ours = {name: value or b"" for name, value in record.headers}
    return DeadLetter(
        Origin(record.topic, record.partition, record.offset),
        read.source,
        ours[REASON_HEADER].decode(errors="replace"),
        ours.get("koner-detail", b"").decode(errors="replace"),
        _read_time(ours.get("koner-failed-at", b"")),
        _read_count(ours.get(REPLAYED_HEADER, b"")),
        record.key,
        record.value,
        [header for header in read.carried if header[0] != REPLAYED_HEADER],
        record.timestamp,
    )


def format_time(time: datetime | None) -> str | None:
    """RFC 3339 in UTC, to the millisecond."""
    if time is None:
        return None
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _read_time(value: bytes) -> datetime | None:
    try:
        time = datetime.fromisoformat(value.decode())
    except ValueError:
        return None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _read_count(value: bytes) -> int:
    return int(value) if value.isdigit() and len(value) < 10 else 0


def _origin(origin: Origin) -> dict[str, Any]:
    return {"topic": origin.topic, "partition": origin.partition, "offset": origin.offset}


def _show(value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}
