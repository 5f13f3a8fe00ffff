"""Reads the corpora of the data folder into examples. Each file's convention stays in the layer it was made for."""

import functools
import gzip
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from worker.training.labels import LabelledSpan, fold

_MULTICONER: Final = {"PER": "PER", "LOC": "LOC", "GRP": "ORG", "CORP": "ORG", "PROD": "PRODUCT", "CW": "WORK"}
# Particles that no Korean name is likely to end in, longest first, and those that many do (경기도, 코끼리의 이).
_PLAIN_PARTICLES: Final = (
    "은 는 을 를 의 에 에서 에게 에도 에는 에서는 와 과 으로 로서 으로서 로써 으로써 로는 으로는 부터 "
    "까지 이다 이며 이고 이라는 라는 이라고 라고 으로부터 로부터 에게서 처럼 보다 이란 과의 와의 에서의 "
    "으로의 로의 에의 들은 들이 이었다 였다 이자 께서 한테 이라 하고 만의 과는 와는 이랑 에선 까지의 "
    "부터의"
)
_NAMELIKE_PARTICLES: Final = ("이나", "이", "가", "도", "로", "만", "인", "들", "나", "랑", "엔")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A text with its gold spans; None for a layer it isn't labelled in."""

    text: str
    fine: tuple[LabelledSpan, ...] | None
    klue: tuple[LabelledSpan, ...] | None


_TEXT_OF_LAYER: Final = {"fine": "fine_text", "klue": "text"}


def canonical(text: str) -> str:
    """NFC, every white space a space, and characters with a one-character NFKC form as that; the length stays NFC's.

    Hangul compatibility jamo (ㅋ) stay, since people type those. Call it before offsets are counted, or on text that
    is already NFC.
    """
    return unicodedata.normalize("NFC", text).translate(_canonical_characters())


@functools.cache
def _canonical_characters() -> dict[int, str]:
    found = {}
    for code in range(0x110000):
        character = chr(code)
        plain = unicodedata.normalize("NFKC", character)
        if len(plain) == 1 and plain != character and not 0x3131 <= code < 0x318F:
            found[code] = plain
        elif character.isspace():
            found[code] = " "
    for code in range(0x3131, 0x318F):
        jamo = unicodedata.normalize("NFKC", chr(code))
        if len(jamo) == 1:
            found[ord(jamo)] = chr(code)
    return found


def read_klue(path: Path) -> list[Sentence]:
    """A `klue_ner_*.jsonl`: KLUE's spans, and the fine ones where the file has them and they fit the text.

    `fine_text` may be spaced differently from `text`; its spans are moved over by counting what isn't a space.
    """
    sentences = []
    for row in _json_lines(path):
        text = canonical(row["text"])
        klue = tuple(sorted(LabelledSpan(start, end, label) for start, end, label in row["klue"]))
        sentences.append(Sentence(text, _fine_spans(row, text), klue))
    return sentences


def read_gold(path: Path, layer: str) -> list[tuple[str, list[LabelledSpan]]]:
    """A `klue_ner_dev_*.jsonl` to score by: each text as it was annotated, with the gold spans of `layer`.

    `layer` is "fine" (labels folded, over `fine_text`) or "klue". Raises ValueError for another, or for a file whose
    rows lack that layer.
    """
    if layer not in _TEXT_OF_LAYER:
        raise ValueError(f"layer {layer!r}: must be fine or klue")
    gold = []
    for row in _json_lines(path):
        if layer not in row:
            raise ValueError(f"{path}: {row.get('id')} has no {layer!r} spans")
        gold.append(gold_of(row, layer))
    return gold


def gold_of(row: Mapping[str, Any], layer: str) -> tuple[str, list[LabelledSpan]]:
    """One of the rows that `read_gold` reads. Raises KeyError, TypeError or ValueError for one that isn't so."""
    text = canonical(row[_TEXT_OF_LAYER[layer]])
    folded = [(start, end, fold(label) if layer == "fine" else label) for start, end, label in row[layer]]
    if not all(0 <= start < end <= len(text) for start, end, _ in folded):
        raise ValueError("a span that isn't within its text")
    return text, without_overlaps(LabelledSpan(start, end, label) for start, end, label in folded if label)


def read_reviews(path: Path) -> list[str]:
    """The texts of `reviews.jsonl.gz`, those that aren't blank."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        texts = (canonical(json.loads(line)["text"]).strip() for line in lines)
        return [text for text in texts if text]


def read_lines(path: Path) -> list[str]:
    """One text a line, blank ones left out."""
    texts = (canonical(line).strip() for line in path.read_text("utf-8").splitlines())
    return [text for text in texts if text]


def read_multiconer(path: Path) -> list[Sentence]:
    """A `multiconer_ko_*.conll`, joined by spaces. Its tags hang on words: particles are cut off a span's last word."""
    blocks = []
    for block in path.read_text("utf-8").split("\n\n"):
        rows = [line.split() for line in block.splitlines() if line and not line.startswith("# id")]
        words = [canonical(row[0]) for row in rows]
        if words:
            blocks.append((" ".join(words), list(_word_spans(words, [row[-1] for row in rows]))))
    forms = Counter(text[span.start : span.end] for text, spans in blocks for span in spans)
    return [
        Sentence(text, tuple(_without_particle(text, span, forms) for span in spans), None) for text, spans in blocks
    ]


def _without_particle(text: str, span: LabelledSpan, forms: Counter[str]) -> LabelledSpan:
    """The span less the particle it ends in; where names end so too, only if the rest is the commoner form."""
    form = text[span.start : span.end]
    plain = sorted(_PLAIN_PARTICLES.split(), key=len, reverse=True)
    for particle in (*plain, *_NAMELIKE_PARTICLES):
        stem = form.removesuffix(particle)
        if len(stem) < 2 or stem == form or (not "가" <= stem[-1] <= "힣" and len(particle) > 2):
            continue
        doubtful = particle in _NAMELIKE_PARTICLES
        if _agrees(stem[-1], particle) and (forms[stem] > forms[form] or (not doubtful and forms[form] < 3)):
            return LabelledSpan(span.start, span.start + len(stem), span.label)
    return span


def _agrees(last: str, particle: str) -> bool:
    """Whether the particle is the form that follows this syllable: 은 after a final consonant, 는 after a vowel."""
    if not "가" <= last <= "힣":
        return True
    closed = (ord(last) - ord("가")) % 28 > 0
    if particle[0] in "은을과이으":
        return closed
    return not closed if particle[0] in "는를와가" else True


def _word_spans(words: list[str], tags: list[str]) -> Iterator[LabelledSpan]:
    at, opened, end, label = 0, -1, 0, ""
    for word, tag in zip([*words, ""], [*tags, "O"], strict=True):
        if opened >= 0 and not tag.startswith("I-"):
            yield LabelledSpan(opened, end, label)
            opened = -1
        if tag != "O":
            if opened < 0:
                opened, label = at, _MULTICONER[tag[2:]]
            end = at + len(word)
        at += len(word) + 1


def _fine_spans(row: dict[str, Any], text: str) -> tuple[LabelledSpan, ...] | None:
    if "fine" not in row:
        return None
    marked = canonical(row["fine_text"])
    if marked.replace(" ", "") != text.replace(" ", ""):
        return None
    place = [i for i, c in enumerate(text) if c != " "]
    rank = 0
    moved: dict[int, int] = {}
    for i, character in enumerate(marked):
        if character != " ":
            moved[i] = place[rank]
            rank += 1
    spans = []
    for start, end, fine_label in row["fine"]:
        inside = [moved[i] for i in range(start, end) if i in moved]
        label = fold(fine_label)
        if label and inside:
            spans.append(LabelledSpan(inside[0], inside[-1] + 1, label))
    return tuple(without_overlaps(spans))


def without_overlaps(spans: Iterable[LabelledSpan]) -> list[LabelledSpan]:
    """The spans by place, the longer one where two overlap."""
    kept: list[LabelledSpan] = []
    for span in sorted(spans, key=lambda s: (s.start - s.end, s.start)):
        if all(span.end <= other.start or other.end <= span.start for other in kept):
            kept.append(span)
    return sorted(kept)


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
