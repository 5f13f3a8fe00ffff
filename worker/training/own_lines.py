"""A user's own marked texts, as `koner annotate` writes them and as someone marked them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worker.text.normalise import normalise
from worker.training.labels import LabelledSpan


@dataclass(frozen=True, slots=True)
class OwnText:
    """A text as the model sees it, and where the marked labels stand in it; None for a text that nobody marked."""

    text: str
    spans: tuple[LabelledSpan, ...] | None


def read_own_lines(
    path: Path, fold: Mapping[str, str | None], marked: Sequence[str]
) -> tuple[list[OwnText], dict[str, int]]:
    """The texts of JSON lines, and how many spans of labels that aren't `marked` were left out, by label.

    A line holds `text` and `entities` (`start`, `end`, and `label` or a `type` that stands for one label of `fold`);
    without `entities` nobody marked it. Blank texts are left out. Raises OSError, and ValueError with the line.
    """
    labels_of: dict[str, list[str]] = {}
    for label, kind in fold.items():
        labels_of.setdefault(kind or label, []).append(label)
    texts: list[OwnText] = []
    left_out: dict[str, int] = {}
    with path.open(encoding="utf-8-sig") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    text, found = _read(json.loads(line), fold, labels_of)
                    own = _normalised(text, found, marked)
                except json.JSONDecodeError:
                    raise ValueError(f"{path}, line {number}: not JSON") from None
                except (KeyError, TypeError, ValueError) as error:
                    reason = error.args[0] if isinstance(error, ValueError) else _NEEDED
                    raise ValueError(f"{path}, line {number}: {reason}") from None
                for span in found or ():
                    if span.label not in marked:
                        left_out[span.label] = left_out.get(span.label, 0) + 1
                if not own.text.isspace() and own.text:
                    texts.append(own)
        except UnicodeDecodeError:
            raise ValueError(f"{path}: not UTF-8") from None
    return texts, left_out


_NEEDED = "needs `text`, and `entities` with `start`, `end` and `label` (or `type`)"


def _read(
    row: Any, fold: Mapping[str, str | None], labels_of: Mapping[str, Sequence[str]]
) -> tuple[str, list[LabelledSpan] | None]:
    text = row["text"]
    if not isinstance(text, str):
        raise TypeError
    if row.get("entities") is None:
        return text, None
    spans = []
    for entity in row["entities"]:
        start, end = entity["start"], entity["end"]
        if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
            raise ValueError(
                "an entity's start and end must be whole numbers with 0 <= start < end <= the text's length"
            )
        if "label" in entity:
            label = entity["label"]
            if label not in fold:
                raise ValueError(f"the label {label} does not stand in the labels' file")
        else:
            kind = entity["type"]
            of_kind = [kind] if kind in fold else labels_of.get(kind, [])
            if len(of_kind) != 1:
                raise ValueError(f"the type {kind} stands for {len(of_kind)} labels of the labels' file; give `label`")
            label = of_kind[0]
        spans.append(LabelledSpan(start, end, label))
    return text, spans


def _normalised(text: str, spans: Sequence[LabelledSpan] | None, marked: Sequence[str]) -> OwnText:
    plain = normalise(text)
    if spans is None:
        return OwnText(plain.text, None)
    moved: list[LabelledSpan] = []
    for span in sorted(span for span in spans if span.label in marked):
        start, end = span.start, span.end
        if plain.starts is not None and plain.ends is not None:
            inside = np.flatnonzero((plain.starts < end) & (plain.ends > start))
            start, end = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)
        if not plain.text[start:end].strip():
            raise ValueError("a marked entity is blank")
        if moved and start < moved[-1].end:
            raise ValueError("two marked entities overlap")
        moved.append(LabelledSpan(start, end, span.label))
    return OwnText(plain.text, tuple(moved))


def stretches(own: OwnText, most: int) -> Iterator[OwnText]:
    """The text in stretches of at most `most` characters, cut at spaces where it can be, never inside a span.

    A span that is longer than `most` is left out with its stretch.
    """
    at = 0
    while len(own.text) - at > most:
        inside = {place for span in own.spans or () for place in range(span.start + 1, span.end)}
        allowed = [place for place in range(at + 1, at + most + 1) if place not in inside]
        if not allowed:
            at = next(span.end for span in own.spans or () if span.end > at + most)
            continue
        spaces = [place for place in allowed if own.text[place] == " "]
        cut = (spaces or allowed)[-1]
        yield _stretch(own, at, cut)
        at = cut
    if at < len(own.text):
        yield _stretch(own, at, len(own.text))


def _stretch(own: OwnText, start: int, end: int) -> OwnText:
    spans = None
    if own.spans is not None:
        spans = tuple(
            LabelledSpan(span.start - start, span.end - start, span.label)
            for span in own.spans
            if start <= span.start and span.end <= end
        )
    return OwnText(own.text[start:end], spans)
