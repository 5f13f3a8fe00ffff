"""Tags to spans: always whole, and the likeliest of those that are."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from worker.training.labels import KLUE, LabelledSpan, spans_of, tags_of
from worker.training.tagging import best_tags, trimmed

TAG = {tag: index for index, tag in enumerate(KLUE.tags)}


@given(st.integers(0, 10_000), st.integers(0, 12))
def test_no_inner_tag_stands_without_its_beginning(seed, length):
    tags = best_tags(np.random.default_rng(seed).normal(size=(length, len(KLUE.tags))).astype(np.float32), KLUE)
    names = [KLUE.tags[tag] for tag in tags]
    for before, after in zip(["O", *names], names, strict=False):
        assert not after.startswith("I-") or before[2:] == after[2:]
    assert tags_of(KLUE, length, spans_of(KLUE, tags)).tolist() == tags.tolist()


def test_a_weak_beginning_is_taken_for_a_strong_middle():
    logits = np.full((3, len(KLUE.tags)), -5, np.float32)
    logits[0, TAG["O"]], logits[0, TAG["B-PS"]] = 1, 0
    logits[1:, TAG["I-PS"]] = 4
    assert spans_of(KLUE, best_tags(logits, KLUE)) == [LabelledSpan(0, 3, "PS")]


def test_spans_lose_the_spaces_at_their_ends():
    assert trimmed(" 서울 ", [LabelledSpan(0, 4, "LC"), LabelledSpan(3, 4, "PS")]) == [LabelledSpan(1, 3, "LC")]
