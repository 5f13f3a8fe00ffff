"""How results are shown: coloured lines on a terminal, JSON lines anywhere else."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from worker.demo.results import Result
from worker.demo.tally import Tally, percentile

COLOURS: Mapping[str, str] = {
    "PER": "bright_yellow",
    "LOC": "bright_green",
    "ORG": "bright_cyan",
    "DATE": "bright_magenta",
    "TIME": "magenta",
    "MONEY": "green",
    "PERCENT": "cyan",
    "EVENT": "bright_red",
    "PRODUCT": "bright_blue",
    "WORK": "bright_blue",
}
KIND_NAMES: Mapping[str, str] = {"query": "queries", "review": "reviews"}


class Screen(Protocol):
    """Where results go."""

    def start(self, total: int) -> None:
        """`total` records are about to come."""
        ...

    def show(self, results: Sequence[Result], done: int) -> None:
        """Show results that came together; `done` have come altogether. May block."""
        ...

    def finish(self) -> None:
        """No more will come."""
        ...


class ProgressBar:
    """Records that have come, of all that are to come, at the bottom of a terminal."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("[dim]records"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console)
        self._task: TaskID | None = None

    def start(self, total: int) -> None:
        """Draw it."""
        self._task = self._progress.add_task("records", total=total)
        self._progress.start()

    def move(self, done: int) -> None:
        """Show that `done` records have come."""
        if self._task is not None:
            self._progress.update(self._task, completed=done)

    def finish(self) -> None:
        """Leave it as it is; nothing happens if it was never drawn."""
        if self._task is not None:
            self._progress.stop()


class TerminalScreen:
    """A line a record on a terminal, its entities coloured, above a progress bar."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = ProgressBar(console)

    def start(self, total: int) -> None:
        """Draw the bar."""
        self._bar.start(total)

    def show(self, results: Sequence[Result], done: int) -> None:
        """Print the lines and move the bar."""
        for result in results:
            self._console.print(line(result), highlight=False)
        self._bar.move(done)

    def finish(self) -> None:
        """Leave the bar as it is."""
        self._bar.finish()


class JsonLinesScreen:
    """The enriched records, byte for byte, a line each on stdout; the bar goes to stderr if that is a terminal."""

    def __init__(self, output: int, console: Console) -> None:
        """`output` is the file descriptor that lines are written to."""
        self._output = output
        self._bar = ProgressBar(console) if console.is_terminal else None

    def start(self, total: int) -> None:
        """Draw the bar."""
        if self._bar is not None:
            self._bar.start(total)

    def show(self, results: Sequence[Result], done: int) -> None:
        """Write the lines. Raises `BrokenPipeError` where nobody reads them any more."""
        lines = memoryview(b"".join(result.value + b"\n" for result in results if result.record is not None))
        while lines:
            lines = lines[os.write(self._output, lines) :]
        if self._bar is not None:
            self._bar.move(done)

    def finish(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.finish()


def line(result: Result) -> Text:
    """A result as one line: its kind, its text with the entities coloured and named, or why it was refused."""
    if result.record is None:
        return Text.assemble(("dead letter  ", "red"), result.reason or "")
    record = result.record
    shown = Text(f"{record['enrichment']['kind']:<7}", style="dim")
    position = 0
    for entity in record["entities"]:
        if entity["field"] != "text":
            continue
        colour = colour_of(entity["type"])
        shown.append(_one_line(record["text"][position : entity["start"]]), "not dim default")
        shown.append(_one_line(entity["text"]), f"not dim bold {colour}")
        shown.append(f"/{entity['type']}", f"dim {colour}")
        position = entity["end"]
    shown.append(_one_line(record["text"][position:]), "not dim default")
    return shown


def colour_of(entity_type: str) -> str:
    """A type's colour; a taxonomy's own types are white."""
    return COLOURS.get(entity_type, "bright_white")


def summary(tally: Tally, elapsed: float, model: Mapping[str, Any]) -> Table:
    """The figures at the end; `elapsed` seconds passed between sending the first record and reading the last result."""
    table = Table(title=None, box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column()
    kinds = ", ".join(f"{count:,} {KIND_NAMES.get(kind, kind)}" for kind, count in sorted(tally.records.items()))
    table.add_row("model", f"{model['name']} {model['revision']}, {model['engine']} on {model['device']}")
    table.add_row("records", f"{tally.records.total():,} enriched ({kinds})")
    if tally.dead_letters:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in tally.dead_letters.most_common())
        table.add_row("dead letters", f"{tally.dead_letters.total():,} ({reasons})")
    if tally.repeated:
        table.add_row("came twice", f"{tally.repeated:,}")
    found = Text()
    for entity_type, count in tally.entities.most_common():
        found.append(f"{entity_type} ", colour_of(entity_type)).append(f"{count:,}   ")
    table.add_row("entities", found if tally.entities else "none")
    table.add_row("throughput", f"{tally.done / elapsed:,.0f} records/s over {elapsed:.2f} s")
    for kind, seconds in sorted(tally.seconds.items()):
        p50, p99 = percentile(seconds, 0.5) * 1000, percentile(seconds, 0.99) * 1000
        table.add_row(
            f"latency, {KIND_NAMES.get(kind, kind)}", f"p50 {p50:,.0f} ms, p99 {p99:,.0f} ms from sent to read enriched"
        )
    return table


def _one_line(text: str) -> str:
    return " ".join(text.splitlines()) if "\n" in text or "\r" in text else text
