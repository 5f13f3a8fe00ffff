"""The commands that recover: dead-letters list, show and replay, and replay."""

from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from worker.cli.answers import WRONG_CALL, answer, clear_errors, details, fail, note, print_json, progress_in_offsets
from worker.cli.cluster import ask_cluster
from worker.cli.loading import engine_of, quiet_logs, settings_of
from worker.cli.options import Config, Device, EngineName, Model, Servers, Taxonomy
from worker.cli.values import place_of, ranges_of, times_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from worker.recovery.letters import DeadLetter, Selection

SHOWN = 10  # places in a line
TO_READ_LETTERS = "Read on the dead-letter topic"
Reasons = Annotated[
    list[str] | None,
    typer.Option(
        "--reason", metavar="REASON", help="Only those refused for this reason; may be repeated.", show_default=False
    ),
]
Sources = Annotated[
    list[str] | None,
    typer.Option("--source", metavar="TOPIC", help="Only those of this topic; may be repeated.", show_default=False),
]
FailedSince = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="Only those that failed at this time or later.", show_default=False),
]
FailedUntil = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="Only those that failed before it.", show_default=False)
]
Places = Annotated[
    list[str] | None,
    typer.Option(
        "--at",
        metavar="PARTITION@OFFSET",
        help="Only the one that lies there in the dead-letter topic; may be repeated.",
        show_default=False,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Tell what would be done, and do nothing.")]


def list_letters(
    reason: Reasons = None,
    source: Sources = None,
    since: FailedSince = None,
    until: FailedUntil = None,
    at: Places = None,
    examples: Annotated[int, typer.Option(min=0, help="Dead letters to name of each source and reason.")] = 3,
    words: Annotated[
        bool, typer.Option("--words", help="Show their keys, values and headers too: people's words.")
    ] = False,
    config: Config = None,
    bootstrap_servers: Servers = None,
) -> None:
    """Count the dead letters by source and reason, as JSON, with the latest of each as examples.

    A TIME is RFC 3339, as 2026-03-04T12:00:00Z.
    """
    with clear_errors():
        settings = settings_of(config, bootstrap_servers=bootstrap_servers)
        selection = _selection(reason, source, since, until, at)
        quiet_logs()
        from worker.recovery.dead_letters import list_dead_letters

        with progress_in_offsets("reading") as advance:
            listing = ask_cluster(
                settings,
                list_dead_letters(settings, selection, examples=examples, progress=advance),
                rights=TO_READ_LETTERS,
            )
        listed = listing.as_json(words=words)
        rows = [
            {
                "source": group.source,
                "reason": group.reason,
                "count": group.count,
                "replayed": group.replayed,
                "failed again": group.failed_again,
                "latest": _seconds(group.last),
            }
            for group in listing.groups
        ]
        answer(listed, rows, ("source", "reason", "count", "replayed", "failed again", "latest"))
        shown = [_row(letter, words) for group in listing.groups for letter in group.examples]
        details(shown, ("at", "source", "failed", "detail", *(("key", "value") if words else ())))


def show_letter(
    place: Annotated[str, typer.Argument(metavar="PARTITION@OFFSET", help="Where it lies in the dead-letter topic.")],
    config: Config = None,
    bootstrap_servers: Servers = None,
) -> None:
    """Show one dead letter whole, as JSON: why it was refused, and its key, value and headers, people's words."""
    with clear_errors():
        settings = settings_of(config, bootstrap_servers=bootstrap_servers)
        partition, offset = place_of("dead letter", place)
        quiet_logs()
        from worker.recovery.dead_letters import show_dead_letter

        letter = ask_cluster(settings, show_dead_letter(settings, partition, offset), rights=TO_READ_LETTERS)
        print_json(letter.as_json(words=True))


def replay_letters(
    reason: Reasons = None,
    source: Sources = None,
    since: FailedSince = None,
    until: FailedUntil = None,
    at: Places = None,
    again: Annotated[bool, typer.Option("--again", help="Send also those that were sent back before.")] = False,
    dry_run: DryRun = False,
    config: Config = None,
    bootstrap_servers: Servers = None,
) -> None:
    """Send dead letters back to the topic and partition they came from; prints what was sent as JSON.

    Each is sent once: what an earlier run sent is left out. A TIME is RFC 3339, as 2026-03-04T12:00:00Z.
    """
    with clear_errors():
        settings = settings_of(config, bootstrap_servers=bootstrap_servers)
        selection = _selection(reason, source, since, until, at)
        quiet_logs()
        from worker.recovery.sending_back import replay_dead_letters

        rights = "Read and Write on the dead-letter topic and Write on the raw topics"
        if settings.delivery == "exactly_once":
            rights += f", and Write and Describe on transactional id koner-replay-{settings.group}"
        with progress_in_offsets("reading" if dry_run else "sending back") as advance:
            sent = ask_cluster(
                settings,
                replay_dead_letters(settings, selection, again=again, dry_run=dry_run, progress=advance),
                rights=rights,
                interrupted="interrupted; what was sent is noted, and the same command goes on with the rest",
            )
        rows = [
            {"source": topic, "reason": reason, "would be sent" if dry_run else "sent": count}
            for topic, reasons in sent.by_source.items()
            for reason, count in reasons.items()
        ]
        answer(sent.as_json(), rows, ("source", "reason", "would be sent" if dry_run else "sent"))
        if sent.already:
            more = "" if again else "; --again sends them once more"
            note(f"left out, as they were sent back before: {sent.already:,}{more}")
        if sent.foreign:
            note(f"left where they are, of topics that are no source in these settings: {sent.foreign:,}")
        if sent.too_large:
            note(
                f"left where they are, larger than max_publish_bytes: {sent.too_large:,}; raise it as far as the "
                "broker and the topic take records"
            )
        if sent.selected < len(selection.places):
            note(f"places where no dead letter lies that is meant: {len(selection.places) - sent.selected:,}")
        if sent.refused:
            places = [f"{one.place.partition}@{one.place.offset}" for one in sent.refused[:SHOWN]]
            topics = sorted({f"{one.topic} ({one.reason})" for one in sent.refused})
            fail(
                f"left where they are, refused by {', '.join(topics)}: {len(sent.refused):,}, at {', '.join(places)}"
                f"{', …' if len(sent.refused) > SHOWN else ''}; check the topic's settings (compacted, it takes no "
                "record without a key; message.timestamp.before.max.ms bounds timestamps) and the broker's log"
            )


def replay(
    topic: Annotated[str, typer.Argument(help="A raw topic, or an enriched one.")],
    output: Annotated[
        str | None,
        typer.Option(help="Where the new records go; by default where the topic's go now.", show_default=False),
    ] = None,
    kind: Annotated[
        Literal["query", "review", "enriched"] | None,
        typer.Option(help="What the topic's records are; by default as the settings say.", show_default=False),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="From the first record of this time, by its timestamp.", show_default=False),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Up to the first record of this time.", show_default=False)
    ] = None,
    offsets: Annotated[
        list[str] | None,
        typer.Option(
            metavar="P:FIRST-END",
            help="Only these offsets of a partition, the one at END not included; may be repeated.",
            show_default=False,
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Begin anew what an earlier run of the same request did.")
    ] = False,
    dry_run: DryRun = False,
    model: Model = None,
    taxonomy: Taxonomy = None,
    engine: EngineName = None,
    device: Device = None,
    config: Config = None,
    bootstrap_servers: Servers = None,
) -> None:
    """Run what a topic holds through a model again and publish it; prints what was done as JSON.

    The topic's end when the command begins is where it stops. Interrupted, the same command goes on where it was.
    A TIME is RFC 3339, as 2026-03-04T12:00:00Z.
    """
    with clear_errors():
        settings = settings_of(
            config, bootstrap_servers=bootstrap_servers, model=model, taxonomy=taxonomy, engine=engine, device=device
        )
        first, last = times_of(since, until)
        ranges = ranges_of("--offsets", offsets or ())
        loaded = engine_of(settings)
        from worker.recovery.ranges import Request
        from worker.recovery.replay import replay as replay_topic

        request = Request(topic, output, kind, first, last, ranges)
        rights = (
            f"Read on {topic} and on groups with the prefix koner-replay-{topic}-, "
            "and Write on the output and dead-letter topics"
        )
        if settings.delivery == "exactly_once":
            rights += ", and Write and Describe on transactional ids with the prefix koner-koner-replay-"
        with progress_in_offsets("reading" if dry_run else "replaying") as advance:
            done = ask_cluster(
                settings,
                replay_topic(settings, loaded, request, again=again, dry_run=dry_run, progress=advance),
                rights=rights,
                interrupted="interrupted; the same command goes on where it was",
            )
        answered = done.as_json()
        rows = [{**stretch, "done before": stretch["done"]} for stretch in answered["partitions"]]
        answer(answered, rows, ("partition", "start", "end", "done before"))
        names = ("output", "enriched", "tombstones", "skipped", "dead_letters")
        if not dry_run:
            details([answered], names)


def _selection(
    reason: "Sequence[str] | None",
    source: "Sequence[str] | None",
    since: str | None,
    until: str | None,
    at: "Sequence[str] | None",
) -> "Selection":
    """Read the options that say which dead letters are meant."""
    from worker.contracts import Reason
    from worker.recovery.letters import Selection

    known = get_args(Reason)
    for name in reason or ():
        if name not in known:
            fail(f"--reason {name}: give one of {', '.join(known)}", WRONG_CALL)
    first, last = times_of(since, until)
    places = frozenset(place_of("--at", place) for place in at or ())
    return Selection(frozenset(reason or ()), frozenset(source or ()), first, last, places)


def _row(letter: "DeadLetter", words: bool) -> dict[str, object]:
    shown = letter.as_json(words=words)
    return {
        "at": f"{letter.place.partition}@{letter.place.offset}",
        "source": f"{letter.source.topic}[{letter.source.partition}]@{letter.source.offset}",
        "failed": _seconds(letter.failed_at),
        "detail": letter.detail,
        "key": shown.get("key"),
        "value": shown.get("value"),
    }


def _seconds(time: "datetime | None") -> str:
    """A time as people read it; the JSON has it to the millisecond."""
    return "" if time is None else f"{time.astimezone():%Y-%m-%d %H:%M:%S}"
