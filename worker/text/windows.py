"""Overlapping windows over a text that is longer than a model's positions, and one list of spans out of theirs."""

from bisect import bisect_right
from collections.abc import Sequence

from worker.records import Span

Range = tuple[int, int]


def cut_windows(length: int, most: int, breaks: Sequence[int]) -> list[Range]:
    """Ranges of at most `most` units (pieces) that cover 0 to `length`, neighbours overlapping by about an eighth.

    A window begins and ends at one of `breaks` (sorted places where a word begins) where one lies near enough, else
    anywhere: a text without spaces is cut all the same. No three windows share a unit. Linear in `length`.
    """
    if most < 1:
        raise ValueError(f"a window of {most} pieces holds nothing")
    overlap = most // 8
    windows = []
    start = 0
    while length - start > most:
        end = _nearest_before(breaks, start + most, least=start + most - overlap)
        windows.append((start, end))
        start = _nearest_before(breaks, max(end - overlap, start + 1), least=max(end - 2 * overlap, start + 1))
    windows.append((start, length))
    return windows


def join_spans(spans: Sequence[Sequence[Span]], windows: Sequence[Range], length: int) -> list[Span]:
    """One list, sorted and without overlaps, of the spans of each window (counted from the window's own start).

    Where two windows overlap, each span is taken from the one in which it lies furthest from an edge, which is the one
    on whose side of the overlap's middle the span's middle lies. Spans that still collide are kept deepest first.
    `windows` and `length` are in the same units as the spans (characters).
    """
    found = []  # (depth, span)
    for index, (start, end) in enumerate(windows):
        for span in spans[index]:
            moved = Span(span.start + start, span.end + start, span.label, span.score)
            if not (_is_deeper(moved, windows, index, index - 1) or _is_deeper(moved, windows, index, index + 1)):
                found.append((_depth(moved, (start, end), length), moved))
    found.sort(key=lambda item: (-item[0], item[1].start - item[1].end, item[1].start))
    taken = bytearray(length)
    kept = []
    for _, span in found:
        if not any(taken[span.start : span.end]):
            taken[span.start : span.end] = b"\1" * (span.end - span.start)
            kept.append(span)
    kept.sort(key=lambda span: span.start)
    return kept


def _nearest_before(breaks: Sequence[int], place: int, least: int) -> int:
    index = bisect_right(breaks, place) - 1
    return breaks[index] if index >= 0 and breaks[index] >= least else place


def _is_deeper(span: Span, windows: Sequence[Range], own: int, other: int) -> bool:
    """Whether another window holds all of the span, further from its edge than its own window does."""
    if not 0 <= other < len(windows):
        return False
    start, end = windows[other]
    if span.start < start or span.end > end:
        return False
    left, right = (windows[own], windows[other]) if own < other else (windows[other], windows[own])
    twice_middle = right[0] + left[1]
    on_the_right = span.start + span.end >= twice_middle
    return on_the_right == (own < other)


def _depth(span: Span, window: Range, length: int) -> int:
    """How far a span lies from the edges of its window; the text's own ends are no edges."""
    start, end = window
    before = span.start - start if start > 0 else length
    after = end - span.end if end < length else length
    return min(before, after)
