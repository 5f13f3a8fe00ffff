"""The audit of a running or finished worker: its topics read and held against each other."""

import asyncio
from collections.abc import Callable, Mapping

from aiokafka import TopicPartition

from worker.audit.ledger import Bounds, Ledger
from worker.audit.reading import RangeReader, open_reader
from worker.audit.report import Report
from worker.settings import Settings

Progress = Callable[[int, int], None]


async def audit(
    settings: Settings,
    *,
    from_offsets: Mapping[tuple[str, int], int] | None = None,
    everything: bool = False,
    allow_doubles: bool | None = None,
    most_examples: int = 10,
    progress: Progress | None = None,
) -> Report:
    """Hold the output topics and the dead letters of `settings`' sources against their raw topics.

    A raw record without an output is missing if the group has committed past it, else pending; with `everything` it is
    missing in any case. `from_offsets` names, by topic and partition, where to start in raw topics (else at the first
    record); outputs are always read whole. Doubles are no fault with `allow_doubles`, which by default is what
    `settings.delivery` promises. `progress` gets offsets read and offsets in all.

    It changes nothing and joins no group, and a worker may run meanwhile: the group's offsets are asked for first, the
    ends of the outputs second (once no transaction hides any of them) and those of the raw topics last, so that what
    was committed has its output in view, and every output its raw record. Only `koner replay` and a topic that was
    deleted and made again break this.

    Cost: 60 MB of memory a million raw records, whatever their size, and twice that while the report is made; about two
    minutes of one core a million raw records with their outputs. Raises `ReadingError`.
    """
    outputs = {source.topic: source.output for source in settings.sources}
    ledger = Ledger(outputs, settings.dead_letter_topic, most_examples=most_examples)
    async with open_reader(settings, group=settings.group) as reader:
        raw = reader.partitions(outputs)
        published = reader.partitions({*outputs.values(), settings.dead_letter_topic})
        committed = await reader.committed(raw)
        published_ranges = await _ranges(reader, published)
        raw_firsts = await reader.starts(raw)
        raw_ends = await reader.ends(raw)
        raw_ranges = {}
        for partition in raw:
            first, end = raw_firsts[partition], raw_ends[partition]
            start = min(max(first, (from_offsets or {}).get(partition, 0)), end)
            raw_ranges[partition] = range(start, end)
            done = committed[partition]
            bounds = Bounds(first, start, end, due=end if everything else done or 0, committed=done)
            ledger.open(partition.topic, partition.partition, bounds)
        total = sum(len(offsets) for offsets in (*raw_ranges.values(), *published_ranges.values()))
        count = _Count(total, progress)
        async for records in reader.read(raw_ranges):
            for record in records:
                ledger.add_raw(record)
            await count.add(len(records))
        count.reach(sum(map(len, raw_ranges.values())))
        async for records in reader.read(published_ranges):
            for record in records:
                ledger.add_output(record)
            await count.add(len(records))
        count.reach(total)
    return ledger.report(
        allow_doubles=settings.delivery == "at_least_once" if allow_doubles is None else allow_doubles,
        trimmed={(at.topic, at.partition): offsets.start for at, offsets in published_ranges.items() if offsets.start},
    )


async def _ranges(reader: RangeReader, partitions: list[TopicPartition]) -> dict[TopicPartition, range]:
    starts = await reader.starts(partitions)
    ends = await reader.ends(partitions, settled=True)
    return {partition: range(starts[partition], max(starts[partition], ends[partition])) for partition in partitions}


class _Count:
    """How far the reading is, in offsets."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done = 0
        self._total = total
        self._progress = progress

    async def add(self, records: int) -> None:
        """Count records, and let the loop do what else there is."""
        self.reach(self._done + records)
        await asyncio.sleep(0)

    def reach(self, done: int) -> None:
        """Note how far it is; a range may hold fewer records than offsets."""
        self._done = done
        if self._progress is not None:
            self._progress(done, self._total)
