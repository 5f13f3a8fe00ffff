"""What the demo counts and shows."""

import io
import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from worker.demo.results import Result
from worker.demo.screen import JsonLinesScreen, TerminalScreen, line, summary
from worker.demo.tally import Tally, percentile
from worker.records import Origin

MODEL = {"name": "fake", "revision": "0", "engine": "rules", "device": "cpu"}


def enriched(text: str, *spans: tuple[int, int, str], kind: str = "review", offset: int = 0, ms: int = 10) -> Result:
    entities = [
        {"field": "text", "start": start, "end": end, "text": text[start:end], "type": type_}
        for start, end, type_ in spans
    ]
    record: dict[str, Any] = {"text": text, "entities": entities, "enrichment": {"kind": kind}}
    return Result(json.dumps(record).encode(), record, None, Origin("reviews.raw", 0, offset), ms / 1000)


def plain(shown: Any, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(shown, highlight=False)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_line_shows_the_text_with_its_entities_named() -> None:
    shown = line(enriched("이병헌은 부산에 갔다", (0, 3, "PER"), (5, 7, "LOC")))
    assert shown.plain.split(maxsplit=1) == ["review", "이병헌/PER은 부산/LOC에 갔다"]
    coloured = {shown.plain[span.start : span.end]: str(span.style) for span in shown.spans}
    assert "bright_yellow" in coloured["이병헌"]
    assert "bright_green" in coloured["부산"]


def test_a_text_over_several_lines_or_with_markup_in_it_stays_one_plain_line() -> None:
    assert plain(line(enriched("[bold]첫 줄\n둘째 줄[/bold]"))).count("\n") == 1
    assert "[bold]첫 줄 둘째 줄[/bold]" in plain(line(enriched("[bold]첫 줄\n둘째 줄[/bold]")))


def test_a_dead_letter_is_shown_with_its_reason() -> None:
    assert "schema" in line(Result(b"x", None, "schema", Origin("t", 0, 0), 0.0)).plain


def test_a_record_that_comes_twice_counts_once() -> None:
    tally = Tally()
    first = enriched("이병헌", (0, 3, "PER"), offset=4)
    assert tally.add([first]) == [first]
    assert tally.add([first, enriched("송강호", (0, 3, "PER"), offset=5)]) == [
        enriched("송강호", (0, 3, "PER"), offset=5)
    ]
    assert (tally.done, tally.repeated, tally.entities["PER"]) == (2, 1, 2)


def test_the_summary_tells_records_entities_throughput_and_latency() -> None:
    tally = Tally()
    tally.add([enriched("이병헌", (0, 3, "PER"), offset=number, ms=number) for number in range(1, 101)])
    tally.add([enriched("부산", (0, 2, "LOC"), kind="query", offset=200, ms=7)])
    tally.add([Result(b"x", None, "schema", Origin("queries.raw", 0, 0), 0.0)])
    text = plain(summary(tally, 2.0, MODEL))
    for words in (
        "101 enriched (1 queries, 100 reviews)",
        "1 (1 schema)",
        "PER 100",
        "LOC 1",
        "51 records/s over 2.00 s",
        "p50 50 ms, p99 99 ms",
        "p50 7 ms, p99 7 ms",
    ):
        assert words in text, words
    assert "came twice" not in text


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_a_value_that_enough_values_do_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6
    assert sum(value < found for value in values) < share * len(values) + 1e-6


def test_json_lines_are_the_published_bytes_and_leave_dead_letters_out() -> None:
    reader, writer = os.pipe()
    screen = JsonLinesScreen(writer, Console(file=io.StringIO()))
    results = [enriched("이병헌", offset=1), Result(b"not json", None, "not_json", Origin("t", 0, 0), 0.0)]
    screen.start(2)
    screen.show(results, 2)
    screen.finish()
    os.close(writer)
    with os.fdopen(reader, "rb") as lines:
        assert lines.read() == results[0].value + b"\n"


def test_writing_to_a_reader_who_left_raises_broken_pipe() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    screen = JsonLinesScreen(writer, Console(file=io.StringIO()))
    screen.start(1)
    with pytest.raises(BrokenPipeError):
        screen.show([enriched("이병헌")], 1)
    screen.finish()
    os.close(writer)


def test_a_terminal_gets_a_line_a_record_and_a_bar() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    screen = TerminalScreen(console)
    screen.start(2)
    screen.show([enriched("이병헌", (0, 3, "PER")), enriched("부산", (0, 2, "LOC"))], 2)
    screen.finish()
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "이병헌" in text
    assert "부산" in text
    assert "2/2" in text
