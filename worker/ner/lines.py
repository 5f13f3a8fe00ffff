"""Lines in, lines with entities out: what `koner annotate` does to a file."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson

from worker.ner.annotate import annotate
from worker.ner.engine import Engine
from worker.ner.errors import EngineError
from worker.records import Entity
from worker.text.members import add_members, remove_members

_MARK = "\ufeff".encode()


class LineError(Exception):
    """A line of the input cannot be annotated; the message names it and says why, and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What was written."""

    texts: int
    entities: Mapping[str, int]  # by type


def annotate_lines(
    engine: Engine,
    input_stream: BinaryIO,
    output_stream: BinaryIO,
    *,
    plain: bool,
    progress: Callable[[int], None],
) -> Counts:
    """Annotate JSON lines that hold `text`, or with `plain` lines of text, and write JSON lines with `entities`.

    Every other field stays as it is written, and an `entities` that was there is replaced. Blank lines are left out;
    with `plain` they are texts without entities. `progress` is called with the number of lines just written.
    Raises `LineError` at the first line that cannot be annotated; the lines before it are written.
    """
    reader = _Lines(input_stream, plain)
    entities: Counter[str] = Counter()
    texts = 0
    for result in annotate(engine, reader.texts()):
        line = reader.read.popleft()
        if isinstance(result, EngineError):
            raise LineError(f"line {line.number}: the model failed on its text ({result})")
        output_stream.write(_with_entities(line.raw, [entity_fields(entity) for entity in result]))
        entities.update(entity.type for entity in result)
        texts += 1
        progress(1)
    output_stream.flush()
    if reader.error is not None:
        raise reader.error
    return Counts(texts, {kind: entities[kind] for kind in sorted(entities)})


def entity_fields(entity: Entity) -> dict[str, Any]:
    """An entity as it stands in a record's `entities`."""
    fields: dict[str, Any] = {
        "field": entity.field,
        "start": entity.start,
        "end": entity.end,
        "text": entity.text,
        "type": entity.type,
        "label": entity.label,
        "score": entity.score,
    }
    if entity.value is not None:
        fields["value"] = dict(entity.value)
    if entity.link is not None:
        fields["link"] = dict(entity.link)
    return fields


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    raw: bytes  # a JSON object


class _Lines:
    """Reads texts ahead of their results; a bad line ends the reading, so that the ones before are still written."""

    def __init__(self, stream: BinaryIO, plain: bool) -> None:
        self._stream = stream
        self._plain = plain
        self.read: deque[_Line] = deque()
        self.error: LineError | None = None

    def texts(self) -> Iterator[str]:
        for number, given in enumerate(self._stream, 1):
            line = given.removeprefix(_MARK) if number == 1 else given
            try:
                text, raw = _plain(line) if self._plain else _json(line)
            except ValueError as error:
                self.error = LineError(f"line {number}: {error}")
                return
            if text is not None:
                self.read.append(_Line(number, raw))
                yield text


def _plain(line: bytes) -> tuple[str, bytes]:
    try:
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start + 1})") from None
    return text, orjson.dumps({"text": text})


def _json(line: bytes) -> tuple[str | None, bytes]:
    line = line.strip()
    if not line:
        return None, b""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON (column {error.colno}); for lines of plain text use --plain") from None
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    if not isinstance(record.get("text"), str):
        raise ValueError('no field "text" that is a string')
    return record["text"], remove_members(line, ("entities",)) if "entities" in record else line


def _with_entities(raw: bytes, entities: list[dict[str, Any]]) -> bytes:
    return add_members(raw, orjson.dumps({"entities": entities})) + b"\n"
