"""Dead letters sent back to where they came from.

Guarantee: a letter is noted as replayed only after the broker has acknowledged it in its topic (acks=all), so none is
ever lost. What an interruption leads to:

- Ctrl-C, SIGTERM as a cancelled task: the chunk under way is finished and noted first; nothing is repeated.
- kill -9, power loss, a broker that goes away: of the chunk under way (at most `CHUNK` letters) those that had arrived
  are sent once more by the next run. With `delivery = "exactly_once"` not even these: letters and their marker are one
  transaction, and a second run at the same time fences the first.
- Between chunks: nothing.

A letter that its topic refuses for good (for its timestamp, say) is left where it is and told; it holds up no other.
Two runs at once without transactions may both send a letter. A letter keeps its record's timestamp: one that is older
than its topic's retention may be deleted there by the broker within minutes, so replay such while a worker runs.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import BrokerResponseError, IllegalOperation, KafkaError, ProducerFenced

from worker.audit.reading import RangeReader, open_reader
from worker.records import Origin
from worker.recovery.dead_letters import Shelf
from worker.recovery.errors import RecoveryError
from worker.recovery.letters import EVERY, REPLAYED_HEADER, DeadLetter, Selection
from worker.recovery.markers import MARKER_HEADERS, Origins, marker
from worker.settings import Settings
from worker.stream.delivery import refuses_records
from worker.stream.producing import end_producer, make_producer, partition_for

RECORD_OVERHEAD = 128  # bytes of a batch and record header, and of our own header, rounded up
HEADER_OVERHEAD = 10  # bytes of a header's two lengths at most
CHUNK = 200  # letters between two notes of how far it is
FINISH_SECONDS = 30.0
CLOSE_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """A letter that its topic refuses for good."""

    place: Origin  # of the letter
    topic: str
    reason: str  # the broker's


@dataclass(frozen=True, slots=True)
class SentBack:
    """What a run sent back, or with `dry_run` would have."""

    dry_run: bool
    selected: int  # letters that were meant
    sent: int  # of them, those that are in their topic again (with `dry_run`: would be)
    already: int  # of them, those whose record an earlier run had sent, or this one by another letter
    foreign: int  # of them, those of topics that are no source in these settings, left where they are
    too_large: int  # of them, those that are larger than `max_publish_bytes`, left where they are
    by_source: Mapping[str, Mapping[str, int]]  # `sent` by the topic they came from and by reason
    refused: Sequence[Refusal] = ()  # of them, those that their topic refuses for good, left where they are

    def as_json(self) -> dict[str, Any]:
        """The result as JSON-ready members."""
        return {
            "dry_run": self.dry_run,
            "selected": self.selected,
            "sent": self.sent,
            "already": self.already,
            "foreign": self.foreign,
            "too_large": self.too_large,
            "refused": len(self.refused),
            "by_source": {topic: dict(reasons) for topic, reasons in self.by_source.items()},
        }


async def replay_dead_letters(
    settings: Settings,
    selection: Selection = EVERY,
    *,
    again: bool = False,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> SentBack:
    """Send the letters that are meant to the topic and partition they came from.

    Key, headers and timestamp are the raw record's; the header `koner-replayed` says how often it was replayed now, so
    that one which fails again is told apart. What an earlier run sent is left out unless `again`, and of several
    letters of one record all but one. Letters that fail while this runs are not taken up. `progress` gets offsets of
    the dead-letter topic done and in all.

    Raises `RecoveryError` and `worker.audit.reading.ReadingError`; what was sent before is noted.
    """
    topics = {source.topic for source in settings.sources}
    most_bytes = settings.max_publish_bytes - RECORD_OVERHEAD
    counts: Counter[str] = Counter()
    by_source: dict[str, Counter[str]] = {}
    taken = Origins()
    refused: list[Refusal] = []
    async with open_reader(settings) as reader:
        sender = None if dry_run else _Sender(settings, reader)
        try:
            if sender is not None:
                await sender.fence()
            shelf = await Shelf.open(reader, settings.dead_letter_topic, progress)
            async for letters in shelf.letters():
                chosen = []
                for letter in filter(selection.holds, letters):
                    counts["selected"] += 1
                    if letter.source.topic not in topics:
                        counts["foreign"] += 1
                    elif letter.source in taken or (shelf.was_replayed(letter) and not again):
                        counts["already"] += 1
                    elif letter.size + HEADER_OVERHEAD * len(letter.headers) > most_bytes:
                        counts["too_large"] += 1
                    else:
                        taken.add(letter.source)
                        chosen.append(letter)
                for first in range(0, len(chosen), CHUNK):
                    chunk = chosen[first : first + CHUNK]
                    refusals = await sender.send(chunk) if sender is not None else []
                    refused += refusals
                    left = {refusal.place for refusal in refusals}
                    for letter in chunk:
                        if letter.place not in left:
                            by_source.setdefault(letter.source.topic, Counter())[letter.reason] += 1
        finally:
            if sender is not None:
                await sender.close()
    sent = sum(sum(reasons.values()) for reasons in by_source.values())
    return SentBack(
        dry_run, counts["selected"], sent, counts["already"], counts["foreign"], counts["too_large"], by_source, refused
    )


class _Refused(Exception):
    """A topic refused letters for good, in batches with others: `left` have not arrived."""

    def __init__(self, left: Sequence[DeadLetter], reason: str) -> None:
        super().__init__(reason)
        self.left = left
        self.reason = reason


class _Sender:
    """Sends letters back and notes that they were; connects when there is something to send."""

    def __init__(self, settings: Settings, reader: RangeReader) -> None:
        self._settings = settings
        self._reader = reader
        self._transactional = settings.delivery == "exactly_once"
        self._producer: AIOKafkaProducer | None = None

    async def fence(self) -> None:
        """End what an earlier run may have left open: with a transaction of its own it would hide letters from us."""
        if self._transactional:
            try:
                await self._connect()
            except KafkaError as error:
                raise self._unreachable(error) from None

    async def send(self, letters: Sequence[DeadLetter]) -> list[Refusal]:
        """Send letters of one partition, in order, and note it; returns those that their topic refuses.

        A batch is refused for one record in it, so what was refused is sent again in halves, until that one stands
        alone. Whoever cancels this waits until what is under way is noted.
        """
        refusals: list[Refusal] = []
        parts = [letters]
        while parts:
            part = parts.pop()
            sending = asyncio.ensure_future(self._send(part))
            try:
                refused = await asyncio.shield(sending)
            except asyncio.CancelledError:
                await asyncio.wait({sending}, timeout=FINISH_SECONDS)
                raise
            if refused is None:
                continue
            if len(part) == 1:
                refusals.append(Refusal(part[0].place, part[0].source.topic, refused.reason))
                continue
            middle = (len(refused.left) + 1) // 2
            parts += [half for half in (refused.left[middle:], refused.left[:middle]) if half]
        return refusals

    async def close(self) -> None:
        """Disconnect."""
        if self._producer is not None:
            await end_producer(self._producer, CLOSE_PATIENCE)

    async def _send(self, letters: Sequence[DeadLetter]) -> _Refused | None:
        partitions = Counter(at.topic for at in self._reader.partitions({letter.source.topic for letter in letters}))
        try:
            producer = await self._connect()
            if self._transactional:
                async with producer.transaction():
                    await self._send_and_note(producer, letters, partitions)
            else:
                await self._send_and_note(producer, letters, partitions)
        except _Refused as refused:
            return refused
        except ProducerFenced:
            raise RecoveryError(
                "another replay of dead letters has begun and takes over; wait for it, then run this one again"
            ) from None
        except (KafkaError, IllegalOperation) as error:
            raise self._unreachable(error) from None
        return None

    def _unreachable(self, error: Exception) -> RecoveryError:
        return RecoveryError(
            f"{self._settings.bootstrap_servers}: the broker does not take replayed records "
            f"({type(error).__name__}); run it again, what was sent is not sent twice"
        )

    async def _connect(self) -> AIOKafkaProducer:
        if self._producer is None:
            options: dict[str, Any] = (
                {"transactional_id": f"koner-replay-{self._settings.group}"}
                if self._transactional
                else {"enable_idempotence": self._settings.idempotence}
            )
            producer = make_producer(self._settings, **options)
            self._producer = producer
            await producer.start()
        return self._producer

    async def _send_and_note(
        self, producer: AIOKafkaProducer, letters: Sequence[DeadLetter], partitions: Mapping[str, int]
    ) -> None:
        destinations = [_destination(letter, partitions[letter.source.topic]) for letter in letters]
        arriving: list[asyncio.Future[Any]] = []
        broken: list[BaseException] = []
        for letter, at in zip(letters, destinations, strict=True):
            try:
                arriving.append(await self._send_one(producer, letter, at))
            except IllegalOperation as error:  # the transaction has failed meanwhile, with one that was sent before
                broken.append(error)
                break
        outcomes = [*await asyncio.gather(*arriving, return_exceptions=True), *broken]
        failed = [isinstance(outcome, BaseException) for outcome in outcomes]
        failures = list(compress(outcomes, failed))
        arrived = [letter for letter, none in zip(letters, failed, strict=False) if not none]
        if arrived and not (failures and self._transactional):
            await self._note(producer, arrived)
        refusal = next(filter(refuses_records, failures), None)
        if refusal is not None:
            _take_back_numbers(producer, zip(destinations, failed, strict=False))
            raise _Refused(letters if self._transactional else list(compress(letters, failed)), type(refusal).__name__)
        if failures:
            raise failures[0]

    @staticmethod
    async def _send_one(producer: AIOKafkaProducer, letter: DeadLetter, at: TopicPartition) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = await producer.send(
            at.topic,
            letter.value,
            key=letter.key,
            partition=at.partition,
            timestamp_ms=letter.timestamp if letter.timestamp >= 0 else None,
            headers=[*letter.headers, (REPLAYED_HEADER, b"%d" % (letter.replays + 1))],
        )
        return future

    @staticmethod
    async def _note(producer: AIOKafkaProducer, sent: Sequence[DeadLetter]) -> None:
        place = sent[0].place
        noted = marker(letter.place.offset for letter in sent)
        try:
            await producer.send_and_wait(place.topic, noted, partition=place.partition, headers=MARKER_HEADERS)
        except BrokerResponseError as error:
            if not refuses_records(error):
                raise
            raise RecoveryError(
                f"{place.topic}: refuses the note of what was sent ({type(error).__name__}), and what is not noted is "
                "sent once more; check the topic's settings (compacted, it takes no record without a key) before"
            ) from None


def _take_back_numbers(producer: AIOKafkaProducer, failed: Iterable[tuple[TopicPartition, bool]]) -> None:
    """Let the next batch have the sequence numbers of letters that failed, as Kafka's own producer does.

    The broker expects the number after the last letter that it took, and aiokafka counts those that it refused.
    """
    numbers = producer._txn_manager
    if numbers is None:  # neither idempotent nor transactional
        return
    behind: Counter[TopicPartition] = Counter()  # those that failed behind the last one that arrived
    for at, has_failed in failed:
        behind[at] = behind[at] + 1 if has_failed else 0
    for at, count in behind.items():
        numbers.increment_sequence_number(at, -count)


def _destination(letter: DeadLetter, partitions: int) -> TopicPartition:
    """The partition the letter came from, or where that is gone, the one its key leads to."""
    source = letter.source
    number = source.partition
    if not 0 <= number < partitions:
        number = partition_for(letter.key, 0, partitions)
    return TopicPartition(source.topic, number)
