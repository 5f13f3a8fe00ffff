"""What lies among the dead letters: counted, shown one by one, and read for whoever wants to do something with them."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiokafka import TopicPartition

from worker.audit.coordinates import is_marker
from worker.audit.reading import RangeReader, open_reader
from worker.records import Origin
from worker.recovery.errors import RecoveryError
from worker.recovery.letters import EVERY, DeadLetter, Selection, format_time, read_dead_letter
from worker.recovery.markers import Offsets, Origins, read_marker
from worker.settings import Settings

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Group:
    """The dead letters of one source with one reason."""

    source: str  # the topic they came from
    reason: str
    count: int
    replayed: int  # of them, those whose record was sent back to its topic
    failed_again: int  # of them, those that had been replayed before they failed
    first: datetime | None  # when the earliest and the latest failed
    last: datetime | None
    examples: Sequence[DeadLetter]

    def as_json(self, *, words: bool = False) -> dict[str, Any]:
        """The group as JSON-ready members."""
        return {
            "source": self.source,
            "reason": self.reason,
            "count": self.count,
            "replayed": self.replayed,
            "failed_again": self.failed_again,
            "first": format_time(self.first),
            "last": format_time(self.last),
            "examples": [letter.as_json(words=words) for letter in self.examples],
        }


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies among the dead letters."""

    topic: str
    groups: Sequence[Group]  # by source and reason
    unreadable: int  # records that are no dead letters

    @property
    def count(self) -> int:
        """Dead letters in all."""
        return sum(group.count for group in self.groups)

    def as_json(self, *, words: bool = False) -> dict[str, Any]:
        """The listing as JSON-ready members; people's words only with `words`."""
        return {
            "topic": self.topic,
            "count": self.count,
            "unreadable": self.unreadable,
            "groups": [group.as_json(words=words) for group in self.groups],
        }


async def list_dead_letters(
    settings: Settings, selection: Selection = EVERY, *, examples: int = 3, progress: Progress | None = None
) -> Listing:
    """Count the dead letters that are meant by source and reason, with up to `examples` each, the latest ones.

    `progress` gets offsets read and offsets in all. Raises `worker.audit.reading.ReadingError`.
    """
    groups: dict[tuple[str, str], _Growing] = {}
    async with open_reader(settings) as reader:
        shelf = await Shelf.open(reader, settings.dead_letter_topic, progress)
        async for letters in shelf.letters():
            for letter in filter(selection.holds, letters):
                group = groups.setdefault((letter.source.topic, letter.reason), _Growing(examples))
                group.add(letter, shelf.was_replayed(letter))
    listed = [group.close(*name) for name, group in sorted(groups.items())]
    return Listing(settings.dead_letter_topic, listed, shelf.unreadable)


async def show_dead_letter(settings: Settings, partition: int, offset: int) -> DeadLetter:
    """The dead letter at these coordinates of the dead-letter topic, whole.

    Raises `RecoveryError` where there is none, and `worker.audit.reading.ReadingError`.
    """
    place = Origin(settings.dead_letter_topic, partition, offset)
    name = f"{place.topic}[{partition}]@{offset}"
    async with open_reader(settings) as reader:
        at = TopicPartition(place.topic, partition)
        if at not in reader.partitions([place.topic]):
            raise RecoveryError(f"{name}: the topic has no such partition")
        start, end = (await reader.starts([at]))[at], (await reader.ends([at]))[at]
        if not start <= offset < end:
            raise RecoveryError(f"{name}: the partition holds offsets {start} to {end - 1}, as far as it holds any")
        async for records in reader.read({at: range(offset, offset + 1)}):
            for record in records:
                letter = read_dead_letter(record)
                if letter is not None and letter.place == place:
                    return letter
    raise RecoveryError(f"{name}: no dead letter lies there; `koner dead-letters list` tells where they are")


class Shelf:
    """The dead-letter topic as it was when it was opened: which records were replayed is known first.

    A record has several letters where a worker, or `koner replay`, refused it several times: sent back is sent back.
    """

    def __init__(self, reader: RangeReader, ranges: Mapping[TopicPartition, range], progress: Progress | None) -> None:
        self._reader = reader
        self._ranges = ranges
        self._progress = progress
        self._replayed = Origins()
        self._total = 2 * sum(map(len, ranges.values()))
        self._done = 0
        self.unreadable = 0

    @classmethod
    async def open(cls, reader: RangeReader, topic: str, progress: Progress | None) -> "Shelf":
        """Look through the topic for markers, then at the letters they speak of. `progress` gets each reading."""
        partitions = reader.partitions([topic])
        starts, ends = await reader.starts(partitions), await reader.ends(partitions, settled=True)
        ranges = {at: range(starts[at], max(starts[at], ends[at])) for at in partitions}
        shelf = cls(reader, ranges, progress)
        noted = {at: Offsets() for at in partitions}
        async for records in shelf._read(ranges):
            for record in records:
                if is_marker(record.headers):
                    read_marker(record, noted[TopicPartition(record.topic, record.partition)])
        told = {at: offsets.ranges for at, offsets in noted.items() if offsets.ranges}
        spans = {at: range(max(starts[at], spoken[0][0]), spoken[-1][1] + 1) for at, spoken in told.items()}
        shelf._total += sum(map(len, spans.values()))
        async for records in shelf._read(spans):
            for record in records:
                letter = read_dead_letter(record)
                if letter is not None and record.offset in noted[TopicPartition(record.topic, record.partition)]:
                    shelf._replayed.add(letter.source)
        return shelf

    def was_replayed(self, letter: DeadLetter) -> bool:
        """Whether the letter's record was sent back before the shelf was opened, by this letter or another."""
        return letter.source in self._replayed

    async def letters(self) -> AsyncIterator[list[DeadLetter]]:
        """Hand out the letters, in lists of one partition each, in offset order of it."""
        async for records in self._read(self._ranges):
            letters = []
            for record in records:
                letter = read_dead_letter(record)
                if letter is not None:
                    letters.append(letter)
                elif not is_marker(record.headers):
                    self.unreadable += 1
            yield letters

    async def _read(self, ranges: Mapping[TopicPartition, range]) -> AsyncIterator[list[Any]]:
        """Read ranges and tell how far it is; offsets that hold no record count at the end."""
        end = self._done + sum(map(len, ranges.values()))
        async for records in self._reader.read(ranges):
            yield records
            self._advance(self._done + len(records))
        self._advance(end)

    def _advance(self, done: int) -> None:
        self._done = done
        if self._progress is not None:
            self._progress(done, self._total)


class _Growing:
    """A group that is being counted."""

    def __init__(self, most_examples: int) -> None:
        self._most = most_examples
        self._count = self._replayed = self._failed_again = 0
        self._first: datetime | None = None
        self._last: datetime | None = None
        self._examples: list[DeadLetter] = []

    def add(self, letter: DeadLetter, replayed: bool) -> None:
        self._count += 1
        self._replayed += replayed
        self._failed_again += letter.replays > 0
        at = letter.failed_at
        if at is not None:
            self._first = at if self._first is None else min(at, self._first)
            self._last = at if self._last is None else max(at, self._last)
        self._examples.append(letter)
        if len(self._examples) > self._most:
            # The list is of a few: the one that failed first goes; those without a time go before it.
            oldest = min(self._examples, key=lambda example: example.failed_at.timestamp() if example.failed_at else 0)
            self._examples.remove(oldest)

    def close(self, source: str, reason: str) -> Group:
        return Group(
            source,
            reason,
            self._count,
            self._replayed,
            self._failed_again,
            self._first,
            self._last,
            tuple(self._examples),
        )
