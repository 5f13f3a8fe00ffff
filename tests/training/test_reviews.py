"""Synthetic reviews: every span is what was drawn, particles agree, and the same seed makes the same reviews."""

import re
import tomllib
from importlib.resources import files
from random import Random

import pytest

from worker.training.labels import FINE, tags_of
from worker.training.queries import QueryWords
from worker.training.reviews import agreeing, make_reviews

NAMES = {
    "PER": ["갑돌쇠", "갑순희"],
    "WORK": ["푸른별밤", "붉은 모래"],
    "ORG": ["가나방송"],
    "LOC": ["다라섬"],
    "EVENT": ["마바잔치"],
    "PRODUCT": ["사아폰"],
}
TABLE = tomllib.loads((files("worker.training") / "review_words.toml").read_text("utf-8"))


@pytest.fixture(scope="module")
def words():
    return QueryWords(from_corpora={}, by_hand=NAMES, words={}, syllables="")


def test_spans_hold_exactly_what_was_drawn(words):
    for review in make_reviews(words, 3000, Random(1)):
        end = 0
        for span in review.fine:
            form = review.text[span.start : span.end]
            assert form == form.strip() != ""
            assert span.start >= end
            assert form in NAMES.get(span.label, [form])
            end = span.end
        starts = {span.start for span in review.fine}
        for names in NAMES.values():
            for name in names:
                assert {found.start() for found in re.finditer(re.escape(name), review.text)} <= starts
        assert len(tags_of(FINE, len(review.text), review.fine)) == len(review.text)
        assert review.klue is None


def test_every_label_is_asked_for(words):
    labels = {span.label for review in make_reviews(words, 5000, Random(2)) for span in review.fine}
    assert labels == {tag[2:] for tag in FINE.tags if tag.startswith("B-")}


def test_about_a_fifth_holds_nothing_and_people_and_works_come_most(words):
    reviews = make_reviews(words, 4000, Random(3))
    assert 0.15 < sum(not review.fine for review in reviews) / len(reviews) < 0.3
    labels = [span.label for review in reviews for span in review.fine]
    assert labels.count("PER") + labels.count("WORK") > len(labels) / 2


@pytest.mark.parametrize(
    ("word", "particle", "agrees"),
    [
        ("갑돌쇠", "가", "가"),
        ("푸른별밤", "가", "이"),
        ("푸른별밤", "를", "을"),
        ("사아폰", "로", "으로"),
        ("서울", "로", "로"),
        ("서울", "는", "은"),
        ("제주", "로", "로"),
        ("시즌 1", "는", "은"),
        ("시즌 2", "가", "가"),
        ("푸른별밤", "의", "의"),
    ],
)
def test_a_particle_agrees_with_the_last_syllable(word, particle, agrees):
    assert agreeing(word, particle) == agrees


def test_reviews_have_particles_that_agree(words):
    texts = " ".join(review.text for review in make_reviews(words, 4000, Random(4)))
    assert "갑돌쇠가" in texts
    assert "푸른별밤을" in texts
    assert not re.search("갑돌쇠(은|을) |푸른별밤(가|는|를) |시즌 1(가|는) ", texts)


def test_templates_are_many_and_plain_ones_have_no_slot():
    assert len(TABLE["named"]) + len(TABLE["plain"]) >= 170
    assert not [template for template in TABLE["plain"] if "{" in template]


def test_the_same_seed_makes_the_same_reviews(words):
    assert make_reviews(words, 50, Random(5)) == make_reviews(words, 50, Random(5))
    assert make_reviews(words, 50, Random(5)) != make_reviews(words, 50, Random(6))
