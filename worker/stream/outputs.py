"""What is published for a record: the enriched record, a dead letter that says why there is none, or a tombstone."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from worker.contracts import Contracts, Reason, dead_letter_headers
from worker.ner.engine import Engine
from worker.records import Enrichment, Origin
from worker.settings import Settings
from worker.stream.delivery import SizeLimits
from worker.stream.work import Headers, Outcome, Output, Partition, Work

RECORD_OVERHEAD = 128  # bytes of a batch and record header beside key, value and headers, rounded up


class Outputs:
    """Makes outputs. Key, headers and timestamp are the raw record's own."""

    def __init__(self, settings: Settings, engine: Engine, contracts: Contracts, limits: SizeLimits) -> None:
        """`limits` holds what topics were found to take; others take `max_publish_bytes`."""
        self._engine = engine
        self._contracts = contracts
        self._limits = limits
        self._most_bytes = settings.max_publish_bytes - RECORD_OVERHEAD
        self._dead_letter_topic = settings.dead_letter_topic
        info = engine.info
        self._enrichments = {
            source.topic: Enrichment(source.kind, info.name, info.revision, info.taxonomy)
            for source in settings.sources
        }

    def enriched(self, work: Work, enriched_at: str, types: "Counter[str]") -> Output:
        """The record with its entities, counted into `types`; a dead letter where the model could not do the text."""
        partition, record = work.partition, work.record
        if work.error is not None or work.encoded is None:
            return self.dead_letter(partition, record, work.fetched_at, "model_error", str(work.error))
        origin = Origin(record.topic, record.partition, record.offset)
        enrichment = self._enrichments[record.topic]
        try:
            entities = self._engine.assemble(work.encoded, work.spans)
            value = self._contracts.encode(work.document, entities, enrichment, origin, enriched_at)
        except Exception as error:  # whatever it is, it concerns this one text
            detail = f"assembling the spans raised {type(error).__name__}"
            return self.dead_letter(partition, record, work.fetched_at, "model_error", detail)
        topic = partition.source.output
        output = _output(topic, value, record.headers, "enriched", partition, record, work.fetched_at)
        limit = min(self._most_bytes, self._limits.record(topic))
        if output.size > limit:
            detail = f"{output.size} bytes enriched, {topic} takes {limit}"
            return self.dead_letter(partition, record, work.fetched_at, "too_large_to_publish", detail)
        for entity in entities:
            types[entity.type] += 1
        return output

    def dead_letter(self, partition: Partition, record: Any, fetched_at: float, reason: Reason, detail: str) -> Output:
        """The raw value as it was, with headers that say what was wrong with it."""
        origin = Origin(record.topic, record.partition, record.offset)
        headers = [*record.headers, *dead_letter_headers(reason, detail, origin, rfc3339_now())]
        topic = self._dead_letter_topic
        return _output(topic, record.value, headers, "dead_letter", partition, record, fetched_at, reason)

    @staticmethod
    def tombstone(partition: Partition, record: Any, fetched_at: float) -> Output:
        """A null value is passed on under its key."""
        return _output(partition.source.output, None, record.headers, "tombstone", partition, record, fetched_at)


def rfc3339_now() -> str:
    """The time in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _output(
    topic: str,
    value: bytes | None,
    headers: Headers,
    outcome: Outcome,
    partition: Partition,
    record: Any,
    fetched_at: float,
    reason: str = "",
) -> Output:
    return Output(topic, record.key, value, headers, record.timestamp, outcome, partition, record, fetched_at, reason)
