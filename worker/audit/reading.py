"""Ranges of partitions read from start to end, outside of any consumer group: nobody who reads is disturbed.

Guarantee: of every range, each record that a `read_committed` reader can see is handed out once, in offset order of its
partition. The end of a partition is what a fetch tells of it (its last stable offset), which holds on every broker; the
embedded one answers a question for the end with the last batch's first record.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from worker.settings import Settings
from worker.stream.connection import client_options
from worker.stream.unreadable import unreadable

STALL_SECONDS = 90.0  # longer than brokers leave a transaction open whose producer died
FETCH_WAIT_MILLISECONDS = 100
POLL_MILLISECONDS = 200
RECORDS_A_POLL = 500


class ReadingError(Exception):
    """A topic cannot be read; the message is one line: which, why, what to do."""


@asynccontextmanager
async def open_reader(settings: Settings, *, group: str | None = None) -> AsyncIterator["RangeReader"]:
    """A reader that is connected. With `group` it can tell and commit that group's offsets; it never joins it.

    Raises `ReadingError` where the broker is not there, refuses, or goes away while it is read.
    """
    consumer = AIOKafkaConsumer(
        **client_options(settings),
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_max_wait_ms=FETCH_WAIT_MILLISECONDS,
    )
    try:
        topics = await _partition_numbers(settings)
        await consumer.start()
        yield RangeReader(consumer, topics)
    except KafkaError as error:
        refused = "Auth" in type(error).__name__
        advice = "check the sasl_ and ssl_ settings and the ACLs" if refused else "is the broker up and reachable?"
        raise ReadingError(f"{settings.bootstrap_servers}: cannot be read ({type(error).__name__}); {advice}") from None
    finally:
        # A consumer that is stopped before its tasks have begun raises their cancellation.
        await asyncio.gather(consumer.stop(), return_exceptions=True)


class RangeReader:
    """Reads ranges of offsets. A range is a Python `range`: from its start up to its stop."""

    def __init__(self, consumer: AIOKafkaConsumer, topics: Mapping[str, Sequence[int]]) -> None:
        """`topics` holds the numbers of every topic's partitions."""
        self._consumer = consumer
        self._topics = topics

    def partitions(self, topics: Iterable[str]) -> list[TopicPartition]:
        """All partitions of `topics`. Raises `ReadingError` where a topic does not exist."""
        names = sorted(set(topics))
        missing = [name for name in names if name not in self._topics]
        if missing:
            raise ReadingError(f"{', '.join(missing)}: no such topic, or no right to see it")
        return [TopicPartition(name, number) for name in names for number in self._topics[name]]

    async def starts(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offset that the broker still has of each partition."""
        wanted = list(partitions)
        self._consumer.assign(wanted)
        return dict(await self._consumer.beginning_offsets(wanted)) if wanted else {}

    async def ends(self, partitions: Iterable[TopicPartition], *, settled: bool = False) -> dict[TopicPartition, int]:
        """The offset after the last that can be read now, of each partition.

        A transaction that is open hides whatever was written after its first record, committed or not. With `settled`
        this waits until all that had been written when it was called can be read, or was aborted.
        """
        wanted = list(partitions)
        if not wanted:
            return {}
        self._consumer.assign(wanted)
        near = await self._consumer.end_offsets(wanted)
        for partition, offset in near.items():
            self._consumer.seek(partition, offset)
        written: dict[TopicPartition, int] = {}
        ends: dict[TopicPartition, int] = {}
        deadline = monotonic() + STALL_SECONDS
        while len(ends) < len(wanted):
            if monotonic() > deadline:
                waited_for = _names(set(wanted) - ends.keys())
                raise ReadingError(
                    f"{waited_for}: a transaction is still open, or the broker does not answer, "
                    f"after {STALL_SECONDS:.0f} s; try again"
                )
            with suppress(UnicodeDecodeError):  # of records that `read` will name; here only the end is looked for
                await self._consumer.getmany(timeout_ms=POLL_MILLISECONDS, max_records=RECORDS_A_POLL)
            for partition in wanted:
                high, stable = self._consumer.highwater(partition), self._consumer.last_stable_offset(partition)
                if high is None:
                    continue
                readable = high if stable is None or stable < 0 else stable
                if readable >= written.setdefault(partition, high) or not settled:
                    ends.setdefault(partition, readable)
        return ends

    async def at_time(self, partitions: Iterable[TopicPartition], milliseconds: int) -> dict[TopicPartition, int]:
        """The first offset whose record is not older than a time (since the epoch); a partition without such: its end.

        Kafka looks for it by the records' timestamps, which need not ascend. None is before the epoch.
        """
        wanted = list(partitions)
        self._consumer.assign(wanted)
        times = dict.fromkeys(wanted, max(0, milliseconds))
        found = await self._consumer.offsets_for_times(times) if wanted else {}
        later = [partition for partition in wanted if found.get(partition) is None or found[partition].timestamp < 0]
        ends = await self.ends(later)
        return {partition: ends[partition] if partition in ends else found[partition].offset for partition in wanted}

    async def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int | None]:
        """The group's committed offset of each partition."""
        wanted = list(partitions)
        self._consumer.assign(wanted)
        return {partition: await self._consumer.committed(partition) for partition in wanted}

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit offsets for the group that the reader was opened with."""
        if not offsets.keys() <= self._consumer.assignment():
            self._consumer.assign(list(offsets))
        await self._consumer.commit(dict(offsets))

    async def read(self, ranges: Mapping[TopicPartition, range]) -> AsyncIterator[list[Any]]:
        """Hand out the records of all ranges, in lists of one partition each.

        Raises `ReadingError` where nothing comes for long, and at records that cannot be read.
        """
        waiting = {partition: offsets.stop for partition, offsets in ranges.items() if len(offsets)}
        if not waiting:
            return
        self._consumer.assign(list(waiting))
        for partition in waiting:
            self._consumer.seek(partition, ranges[partition].start)
        moved_at = monotonic()
        while waiting:
            try:
                fetched = await self._consumer.getmany(timeout_ms=POLL_MILLISECONDS, max_records=RECORDS_A_POLL)
            except UnicodeDecodeError as error:
                partition, offsets = unreadable(error)
                raise ReadingError(
                    f"{_names([partition])}: offsets {offsets.start} to {offsets.stop - 1} cannot be read, since the "
                    "name of a header in this batch is not UTF-8; look at them, and leave them out (koner verify "
                    "--from, koner replay --offsets) or delete all up to them (kafka-delete-records)"
                ) from None
            for partition, records in fetched.items():
                stop = waiting.get(partition, 0)
                wanted = [record for record in records if record.offset < stop]
                if wanted:
                    yield wanted
                    moved_at = monotonic()
            for partition, stop in list(waiting.items()):
                if await self._consumer.position(partition) >= stop:  # markers hold no record, and are passed over
                    del waiting[partition]
                    self._consumer.pause(partition)
                    moved_at = monotonic()
            if monotonic() - moved_at > STALL_SECONDS:
                raise ReadingError(f"nothing came of {_names(waiting)} for {STALL_SECONDS:.0f} s; is the broker up?")


async def _partition_numbers(settings: Settings) -> dict[str, list[int]]:
    """The partitions of every topic. All are asked for: many clusters create a topic that is asked for by name."""
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        await admin.start()
        described = await admin.describe_topics()
    finally:
        await admin.close()
    return {
        topic["topic"]: sorted(partition["partition"] for partition in topic["partitions"])
        for topic in described
        if topic["error_code"] == 0
    }


def _names(partitions: Iterable[TopicPartition]) -> str:
    return ", ".join(f"{topic}[{number}]" for topic, number in sorted(partitions))
