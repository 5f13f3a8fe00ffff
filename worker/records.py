"""The values that flow through the worker: frozen, slotted, no behaviour."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["query", "review"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a record was read: its coordinates in Kafka."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Span:
    """A labelled stretch of a text, half-open, in Unicode code points of the text it was found in."""

    start: int
    end: int
    label: str  # the model's own label
    score: float  # probability in [0, 1]


@dataclass(frozen=True, slots=True)
class Entity:
    """An entity of a record: `text[start:end]` of the field as received is `text`."""

    field: str
    start: int
    end: int
    text: str
    type: str  # the taxonomy's type
    label: str  # the model's own label
    score: float
    value: Mapping[str, Any] | None = None
    link: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A raw record that passed its contract."""

    raw: bytes  # the record's value as received
    text: str  # the field that is annotated, as received
    enriched_before: bool = False  # the raw record already holds `entities` or `enrichment`


@dataclass(frozen=True, slots=True)
class Enrichment:
    """What a worker says about how it enriched a record, apart from the record's own coordinates."""

    kind: Kind
    model: str
    revision: str
    taxonomy: str
