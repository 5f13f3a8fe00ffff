"""Which part of which topic is run through a model again, and how far that has come."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import orjson
from aiokafka import TopicPartition

from worker.audit.reading import RangeReader
from worker.ner.engine import ModelInfo
from worker.records import Kind
from worker.recovery.errors import RecoveryError
from worker.settings import Settings

What = Kind | Literal["enriched"]


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for. Without bounds, everything the topic holds when it begins."""

    topic: str
    output: str | None = None  # by default where the topic's records go, or an enriched topic itself
    kind: What | None = None  # what its records are; by default what the settings say of the topic
    since: datetime | None = None  # from the first record of this time, by the records' timestamps
    until: datetime | None = None  # up to the first record of this time
    offsets: Mapping[int, tuple[int | None, int | None]] = field(default_factory=dict)
    """By partition its first offset and the one after its last; where given, no other partition is read."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of one partition."""

    partition: int
    start: int
    end: int  # after the last offset
    done: int  # up to where an earlier run of the same request came; `start` if there was none

    def as_json(self) -> dict[str, Any]:
        """The stretch as JSON-ready members."""
        return {"partition": self.partition, "start": self.start, "end": self.end, "done": self.done}


@dataclass(frozen=True, slots=True)
class Plan:
    """A request made definite."""

    topic: str
    kind: What
    output: str
    group: str  # whose committed offsets say how far it is
    stretches: tuple[Stretch, ...]

    @property
    def total(self) -> int:
        """Offsets in all."""
        return sum(stretch.end - stretch.start for stretch in self.stretches)

    @property
    def done(self) -> int:
        """Offsets that are done."""
        return sum(stretch.done - stretch.start for stretch in self.stretches)


def target(settings: Settings, request: Request) -> tuple[What, str]:
    """What the topic's records are, and where their new versions go.

    Raises `RecoveryError` where the settings do not tell and the request does not say, or where it would write into an
    input topic.
    """
    sources = {source.topic: source for source in settings.sources}
    kind, output = request.kind, request.output
    if request.topic in sources:
        kind = kind or sources[request.topic].kind
        output = output or sources[request.topic].output
    elif request.topic in {source.output for source in settings.sources}:
        kind = kind or "enriched"
    if kind is None:
        raise RecoveryError(
            f"{request.topic} is neither a source nor an output in these settings; say whether its records are "
            "query, review or enriched"
        )
    if output is None:
        if kind != "enriched":
            raise RecoveryError(f"{request.topic} has no output topic in these settings; say where its records go")
        output = request.topic
    if output in sources or (output == request.topic and kind != "enriched") or output == settings.dead_letter_topic:
        raise RecoveryError(f"{output} takes no enriched records; choose another output topic")
    return kind, output


def group_name(settings: Settings, request: Request, output: str, model: ModelInfo) -> str:
    """The group that keeps the progress: one for each way of asking for the same start, output and model.

    Where it ends does not matter: a request that ends later goes on where the earlier one ended.
    """
    asked = [
        settings.group,
        request.topic,
        output,
        [model.name, model.revision, model.taxonomy],
        None if request.since is None else request.since.timestamp(),
        sorted((partition, first) for partition, (first, _) in request.offsets.items()),
    ]
    return f"koner-replay-{request.topic}-{hashlib.sha256(orjson.dumps(asked)).hexdigest()[:12]}"


async def make_plan(
    settings: Settings, request: Request, model: ModelInfo, reader: RangeReader, *, group: str, again: bool
) -> Plan:
    """Find the offsets. With `again` what an earlier run did does not count.

    Raises `RecoveryError` for a partition that does not exist, and `worker.audit.reading.ReadingError`.
    """
    kind, output = target(settings, request)
    reader.partitions([output, settings.dead_letter_topic])
    partitions = reader.partitions([request.topic])
    unknown = sorted(request.offsets.keys() - {at.partition for at in partitions})
    if unknown:
        raise RecoveryError(f"{request.topic} has no partition {unknown[0]}; it has {len(partitions)}, from 0 on")
    if request.offsets:
        partitions = [at for at in partitions if at.partition in request.offsets]
    committed = await reader.committed(partitions)
    firsts, ends = await reader.starts(partitions), await reader.ends(partitions)
    since, until = firsts, ends
    if request.since is not None:
        since = await reader.at_time(partitions, int(request.since.timestamp() * 1000))
    if request.until is not None:
        until = await reader.at_time(partitions, int(request.until.timestamp() * 1000))
    stretches = []
    for at in partitions:
        asked_start, asked_end = request.offsets.get(at.partition, (None, None))
        start = max(firsts[at], since[at], asked_start or 0)
        end = min(ends[at], until[at], ends[at] if asked_end is None else asked_end)
        end = max(start, end)
        done = start if again else min(max(committed[at] or 0, start), end)
        stretches.append(Stretch(at.partition, start, end, done))
    return Plan(request.topic, kind, output, group, tuple(stretches))


def remaining(plan: Plan) -> dict[TopicPartition, range]:
    """What is still to be read."""
    return {
        TopicPartition(plan.topic, stretch.partition): range(stretch.done, stretch.end)
        for stretch in plan.stretches
        if stretch.done < stretch.end
    }
