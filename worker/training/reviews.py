"""Synthetic reviews: sentences as people type them under a film, with names and titles filled in."""

import re
import tomllib
from importlib.resources import files
from random import Random
from typing import Any, Final

from worker.training.corpora import Sentence
from worker.training.labels import LabelledSpan
from worker.training.queries import QueryWords, draw_entity, ends_closed

_SLOT: Final = re.compile(r"\{([A-Z]+)(?::([가-힣]+))?\}")
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
    """`count` reviews with fine spans and no KLUE layer; about one in six holds none."""
    table = tomllib.loads((files("worker.training") / "review_words.toml").read_text("utf-8"))
    return [_review(table, words, random) for _ in range(count)]


def _review(table: dict[str, Any], words: QueryWords, random: Random) -> Sentence:
    template = random.choice(table["templates"])
    if random.random() < 0.15:
        template += random.choice((" ", ". ", ", ")) + random.choice(table["templates"])
    text = random.choice(table["before"]) if random.random() < 0.2 else ""
    spans: list[LabelledSpan] = []
    at = 0
    for slot in _SLOT.finditer(template):
        text += template[at : slot.start()]
        label, particle = slot.groups()
        value = random.choice(table["QUANTITY"]) if label == "QUANTITY" else draw_entity(label, words, random)
        spans.append(LabelledSpan(len(text), len(text) + len(value), label))
        text += value
        if particle:
            text += _PARTICLES.get(particle, (particle, particle))[not ends_closed(value)]
        at = slot.end()
    text += template[at:]
    if random.random() < 0.35:
        text += random.choice(table["after"])
    return Sentence(text, tuple(spans), None)
