"""Bytes to documents and back, each held to the schema of its kind."""

from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema_rs
import orjson

from worker.contracts.parsing import parse_leniently
from worker.contracts.refusal import Refused
from worker.contracts.schemas import validator
from worker.records import Document, Enrichment, Entity, Kind, Origin
from worker.text.members import add_members, remove_members

RAW_SCHEMAS: Mapping[Kind, str] = {"query": "raw-query", "review": "raw-review"}
ADDED = ("entities", "enrichment")
SCORE_DECIMALS = 4

_MASK = "\0"  # stands for the record's own value in the validator's messages


class Contracts:
    """The schemas, compiled once. Every method may be called from several threads at once."""

    def __init__(self) -> None:
        self._validators = {kind: validator(name, mask=_MASK) for kind, name in RAW_SCHEMAS.items()}
        self._is_valid = {kind: compiled.is_valid for kind, compiled in self._validators.items()}

    def decode(self, kind: Kind, value: bytes, max_text_chars: int) -> Document:
        """Read a raw record's value.

        Raises `Refused` with one of the reasons `not_utf8`, `not_json`, `schema` and `too_long`. Members that stand
        twice count as the last one. `max_text_chars` is in code points.
        """
        try:
            record = orjson.loads(value)
        except orjson.JSONDecodeError:
            value, record = parse_leniently(value)
        if not self._is_valid[kind](record):
            raise Refused("schema", _describe(self._validators[kind], record))
        text = record["text"]
        if len(text) > max_text_chars:
            raise Refused("too_long", f"/text: {len(text)} code points, more than max_text_chars {max_text_chars}")
        return Document(value, text, "entities" in record or "enrichment" in record)

    def encode(
        self,
        document: Document,
        entities: Sequence[Entity],
        enrichment: Enrichment,
        origin: Origin,
        enriched_at: str,
    ) -> bytes:
        """Return the raw record with `entities` and `enrichment` at its end; all its other bytes stay as they are.

        `enriched_at` is an RFC 3339 time in UTC. Members of these names that the raw record has are replaced.
        """
        members = orjson.dumps(
            {
                "entities": [_entity_members(entity) for entity in entities],
                "enrichment": {
                    "kind": enrichment.kind,
                    "model": enrichment.model,
                    "revision": enrichment.revision,
                    "taxonomy": enrichment.taxonomy,
                    "source": {"topic": origin.topic, "partition": origin.partition, "offset": origin.offset},
                    "enriched_at": enriched_at,
                },
            }
        )
        raw = remove_members(document.raw, ADDED) if document.enriched_before else document.raw
        return add_members(raw, members)


def _entity_members(entity: Entity) -> dict[str, Any]:
    members: dict[str, Any] = {
        "field": entity.field,
        "start": entity.start,
        "end": entity.end,
        "text": entity.text,
        "type": entity.type,
        "label": entity.label,
        "score": round(float(entity.score), SCORE_DECIMALS),
    }
    if entity.value is not None:
        members["value"] = dict(entity.value)
    if entity.link is not None:
        members["link"] = dict(entity.link)
    return members


def _describe(compiled: jsonschema_rs.Draft202012Validator, record: Any) -> str:
    try:
        return "; ".join(_describe_error(error) for error in compiled.iter_errors(record))
    except ValueError:  # nested deeper than the validator can copy for its errors; what the schemas ask for is not deep
        return "; ".join(_describe_error(error) for error in compiled.iter_errors(_without_depths(record)))


def _without_depths(record: Any) -> Any:
    """Return the record with empty arrays and objects for its members that are such."""
    if not isinstance(record, dict):
        return type(record)()
    return {name: type(member)() if isinstance(member, list | dict) else member for name, member in record.items()}


def _describe_error(error: jsonschema_rs.ValidationError) -> str:
    place = "".join(f"/{step}" for step in error.instance_path)
    if isinstance(error.kind, jsonschema_rs.ValidationErrorKind.Required):
        return f"{place}/{error.kind.property}: missing, but required"
    return f"{place or 'the record'}: {error.message.replace(_MASK, _show(error.instance))}"


def _show(value: Any) -> str:
    """Name a value of a record: numbers, booleans and null as they are, of people's words only what holds them."""
    match value:
        case str():
            return "a string"
        case list():
            return "an array"
        case dict():
            return "an object"
        case _:
            return orjson.dumps(value).decode()
