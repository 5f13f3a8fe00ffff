"""A range of a topic through a model again, for when a better model arrives.

What comes out is what `koner run` would publish: key, headers and timestamp carried over, tombstones passed on, refused
records as dead letters. `enrichment.source` is always the raw record's coordinates: of a raw topic the record's own, of
an enriched topic those that its record has already, so that both versions can be told to be of the same raw record. An
enriched record without them is nobody's: it is skipped and counted. One that the model fails on becomes a dead letter
with the raw record in it, without what was added, so that it too can be sent back to its raw topic.

Into the same output topic the new versions go behind the old ones, so whoever reads it sees both; with a compacted
topic the new one stays, unless a newer record of the key came meanwhile, which the replay then overtakes: run it into a
topic of its own to be safe. The range ends where the topic ended when it began.

Interrupted at any point, the same request goes on where the last commit was: at most what was published since then
(`commit_interval_seconds`, or with `delivery = "exactly_once"` nothing) is published once more, and nothing is lost.
The progress is kept as the committed offsets of a group of its own, which the broker forgets a week after the last
commit (offsets.retention.minutes): then it begins anew.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import KafkaError, ProducerFenced

from worker.audit.reading import open_reader
from worker.ner.engine import Engine
from worker.recovery.errors import RecoveryError
from worker.recovery.ranges import Plan, Request, group_name, make_plan, remaining, target
from worker.recovery.rerun import Rerun
from worker.settings import Settings
from worker.stream.delivery import BatchRefused, SizeLimits


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did, or with `dry_run` would begin with."""

    dry_run: bool
    plan: Plan
    enriched: int
    tombstones: int
    skipped: int  # records of an enriched topic that are no enriched records
    dead_letters: Mapping[str, int]  # by reason

    def as_json(self) -> dict[str, Any]:
        """The result as JSON-ready members."""
        return {
            "dry_run": self.dry_run,
            "topic": self.plan.topic,
            "kind": self.plan.kind,
            "output": self.plan.output,
            "group": self.plan.group,
            "partitions": [stretch.as_json() for stretch in self.plan.stretches],
            "enriched": self.enriched,
            "tombstones": self.tombstones,
            "skipped": self.skipped,
            "dead_letters": dict(self.dead_letters),
        }


async def replay(
    settings: Settings,
    engine: Engine,
    request: Request,
    *,
    again: bool = False,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Replayed:
    """Run a range of a topic through `engine` and publish what comes out.

    What an earlier run of the same request and model did is not done again unless `again`. `progress` gets offsets done
    and in all, those of an earlier run included.

    Raises `RecoveryError`, `worker.stream.errors.StreamError` where the engine is broken or a topic refuses a record
    for good, and `worker.audit.reading.ReadingError`.
    """
    _, output = target(settings, request)
    group = group_name(settings, request, output, engine.info)
    of_replay = settings.model_copy(update={"group": group})
    limits = SizeLimits()
    counts: Counter[str] = Counter()
    dead_letters: Counter[str] = Counter()
    while True:
        async with open_reader(of_replay, group=group) as reader:
            plan = await make_plan(settings, request, engine.info, reader, group=group, again=again)
            if progress is not None:
                progress(plan.done, plan.total)
            if dry_run or plan.done == plan.total:
                break
            if again:  # should this run be interrupted, the next one goes on with it
                await reader.commit({at: offsets.start for at, offsets in remaining(plan).items()})
            report = _reporter(plan, progress)
            rerun = Rerun(of_replay, engine, reader, plan, limits=limits, on_progress=report)
            try:
                await rerun.run()
            except BatchRefused as refused:
                limits.learn(refused, settings.dead_letter_topic)
                again = False  # what was published before the broker refused this one is done
                continue
            except ProducerFenced:
                raise RecoveryError(
                    "another run of this replay has begun and takes over; wait for it, then run this one again"
                ) from None
            except KafkaError as error:
                raise RecoveryError(
                    f"{settings.bootstrap_servers}: the replay was interrupted ({type(error).__name__}); "
                    "run the same command again, it goes on where it was"
                ) from None
            finally:
                counts += rerun.counts
                dead_letters += rerun.dead_letters
            if progress is not None:
                progress(plan.total, plan.total)
            break
    return Replayed(dry_run, plan, counts["enriched"], counts["tombstone"], counts["skipped"], dead_letters)


def _reporter(plan: Plan, progress: Callable[[int, int], None] | None) -> Callable[[int], None]:
    def report(done: int) -> None:
        if progress is not None:
            progress(plan.done + done, plan.total)

    return report
