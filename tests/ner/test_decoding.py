import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.ner.decoding import best_tags, decode
from worker.ner.tags import TagTable, Transitions

TAGS = ["O", "B-X", "I-X", "B-Y", "I-Y"]
TABLE = TagTable.of(TAGS, strict=True)
LEARNED = TagTable.of(
    TAGS,
    strict=True,
    transitions=Transitions(
        np.array([[-3, 1, 0.5], [2, -1, 0], [0.2, -0.7, 1]], np.float32), np.array([0.4, -1.5], np.float32)
    ),
)
both_tables = pytest.mark.parametrize("table", [TABLE, LEARNED], ids=["legal", "learned"])


def is_legal(path):
    return all(
        not TAGS[tag].startswith("I-") or (before is not None and TAGS[before][1:] == TAGS[tag][1:])
        for before, tag in itertools.pairwise([None, *path])
    )


def best_by_trying_all(logits):
    legal = filter(is_legal, itertools.product(range(len(TAGS)), repeat=len(logits)))
    return max(sum(logits[place][tag] for place, tag in enumerate(path)) for path in legal)


@st.composite
def batches(draw, widest=5, rows=3):
    lengths = draw(st.lists(st.integers(0, widest), min_size=1, max_size=rows))
    width = max(max(lengths), 1) + draw(st.integers(0, 2))
    seed = draw(st.integers(0, 2**32 - 1))
    logits = np.random.default_rng(seed).normal(0, 3, (len(lengths), width, len(TAGS))).astype(np.float32)
    return logits, np.array(lengths)


@given(batches())
@settings(max_examples=60)
def test_the_path_is_the_best_of_all_legal_ones(batch):
    logits, lengths = batch
    real = np.arange(logits.shape[1]) < lengths[:, None]
    chosen = best_tags(logits, real, TABLE)
    for row, length in enumerate(lengths):
        path = chosen[row, :length].tolist()
        assert is_legal(path)
        found = sum(logits[row, place, tag] for place, tag in enumerate(path))
        assert found == pytest.approx(best_by_trying_all(logits[row, :length]), abs=1e-4)


@both_tables
@given(batch=batches(widest=40, rows=8), data=st.data())
def test_spans_lie_inside_the_text_in_order_off_spaces_with_scores_of_probabilities(table, batch, data):
    logits, lengths = batch
    spaces = np.random.default_rng(data.draw(st.integers(0, 999))).random(logits.shape[:2]) < 0.3
    for row, spans in enumerate(decode(logits, lengths, table, spaces)):
        edges = [edge for span in spans for edge in (span.start, span.end)]
        assert edges == sorted(edges)
        assert all(0 <= span.start < span.end <= lengths[row] for span in spans)
        assert not any(spaces[row, span.start] or spaces[row, span.end - 1] for span in spans)
        assert all(0 <= span.score <= 1 and span.label in "XY" for span in spans)


@both_tables
@given(batch=batches(widest=12, rows=6), extra=st.integers(1, 9))
def test_neither_padding_nor_neighbours_change_a_text(table, batch, extra):
    logits, lengths = batch
    together = decode(logits, lengths, table)
    for row, length in enumerate(lengths):
        if length:
            assert decode(logits[row : row + 1, :length], lengths[row : row + 1], table)[0] == together[row]
    garbage = np.full((len(lengths), extra, len(TAGS)), np.nan, np.float32)
    wider = np.concatenate([logits, garbage], axis=1)
    real = np.arange(wider.shape[1]) < lengths[:, None]
    wider[~real] = np.nan
    assert decode(wider, lengths, table) == together


def test_score_is_the_mean_probability_of_the_tags():
    probabilities = np.array([[0.1, 0.8, 0.05, 0.03, 0.02], [0.2, 0.1, 0.6, 0.05, 0.05]], np.float32)
    (span,) = decode(np.log(probabilities)[None], np.array([2]), TABLE)[0]
    assert (span.start, span.end, span.label) == (0, 2, "X")
    assert span.score == pytest.approx(0.7)


def test_an_illegal_inside_is_joined_or_left_out_by_what_is_likelier():
    likely_name = np.array([[1.0, 0.9, -5, -5, -5], [-5, -5, 3.0, -5, -5]], np.float32)
    assert [(s.start, s.end) for s in decode(likely_name[None], np.array([2]), TABLE)[0]] == [(0, 2)]
    unlikely_name = np.array([[5.0, -5, -5, -5, -5], [0.9, -5, 1.0, -5, -5]], np.float32)
    assert decode(unlikely_name[None], np.array([2]), TABLE) == [[]]


def test_spaces_at_the_edges_are_trimmed_and_a_span_of_spaces_is_none():
    logits = np.full((1, 5, len(TAGS)), -9.0, np.float32)
    for place, tag in enumerate([1, 2, 2, 2, 3]):
        logits[0, place, tag] = 9.0
    spaces = np.array([[True, False, False, True, True]])
    assert [(s.start, s.end, s.label) for s in decode(logits, np.array([5]), TABLE, spaces)[0]] == [(1, 3, "X")]


def test_numbers_that_are_not_finite_are_an_error():
    logits = np.zeros((1, 3, len(TAGS)), np.float32)
    logits[0, 1, 2] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        decode(logits, np.array([3]), TABLE)


def test_an_empty_batch_and_empty_texts():
    assert decode(np.zeros((0, 4, 5), np.float32), np.zeros(0, np.int64), TABLE) == []
    assert decode(np.zeros((2, 1, 5), np.float32), np.zeros(2, np.int64), TABLE) == [[], []]


@both_tables
def test_scores_are_probabilities_where_the_likeliest_tags_are_illegal_and_the_others_hopeless(table):
    logits = np.full((1, 60, len(TAGS)), -5000.0, np.float32)
    logits[0, :, 2] = 5000.0
    logits[0, ::2, 4] = 5001.0
    (spans,) = decode(logits, np.array([60]), table)
    assert spans
    assert all(0 <= span.score <= 1 for span in spans)
