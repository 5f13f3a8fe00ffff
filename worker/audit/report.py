"""What an audit found: counts and the coordinates of a few examples, never a word of a record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.records import Origin


@dataclass(frozen=True, slots=True)
class Example:
    """One place where something is wrong. `source` is the raw record, `output` what came of it, where there is such."""

    source: Origin | None
    output: Origin | None
    what: str = ""  # of a change: value, key, headers, timestamp or not_json

    def as_json(self) -> dict[str, Any]:
        """The example as JSON-ready members; what is not known is left out."""
        members: dict[str, Any] = {}
        if self.source is not None:
            members["source"] = _origin(self.source)
        if self.output is not None:
            members["output"] = _origin(self.output)
        if self.what:
            members["what"] = self.what
        return members


@dataclass(frozen=True, slots=True)
class Finding:
    """How often one fault was found, and the first few places."""

    count: int = 0
    examples: Sequence[Example] = ()

    def as_json(self) -> dict[str, Any]:
        """The finding as JSON-ready members."""
        return {"count": self.count, "examples": [example.as_json() for example in self.examples]}


NONE = Finding()
COUNTS = ("raw", "enriched", "dead_letters", "tombstones", "pending", "trimmed", "unsure", "gone", "absent", "outside")


@dataclass(frozen=True, slots=True)
class PartitionReport:
    """One partition of one source: what it holds, what came of that, and what is wrong with it."""

    topic: str
    partition: int
    first: int  # the first offset the broker still has
    start: int  # the first offset that was looked at
    end: int  # the offset after the last
    committed: int | None  # the group's offset, if it has one
    raw: int  # records looked at
    enriched: int  # outputs of these records, doubles included
    dead_letters: int
    tombstones: int
    pending: int  # without an output, at or after the committed offset
    trimmed: int = 0  # without an output, before it, which retention may have deleted
    unsure: int = 0  # of these, those where no output of this partition is left that would tell how far it deleted
    missing: Finding = NONE  # without an output, before it, for no such reason
    double: Finding = NONE  # outputs beyond a record's first
    out_of_order: Finding = NONE  # whose first output lies after that of a later record of its key
    changed: Finding = NONE  # an output that differs in what must be carried over; counted once for each difference
    inexact: Finding = NONE  # enriched records with a span that is not exact
    unknown: Finding = NONE  # outputs that name an offset which the partition has not reached
    gone: int = 0  # outputs of records that retention has deleted since
    absent: int = 0  # outputs of offsets that hold no record (any more): compaction, or an aborted transaction
    outside: int = 0  # outputs of records before `start`

    @property
    def faults(self) -> Mapping[str, Finding]:
        """Every kind of fault by name."""
        names = ("missing", "double", "out_of_order", "changed", "inexact", "unknown")
        return {name: getattr(self, name) for name in names}

    def as_json(self) -> dict[str, Any]:
        """The partition's report as JSON-ready members; of the faults only those that were found."""
        offsets = ("first", "start", "end", "committed")
        members: dict[str, Any] = {"topic": self.topic, "partition": self.partition}
        members |= {name: getattr(self, name) for name in (*offsets, *COUNTS)}
        members["faults"] = {name: finding.as_json() for name, finding in self.faults.items() if finding.count}
        return members


@dataclass(frozen=True, slots=True)
class Report:
    """An audit's result."""

    partitions: Sequence[PartitionReport]
    allow_doubles: bool  # doubles are counted, and do not make the report unclean
    unreadable: Finding = NONE  # outputs that do not say which record they are of
    foreign: int = 0  # outputs of topics that are no source of these settings
    of_replays: int = 0  # dead letters of a `koner replay` into another topic
    stray_tombstones: int = 0  # tombstones in an output topic that no raw one accounts for (any more)
    trimmed_outputs: Mapping[str, int] = field(default_factory=dict)  # "topic[partition]": its first offset, if not 0

    @property
    def counts(self) -> Mapping[str, int]:
        """All partitions together: what there is, and how often each fault was found."""
        counts = {name: sum(getattr(partition, name) for partition in self.partitions) for name in COUNTS}
        for partition in self.partitions:
            for name, finding in partition.faults.items():
                counts[name] = counts.get(name, 0) + finding.count
        counts["unreadable"] = self.unreadable.count
        return counts

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        wrong = [
            finding.count
            for partition in self.partitions
            for name, finding in partition.faults.items()
            if not (self.allow_doubles and name == "double")
        ]
        return not sum(wrong) and not self.unreadable.count

    def as_json(self) -> dict[str, Any]:
        """The report as JSON-ready members."""
        return {
            "clean": self.clean,
            "allow_doubles": self.allow_doubles,
            "counts": dict(self.counts),
            "unreadable": self.unreadable.as_json(),
            "foreign": self.foreign,
            "of_replays": self.of_replays,
            "stray_tombstones": self.stray_tombstones,
            "trimmed_outputs": dict(self.trimmed_outputs),
            "partitions": [partition.as_json() for partition in self.partitions],
        }


def _origin(origin: Origin) -> dict[str, Any]:
    return {"topic": origin.topic, "partition": origin.partition, "offset": origin.offset}
