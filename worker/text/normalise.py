"""Text as a model wants it, and the way back to the text as it was received.

What is done: NFC with conjoining jamo composed, compatibility forms folded as NFKC does (full-width, ㈜, ①, ﬁ) while
compatibility jamo stay as people type them (ㅋㅋ), every white space a space, control and zero-width characters gone,
runs of one character (but of digits) cut to five, lone surrogates U+FFFD.
Forms: https://www.unicode.org/reports/tr15/; which characters stand together: https://www.unicode.org/reports/tr29/
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

LONGEST_RUN: Final = 5

# Printable ASCII, syllables and compatibility jamo but the filler: nothing here combines or folds.
_ODD: Final = re.compile("[^ -~가-힣\u3131-\u3163\u3165-\u318e]")
_LONG_RUN: Final = re.compile(rf"(\D)\1{{{LONGEST_RUN},}}")
_ZERO_WIDTH_JOINER: Final = "\u200d"
_SPACE_CONTROLS: Final = frozenset("\t\n\v\f\r\x1c\x1d\x1e\x1f\x85")
_BLANK_LETTERS: Final = frozenset("\u3164\uffa0")  # Hangul fillers that people use as spaces
_IGNORABLE: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5")  # fillers and joiners that are not format characters
_JAMO_NAMES: Final = ("HANGUL CHOSEONG ", "HANGUL JUNGSEONG ", "HANGUL JONGSEONG ")

_SHORT_CLUSTER: Final = 8  # what is worth remembering: a syllable in jamo, a letter with its marks

Int32 = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Normalised:
    """A normalised text with where each of its characters comes from; None for a text that was normal already."""

    text: str
    starts: Int32 | None = None  # [len(text)] first code point in the text as received
    ends: Int32 | None = None  # [len(text)] one past the last, never less than the one before

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where `text[start:end]` lies in the text as received: whole characters with their marks; `start < end`."""
        if self.starts is None or self.ends is None:
            return start, end
        return int(self.starts[start]), int(self.ends[end - 1])


def normalise(text: str) -> Normalised:
    """Normalise any string; normalising twice changes nothing more."""
    if _ODD.search(text) is None:
        return Normalised(text) if _LONG_RUN.search(text) is None else _shorten(text, None, None)
    characters: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for cluster, start, end in _clusters(text):
        folded = _fold_short_cluster(cluster) if len(cluster) <= _SHORT_CLUSTER else _fold_cluster(cluster)
        characters.append(folded)
        starts += [start] * len(folded)
        ends += [end] * len(folded)
    return _shorten("".join(characters), np.array(starts, np.int32), np.array(ends, np.int32))


def _shorten(text: str, starts: Int32 | None, ends: Int32 | None) -> Normalised:
    """Cut long runs; the last character that is kept stands for all that are not."""
    keep = np.ones(len(text), bool)
    if starts is None or ends is None:
        starts = np.arange(len(text), dtype=np.int32)
        ends = starts + np.int32(1)
    ends = ends.copy()
    for run in _LONG_RUN.finditer(text):
        cut = run.start() + LONGEST_RUN
        keep[cut : run.end()] = False
        ends[cut - 1] = ends[run.end() - 1]
    if keep.all():
        return Normalised(text, starts, ends)
    kept = np.flatnonzero(keep)
    return Normalised("".join([text[index] for index in kept.tolist()]), starts[kept], ends[kept])


def _clusters(text: str) -> Iterator[tuple[str, int, int]]:
    """What stands and composes together, without its ignorable characters, and where it lies."""
    cluster = ""
    start = end = 0
    joined = False
    for index, character in enumerate(text):
        kind = _kind(character)
        if kind == "ignore":
            # A selector belongs to what it selects, and a joiner glues what follows; other ignorable ones lie between.
            if cluster and _belongs_to_the_character_before(character):
                end = index + 1
            if character == _ZERO_WIDTH_JOINER and cluster and unicodedata.category(cluster[-1])[0] == "S":
                joined = True
            continue
        if kind == "space":
            character = " "
        glued = joined and unicodedata.category(character)[0] == "S"
        joined = False
        if cluster and (glued or _continues(cluster, character)):
            cluster += character
        else:
            if cluster:
                yield cluster, start, end
            cluster, start = character, index
        end = index + 1
    if cluster:
        yield cluster, start, end


def _belongs_to_the_character_before(ignorable: str) -> bool:
    return unicodedata.category(ignorable) == "Mn" or "\U000e0020" <= ignorable <= "\U000e007f"


def _continues(cluster: str, character: str) -> bool:
    """Whether a character belongs to the cluster before it: a mark, a later jamo, a skin tone, half a flag."""
    before = cluster[-1]
    if unicodedata.category(character)[0] == "M" or "\U0001f3fb" <= character <= "\U0001f3ff":
        return True
    jamo, earlier = _jamo(character), _jamo(before)
    if jamo == "L":
        return earlier == "L"
    if jamo == "V":
        return earlier in ("L", "V", "LV")
    if jamo == "T":
        return earlier in ("V", "T", "LV", "LVT")
    return _is_flag_half(character) and _is_flag_half(before) and sum(map(_is_flag_half, cluster)) % 2 == 1


def _is_flag_half(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _jamo(character: str) -> str:
    """The Hangul syllable type (UAX 29): L, V, T, LV, LVT, or nothing."""
    if "가" <= character <= "힣":
        return "LVT" if (ord(character) - 0xAC00) % 28 else "LV"
    if "\u1100" <= character <= "\u115f" or "\ua960" <= character <= "\ua97c":
        return "L"
    if "\u1160" <= character <= "\u11a7" or "\ud7b0" <= character <= "\ud7c6":
        return "V"
    if "\u11a8" <= character <= "\u11ff" or "\ud7cb" <= character <= "\ud7fb":
        return "T"
    return ""


@lru_cache(maxsize=4096)
def _kind(character: str) -> str:
    category = unicodedata.category(character)
    if character in _SPACE_CONTROLS or character in _BLANK_LETTERS or category[0] == "Z":
        return "space"
    if category in ("Cc", "Cf") or character in _IGNORABLE or _is_variation_selector(character):
        return "ignore"
    return "keep"


def _is_variation_selector(character: str) -> bool:
    return (
        "\ufe00" <= character <= "\ufe0f"
        or "\U000e0100" <= character <= "\U000e01ef"
        or "\u180b" <= character <= "\u180f"
    )


@lru_cache(maxsize=16384)
def _fold_short_cluster(cluster: str) -> str:
    return _fold_cluster(cluster)


def _fold_cluster(cluster: str) -> str:
    """The normal form of a cluster, which composing and folding no longer change."""
    while True:
        folded = unicodedata.normalize("NFC", cluster)
        folded = "".join([_fold(character) for character in folded])
        if folded == cluster:
            return folded
        cluster = folded


@lru_cache(maxsize=4096)
def _fold(character: str) -> str:
    """What NFKC makes of a composed character, but jamo as letters, and nothing that would add a space or a mark."""
    if "\ud800" <= character <= "\udfff":
        return "\ufffd"
    if "\u3131" <= character <= "\u318e":
        return character
    folded = "".join([_letter(part) for part in unicodedata.normalize("NFKC", character)])
    loose = any(_kind(part) != "keep" for part in folded) or unicodedata.category(folded[:1] or " ")[0] == "M"
    return character if loose else folded


def _letter(character: str) -> str:
    """The compatibility letter of a conjoining jamo that stands alone, where there is one: ᄏ is ㅋ."""
    if _jamo(character) not in ("L", "V", "T"):
        return character
    name = unicodedata.name(character, "")
    for prefix in _JAMO_NAMES:
        if name.startswith(prefix):
            try:
                return unicodedata.lookup("HANGUL LETTER " + name.removeprefix(prefix))
            except KeyError:
                return character
    return character
