"""The command that checks: verify."""

from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.answers import WRONG_CALL, answer, clear_errors, details, fail, note, progress_in_offsets
from worker.cli.cluster import ask_cluster
from worker.cli.loading import quiet_logs, settings_of
from worker.cli.options import Config, Servers
from worker.cli.values import starts_of

if TYPE_CHECKING:
    from worker.audit.report import Example, PartitionReport, Report

SELDOM = ("tombstones", "pending", "trimmed", "unsure", "gone", "absent", "outside")  # shown where there are such


def verify(
    config: Config = None,
    bootstrap_servers: Servers = None,
    group: Annotated[
        str | None, typer.Option(help="Consumer group of the worker that is checked.", show_default=False)
    ] = None,
    start: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="TOPIC[P]@OFFSET",
            help="Where to start in a partition of a raw topic, instead of its first record; may be repeated.",
            show_default=False,
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="Every raw record must have its output, committed or not.")
    ] = False,
    allow_doubles: Annotated[
        bool | None,
        typer.Option(
            "--allow-doubles/--no-doubles",
            help="Whether a raw record may have several outputs; by default as `delivery` promises.",
            show_default=False,
        ),
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Most places to name of each fault of a partition.")] = 10,
) -> None:
    """Check that every raw record came out, once, in order and unchanged.

    Changes nothing, and a worker may run meanwhile. Prints a report as JSON; exits with 0 if nothing is wrong, else 1.
    """
    with clear_errors():
        settings = settings_of(config, bootstrap_servers=bootstrap_servers, group=group)
        starts = starts_of("--from", start or ())
        sources = [source.topic for source in settings.sources]
        for topic, number in starts:
            if topic not in sources:
                fail(f"--from {topic}[{number}]: give a source's topic: {', '.join(sources)}", WRONG_CALL)
        quiet_logs()
        from worker.audit.check import audit

        with progress_in_offsets("reading") as advance:
            report = ask_cluster(
                settings,
                audit(
                    settings,
                    from_offsets=starts,
                    everything=everything,
                    allow_doubles=allow_doubles,
                    most_examples=examples,
                    progress=advance,
                ),
                rights=f"Read on the raw, output and dead-letter topics and Describe on group {settings.group}",
                interrupted="interrupted; nothing was changed",
            )
        unknown = starts.keys() - {(partition.topic, partition.partition) for partition in report.partitions}
        for topic, number in sorted(unknown):
            fail(f"--from {topic}[{number}]: there is no such partition")
        seldom = [name for name in SELDOM if report.counts[name]]
        columns = ("partition", "raw", "enriched", "dead letters", *seldom, "faults")
        answer(report.as_json(), [_row(partition) for partition in report.partitions], columns)
        details(_examples(report), ("fault", "raw record", "output", "what"))
        if report.counts["unsure"]:
            note(
                f"of {report.counts['unsure']:,} records without an output nothing is left that would tell whether "
                "retention deleted it or it is missing"
            )
        if not report.clean:
            fail(f"not clean: {_sum_up(report)}")


def _row(partition: "PartitionReport") -> dict[str, object]:
    return {
        "partition": f"{partition.topic}[{partition.partition}]",
        "raw": partition.raw,
        "enriched": partition.enriched,
        "dead letters": partition.dead_letters,
        **{name: getattr(partition, name) for name in SELDOM},
        "faults": [f"{_words(name)} {finding.count:,}" for name, finding in partition.faults.items() if finding.count],
    }


def _examples(report: "Report") -> list[dict[str, str]]:
    found = [one for partition in report.partitions for one in partition.faults.items()]
    return [
        _example(name, example)
        for name, finding in [*found, ("unreadable", report.unreadable)]
        for example in finding.examples
    ]


def _example(fault: str, example: "Example") -> dict[str, str]:
    places = (
        "" if place is None else f"{place.topic}[{place.partition}]@{place.offset}"
        for place in (example.source, example.output)
    )
    return {"fault": _words(fault), **dict(zip(("raw record", "output"), places, strict=True)), "what": example.what}


def _sum_up(report: "Report") -> str:
    names = {name for partition in report.partitions for name in partition.faults} | {"unreadable"}
    if report.allow_doubles:
        names -= {"double"}
    counts = report.counts
    return ", ".join(f"{_words(name)} {counts[name]:,}" for name in counts if name in names and counts[name])


def _words(fault: str) -> str:
    return fault.replace("_", " ")
