import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.records import Span
from worker.text.windows import cut_windows, join_spans


@st.composite
def cuts(draw):
    length = draw(st.integers(0, 3000))
    most = draw(st.integers(1, 600))
    breaks = sorted(draw(st.sets(st.integers(0, max(length, 1)), max_size=200)))
    return length, most, breaks


@given(cuts())
def test_windows_cover_the_text_within_the_limit(cut):
    length, most, breaks = cut
    windows = cut_windows(length, most, breaks)
    assert windows[0][0] == 0
    assert windows[-1][1] == length
    assert all(end - start <= most for start, end in windows)
    for (start, end), (next_start, next_end) in itertools.pairwise(windows):
        assert start < next_start <= end < next_end
    for (_, end), (start, _) in zip(windows, windows[2:], strict=False):
        assert end <= start
    assert len(windows) <= 1 + 2 * length // max(most - 3 * (most // 8), 1)


def test_windows_end_at_words_where_they_can():
    breaks = list(range(0, 2000, 7))
    windows = cut_windows(2000, 510, breaks)
    edges = {edge for window in windows for edge in window} - {2000}
    assert edges <= set(breaks)


def test_a_short_text_is_one_window():
    assert cut_windows(510, 510, []) == [(0, 510)]
    assert cut_windows(0, 510, []) == [(0, 0)]


def test_a_window_that_holds_nothing_is_refused():
    with pytest.raises(ValueError, match="holds nothing"):
        cut_windows(10, 0, [])


@st.composite
def tagged_windows(draw):
    length = draw(st.integers(1, 400))
    windows = cut_windows(length, draw(st.integers(8, 100)), [])
    spans = []
    for start, end in windows:
        edges = sorted(draw(st.sets(st.integers(0, end - start), max_size=20)))
        spans.append(
            [Span(a, b, draw(st.sampled_from("XY")), 0.5) for a, b in zip(edges[::2], edges[1::2], strict=False)]
        )
    return length, windows, spans


@given(tagged_windows())
def test_joined_spans_never_overlap_and_come_from_a_window(case):
    length, windows, spans = case
    joined = join_spans(spans, windows, length)
    assert all(a.end <= b.start for a, b in itertools.pairwise(joined))
    moved = {
        (s.start + start, s.end + start, s.label) for (start, _), own in zip(windows, spans, strict=True) for s in own
    }
    assert all((s.start, s.end, s.label) in moved for s in joined)


@given(st.integers(1, 3000), st.integers(16, 300), st.data())
def test_a_tagger_that_sees_the_same_everywhere_gives_each_span_once(length, most, data):
    edges = sorted(data.draw(st.sets(st.integers(0, length), max_size=60)))
    truth = [Span(a, b, "X", 0.5) for a, b in zip(edges[::2], edges[1::2], strict=False) if b - a <= most // 8]
    windows = cut_windows(length, most, [])
    spans = [
        [Span(s.start - start, s.end - start, "X", 0.5) for s in truth if start <= s.start and s.end <= end]
        for start, end in windows
    ]
    seen = [s for s in truth if any(start <= s.start and s.end <= end for start, end in windows)]
    assert join_spans(spans, windows, length) == seen


def test_a_name_cut_by_an_edge_is_taken_whole_from_the_window_that_holds_it():
    windows = [(0, 100), (88, 180)]
    spans = [[Span(97, 100, "LOC", 0.9)], [Span(9, 17, "LOC", 0.8)]]
    assert join_spans(spans, windows, 180) == [Span(97, 105, "LOC", 0.8)]


def test_what_a_window_sees_only_at_its_edge_is_not_believed():
    windows = [(0, 100), (80, 180)]
    assert join_spans([[Span(97, 99, "LOC", 0.9)], []], windows, 180) == []
    assert join_spans([[Span(82, 85, "LOC", 0.9)], []], windows, 180) == [Span(82, 85, "LOC", 0.9)]
