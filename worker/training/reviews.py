"""Synthetic reviews: sentences as people type them under a film, with names and titles filled in."""

import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from random import Random
from typing import Any, Final

from worker.training.corpora import Sentence
from worker.training.labels import LabelledSpan
from worker.training.queries import QueryWords, draw_entity, ends_closed

_PLAIN: Final = 0.25  # how often a template holds no entity
_SLOT: Final = re.compile(r"\{([A-Z]+)(?::([가-힣]+))?\}")
_DIGITS: Final = dict(zip("0123456789", "영일이삼사오육칠팔구", strict=True))
_RIEUL: Final = 8  # the place of ㄹ among the final consonants
# After a final consonant, and after a vowel.
_PARTICLES: Final = {
    "가": ("이", "가"),
    "는": ("은", "는"),
    "를": ("을", "를"),
    "와": ("과", "와"),
    "랑": ("이랑", "랑"),
    "로": ("으로", "로"),
    "라": ("이라", "라"),
}


def make_reviews(words: QueryWords, count: int, random: Random) -> list[Sentence]:
    """`count` reviews with fine spans and no KLUE layer; nearly a quarter holds none."""
    table = tomllib.loads((files("worker.training") / "review_words.toml").read_text("utf-8"))
    return [_review(table, words, random) for _ in range(count)]


def _review(table: Mapping[str, Any], words: QueryWords, random: Random) -> Sentence:
    template = _template(table, random)
    if random.random() < 0.15:
        template += random.choice((" ", ". ", ", ", "  ")) + _template(table, random)
    typos = random.random() < 0.15
    squeezed = random.random() < 0.15
    text = random.choice(table["before"]) if random.random() < 0.2 else ""
    spans: list[LabelledSpan] = []
    at = 0
    for slot in _SLOT.finditer(template):
        text += _typed(template[at : slot.start()], table, random, typos, squeezed)
        name, particle = slot.groups()
        label, value = _drawn(name, table, words, random)
        spans.append(LabelledSpan(len(text), len(text) + len(value), label))
        text += value + (agreeing(value, particle) if particle else "")
        at = slot.end()
    text += _typed(template[at:], table, random, typos, squeezed)
    if random.random() < 0.35:
        text += random.choice(table["after"])
    return Sentence(text, tuple(spans), None)


def _template(table: Mapping[str, Any], random: Random) -> str:
    template: str = random.choice(table["plain" if random.random() < _PLAIN else "named"])
    return template


def _drawn(slot: str, table: Mapping[str, Any], words: QueryWords, random: Random) -> tuple[str, str]:
    """The label and the value of a slot."""
    own = table["amounts"].get(slot)
    return (own["label"], random.choice(own["values"])) if own else (slot, draw_entity(slot, words, random))


def agreeing(word: str, particle: str) -> str:
    """The particle, given as it is after a vowel, as it is after the word."""
    word = word[:-1] + _DIGITS.get(word[-1], word[-1])
    if particle == "로" and ends_closed(word) and (ord(word[-1]) - ord("가")) % 28 == _RIEUL:
        return particle
    return _PARTICLES.get(particle, (particle, particle))[not ends_closed(word)]


def _typed(text: str, table: Mapping[str, Any], random: Random, typos: bool, squeezed: bool) -> str:
    """Words between slots as they are typed in haste; two slots are never pushed together."""
    if typos:
        for right, wrong in table["typos"]:
            text = text.replace(right, wrong)
    if squeezed and text.strip():
        text = "".join(char for char in text if char != " " or random.random() < 0.4)
    return text
