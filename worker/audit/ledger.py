"""What went in against what came out. Knows records and nothing of Kafka clients.

Memory: 60 bytes a raw record (60 MB a million), 250 bytes more for a tombstone, nothing for an output.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from worker.audit.coordinates import is_marker, read_letter_headers, read_source
from worker.audit.findings import Findings
from worker.audit.meaning import Meaning, read_meaning
from worker.audit.partition import NOTHING, Fingerprint, RawPartition, digest, digest_headers
from worker.audit.report import PartitionReport, Report
from worker.audit.spans import are_exact
from worker.audit.tombstones import Tombstones
from worker.records import Origin

_Line = tuple[str, int | None]  # an output partition; with None all those of a topic, for records without a key


@dataclass(frozen=True, slots=True)
class Bounds:
    """What of a raw partition is looked at: offsets from `start` up to `end`, of which the broker has `first` on."""

    first: int
    start: int
    end: int
    due: int  # what lies before it must have an output; what lies after it may be pending
    committed: int | None = None  # the group's offset, if it has one


@dataclass(slots=True)
class _Gap:
    """What retention deleted of a raw partition's outputs in one place."""

    end: int  # the raw offset of the first output left there, or if there is none the partition's end
    offsets: int  # deleted there, less those taken for records without an output
    is_open: bool  # none is left


class _Source:
    """A raw partition under audit."""

    def __init__(self, bounds: Bounds, most_examples: int) -> None:
        self.bounds = bounds
        self.records = RawPartition()
        self.counts: Counter[str] = Counter()
        self.findings = Findings(most_examples)
        self.unplaced: set[int] = set()


class Ledger:
    """Holds outputs against raw records: `open` partitions, `add_raw` all their records, `add_output` all outputs.

    A record is anything with `topic`, `partition`, `offset`, `key`, `value`, `headers` and `timestamp`. Those of a
    partition come in offset order; all raw ones come before the first output.
    """

    def __init__(self, outputs: Mapping[str, str], dead_letter_topic: str, *, most_examples: int = 10) -> None:
        """`outputs` names the output topic of each source topic."""
        self._outputs = outputs
        self._dead_letter_topic = dead_letter_topic
        self._most_examples = most_examples
        self._sources: dict[tuple[str, int], _Source] = {}
        self._tombstones = {topic: Tombstones() for topic in set(outputs.values())}
        self._places: dict[tuple[str, int], int] = {}
        self._first_left: dict[tuple[_Line, tuple[str, int]], int] = {}  # raw offset of a partition's first output
        self._findings = Findings(most_examples)
        self._foreign = 0
        self._of_replays = 0

    def open(self, topic: str, partition: int, bounds: Bounds) -> None:
        """Take a raw partition under audit."""
        self._sources[topic, partition] = _Source(bounds, self._most_examples)

    def add_raw(self, record: Any) -> None:
        """Take up a raw record."""
        source = self._sources[record.topic, record.partition]
        meaning = None if record.value is None else read_meaning(record.value)
        fingerprint = Fingerprint(
            NOTHING if meaning is None else digest(meaning.without_added),
            digest(record.value),
            digest(record.key),
            digest_headers(record.headers),
            record.timestamp,
        )
        source.records.add(record.offset, fingerprint)
        if record.value is None:
            tombstones = self._tombstones[self._outputs[record.topic]]
            tombstones.expect(fingerprint, Origin(record.topic, record.partition, record.offset))

    def add_output(self, record: Any) -> None:
        """Hold an output against the raw record it is of."""
        is_letter = record.topic == self._dead_letter_topic
        if is_letter and is_marker(record.headers):
            return
        if is_letter:
            self._add_dead_letter(record)
        elif record.value is None:
            self._add_tombstone(record)
        else:
            self._add_enriched(record)

    def report(self, *, allow_doubles: bool = False, trimmed: Mapping[tuple[str, int], int] | None = None) -> Report:
        """Say what was found, once everything was added.

        `trimmed` names the output partitions whose first records retention has deleted, with the first offset left.
        Outputs of a raw partition lie in each of them in its order. So a record without an output is no fault if it
        lies before the one whose output is the first left of its partition in such a place of its output topic or of
        the dead letters, or if none is left there; but no more records than offsets were deleted there. Which place
        was a record's own cannot be told, since topics gain partitions, so any counts.
        """
        strays = self._settle_tombstones()
        cut = dict(trimmed or {})
        partitions = []
        for (topic, partition), source in sorted(self._sources.items()):
            places = [place for place in cut if place[0] in (self._outputs[topic], self._dead_letter_topic)]
            keyed: Counter[_Line] = Counter()
            keyless: Counter[_Line] = Counter()
            for place in places:
                keyed[place] += cut[place]
                keyless[place[0], None] += cut[place]
            gaps = self._gaps(keyed, topic, partition), self._gaps(keyless, topic, partition)
            partitions.append(self._report_partition(topic, partition, source, *gaps))
        return Report(
            partitions,
            allow_doubles,
            unreadable=self._findings.of("unreadable"),
            foreign=self._foreign,
            of_replays=self._of_replays,
            stray_tombstones=strays,
            trimmed_outputs={f"{topic}[{partition}]": first for (topic, partition), first in sorted(cut.items())},
        )

    # Outputs.

    def _add_dead_letter(self, record: Any) -> None:
        letter = read_letter_headers(record.headers)
        if letter is None:
            self._findings.add("unreadable", None, _origin(record), "headers")
            return
        if letter.of_replay:
            self._of_replays += 1
            return
        differs = [] if letter.complete else ["headers"]
        self._match("dead_letters", letter.source, record, letter.carried, digest(record.value), None, differs)

    def _add_enriched(self, record: Any) -> None:
        meaning = read_meaning(record.value)
        source = None if meaning is None else read_source(meaning)
        if meaning is None or source is None:
            self._findings.add("unreadable", None, _origin(record), "not_json" if meaning is None else "value")
            return
        if self._outputs.get(source.topic, record.topic) != record.topic:
            self._foreign += 1
            return
        self._match("enriched", source, record, record.headers, digest(meaning.without_added), meaning, [])

    def _match(
        self,
        kind: str,
        origin: Origin,
        record: Any,
        headers: Sequence[tuple[str, bytes | None]],
        content: int,
        meaning: Meaning | None,
        differs: list[str],
    ) -> None:
        """Hold an output that says where it comes from against what is there."""
        if origin.topic not in self._outputs:
            self._foreign += 1
            return
        source = self._sources.get((origin.topic, origin.partition))
        if source is None:
            self._findings.add("unreadable", origin, _origin(record), "no such partition")
            return
        bounds, output = source.bounds, _origin(record)
        if origin.offset >= bounds.end:
            source.findings.add("unknown", origin, output)
            return
        at = (origin.topic, origin.partition)
        self._first_left.setdefault(((record.topic, record.partition), at), origin.offset)
        if record.key is None:  # those of one raw partition lie in one place
            self._first_left.setdefault(((record.topic, None), at), origin.offset)
        index = source.records.find(origin.offset)
        if index is None:
            kind = "gone" if origin.offset < bounds.first else "outside" if origin.offset < bounds.start else "absent"
            source.counts[kind] += 1
            return
        source.counts[kind] += 1
        if source.records.outputs(index):
            source.findings.add("double", origin, output)
        source.records.note_output(index, self._place(record), record.offset)
        expected = source.records.fingerprint(index)
        if content != (expected.meaning if meaning is not None else expected.value):
            differs = ["value", *differs]
        if digest(record.key) != expected.key:
            differs = [*differs, "key"]
        if digest_headers(headers) != expected.headers:
            differs = [*differs, "headers"]
        if record.timestamp != expected.timestamp:
            differs = [*differs, "timestamp"]
        for what in dict.fromkeys(differs):
            source.findings.add("changed", origin, output, what)
        if meaning is not None and not are_exact(meaning):
            source.findings.add("inexact", origin, output)

    def _add_tombstone(self, record: Any) -> None:
        fingerprint = Fingerprint(
            NOTHING, NOTHING, digest(record.key), digest_headers(record.headers), record.timestamp
        )
        self._tombstones[record.topic].find(fingerprint, _origin(record))

    def _place(self, record: Any) -> int:
        return self._places.setdefault((record.topic, record.partition), len(self._places))

    # What is left at the end.

    def _settle_tombstones(self) -> int:
        """Give the tombstones that were found to the raw ones they may be of; returns how many are of none."""
        strays = 0
        for tombstones in self._tombstones.values():
            for expected, found in tombstones.pairs():
                if not expected:
                    strays += len(found)
                    continue
                # A tombstone that must have been passed on has a better claim than one that is pending.
                expected.sort(key=lambda origin: (self._is_pending(origin), astuple(origin)))
                for origin, output in zip(expected, found, strict=False):
                    source = self._sources[origin.topic, origin.partition]
                    index = source.records.find(origin.offset)
                    assert index is not None
                    source.counts["tombstones"] += 1
                    if source.records.outputs(index):
                        source.findings.add("double", origin, output)
                    # Of several alike nobody can tell which is which, so they do not count for the order.
                    if len(expected) > 1:
                        source.unplaced.add(index)
                    place = self._places.setdefault((output.topic, output.partition), len(self._places))
                    source.records.note_output(index, place, output.offset)
                for output in found[len(expected) :]:
                    origin = expected[-1]
                    source = self._sources[origin.topic, origin.partition]
                    source.counts["tombstones"] += 1
                    source.findings.add("double", origin, output)
        return strays

    def _is_pending(self, origin: Origin) -> bool:
        return origin.offset >= self._sources[origin.topic, origin.partition].bounds.due

    def _gaps(self, lines: Mapping[_Line, int], topic: str, partition: int) -> list[_Gap]:
        """A raw partition's gaps in `lines`, which have the number of offsets deleted; the first to end is last."""
        gaps = []
        for line, offsets in lines.items():
            left = self._first_left.get((line, (topic, partition)))
            end = self._sources[topic, partition].bounds.end if left is None else left
            gaps.append(_Gap(end, offsets, is_open=left is None))
        return sorted(gaps, key=lambda gap: gap.end, reverse=True)

    def _report_partition(
        self, topic: str, partition: int, source: _Source, keyed: list[_Gap], keyless: list[_Gap]
    ) -> PartitionReport:
        records, findings, bounds = source.records, source.findings, source.bounds
        pending = trimmed = unsure = 0
        for index in records.without_output():
            origin = Origin(topic, partition, records.offset(index))
            if self._is_pending(origin):
                pending += 1
                continue
            gap = _fill(keyless if records.fingerprint(index).key == NOTHING else keyed, origin.offset)
            if gap is None:
                findings.add("missing", origin, None)
            else:
                trimmed += 1
                unsure += gap.is_open
        places = list(self._places)
        for index, place, offset in records.late(source.unplaced):
            output = Origin(*places[place], offset)
            findings.add("out_of_order", Origin(topic, partition, records.offset(index)), output)
        return PartitionReport(
            topic,
            partition,
            bounds.first,
            bounds.start,
            bounds.end,
            bounds.committed,
            raw=len(records),
            enriched=source.counts["enriched"],
            dead_letters=source.counts["dead_letters"],
            tombstones=source.counts["tombstones"],
            pending=pending,
            trimmed=trimmed,
            unsure=unsure,
            missing=findings.of("missing"),
            double=findings.of("double"),
            out_of_order=findings.of("out_of_order"),
            changed=findings.of("changed"),
            inexact=findings.of("inexact"),
            unknown=findings.of("unknown"),
            gone=source.counts["gone"],
            absent=source.counts["absent"],
            outside=source.counts["outside"],
        )


def _fill(gaps: list[_Gap], offset: int) -> _Gap | None:
    """Take a deleted offset for the output of the raw record at `offset`; None where there can have been none.

    Offsets ascend from call to call. The gap that ends first is used up first: so most records find one.
    """
    while gaps and (gaps[-1].end <= offset or not gaps[-1].offsets):
        gaps.pop()
    if not gaps:
        return None
    gaps[-1].offsets -= 1
    return gaps[-1]


def _origin(record: Any) -> Origin:
    return Origin(record.topic, record.partition, record.offset)
