"""Which raw record an output says it is of: an enriched record in its value, a dead letter in its headers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worker.audit.meaning import Meaning
from worker.records import Origin

REASON_HEADER = "koner-reason"
DEAD_LETTER_HEADERS = frozenset(
    {REASON_HEADER, "koner-detail", "koner-topic", "koner-partition", "koner-offset", "koner-failed-at"}
)
REPLAY_HEADER = "koner-replay"  # more of a dead letter that `koner replay` wrote while its output went elsewhere
MARKER_HEADER = "koner-marker"  # a record of ours among the dead letters that is none: see worker.recovery.markers

Headers = Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class LetterHeaders:
    """What the headers of a dead letter hold."""

    source: Origin
    carried: Headers  # all but those that are added
    complete: bool  # all that the worker adds are there
    of_replay: bool  # not the worker's own: of a `koner replay` into another topic


def is_marker(headers: Headers) -> bool:
    """Whether a record of the dead-letter topic only says which of them were replayed."""
    names = [name for name, _ in headers]
    return MARKER_HEADER in names and REASON_HEADER not in names


def read_letter_headers(headers: Headers) -> LetterHeaders | None:
    """Read a dead letter's headers; None where they do not say of which record it is.

    The raw record's own headers come first and may hold names of ours: what the worker adds begins at the last reason.
    """
    names = [name for name, _ in headers]
    if REASON_HEADER not in names:
        return None
    first = len(names) - 1 - names[::-1].index(REASON_HEADER)
    added = dict(headers[first:])
    source = _read_coordinates(added)
    if source is None:
        return None
    ours = {*DEAD_LETTER_HEADERS, REPLAY_HEADER}
    carried = [*headers[:first], *(header for header in headers[first:] if header[0] not in ours)]
    return LetterHeaders(source, carried, added.keys() >= DEAD_LETTER_HEADERS, REPLAY_HEADER in added)


def read_source(record: Meaning) -> Origin | None:
    """Read `enrichment.source` of an enriched record; None where it does not say of which record it is."""
    enrichment = record.member("enrichment")
    source = enrichment.get("source") if isinstance(enrichment, dict) else None
    if not isinstance(source, dict):
        return None
    topic, partition, offset = source.get("topic"), source.get("partition"), source.get("offset")
    if not isinstance(topic, str) or type(partition) is not int or type(offset) is not int:
        return None
    return Origin(topic, partition, offset)


def _read_coordinates(headers: Mapping[str, bytes | None]) -> Origin | None:
    topic, partition, offset = (headers.get(f"koner-{name}") for name in ("topic", "partition", "offset"))
    try:
        return Origin((topic or b"").decode(), int(partition or b""), int(offset or b""))
    except ValueError:
        return None
