"""Synthetic queries: every span is exact, and the same seed makes the same queries."""

from random import Random

import pytest

from worker.training.corpora import Sentence
from worker.training.labels import FINE, LabelledSpan, tags_of
from worker.training.projection import Forms
from worker.training.queries import gather_words, make_queries


@pytest.fixture(scope="module")
def words():
    counts = {"김연아": {"PER": 5}, "괴물": {"WORK": 5, "": 1}, "멜로": {"WORK": 5}, "하나": {"ORG": 1, "": 9}}
    forms = Forms(counts, {form: sum(labels.values()) for form, labels in counts.items()}, 10)
    tagged = Sentence("옥자 봉준호", (LabelledSpan(0, 2, "WORK"), LabelledSpan(3, 6, "PER")), None)
    return gather_words(forms, [tagged], {"옥자"})


def test_names_come_from_the_corpora_but_plain_words_do_not(words):
    assert words.from_corpora["PER"] == ["김연아", "봉준호"]
    assert words.from_corpora["WORK"] == ["괴물", "옥자"]
    assert words.from_corpora["ORG"] == []


def test_spans_are_clean_and_apart(words):
    for query in make_queries(words, 2000, Random(1)):
        end = 0
        for span in query.fine:
            form = query.text[span.start : span.end]
            assert form == form.strip() != ""
            assert span.start >= end
            end = span.end
        assert len(tags_of(FINE, len(query.text), query.fine)) == len(query.text)
        assert query.klue is None


def test_a_limit_is_outside_the_sum(words):
    sums = [
        query.text[span.start : span.end]
        for query in make_queries(words, 2000, Random(2))
        for span in query.fine
        if span.label == "MONEY"
    ]
    assert len(sums) > 50
    assert not [form for form in sums if form.endswith(("이하", "미만", "이상"))]


def test_every_label_is_asked_for(words):
    labels = {span.label for query in make_queries(words, 2000, Random(3)) for span in query.fine}
    assert labels == {tag[2:] for tag in FINE.tags if tag.startswith("B-")}


def test_the_same_seed_makes_the_same_queries(words):
    assert make_queries(words, 50, Random(4)) == make_queries(words, 50, Random(4))
    assert make_queries(words, 50, Random(4)) != make_queries(words, 50, Random(5))
