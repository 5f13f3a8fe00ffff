"""The CRF's likelihood against every path tried, and its best path against the decoder's."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.ner.decoding import best_tags, decode
from worker.ner.tags import TagTable, Transitions
from worker.training.labels import UNLABELLED
from worker.training.likelihood import Lattice, negative_log_likelihood

TAGS = ["O", "B-X", "I-X", "B-Y", "I-Y"]
OUTSIDE = 2  # the last state, after X and Y


def paths(length):
    """All legal ones."""
    for path in itertools.product(range(len(TAGS)), repeat=length):
        names = ["O", *(TAGS[tag] for tag in path)]
        if all(not now.startswith("I-") or before[1:] == now[1:] for before, now in itertools.pairwise(names)):
            yield path


def worth(path, logits, moves, stays):
    state, total = OUTSIDE, 0.0
    for place, tag in enumerate(path):
        now = "XY".index(TAGS[tag][2]) if tag else OUTSIDE
        total += logits[place, tag] + (stays[now] if TAGS[tag].startswith("I-") else moves[state, now])
        state = now
    return total + moves[state, OUTSIDE]


@st.composite
def batches(draw):
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width = max(lengths) + draw(st.integers(0, 2))
    logits = random.normal(0, 2, (len(lengths), width, len(TAGS))).astype(np.float32)
    moves, stays = random.normal(0, 2, (3, 3)).astype(np.float32), random.normal(0, 2, 2).astype(np.float32)
    return lengths, random, logits, moves, stays


@given(batches())
@settings(max_examples=60)
def test_the_likelihood_is_that_of_the_paths_that_agree_among_all_legal_ones(batch):
    lengths, random, logits, moves, stays = batch
    targets = np.full(logits.shape[:2], UNLABELLED)
    expected = 0.0
    for row, length in enumerate(lengths):
        legal = list(paths(length))
        shown = random.random(length) < 0.6
        if row == 0:
            shown[0] = True
        targets[row, :length] = np.where(shown, legal[random.integers(len(legal))], UNLABELLED)
        agreeing = [path for path in legal if all(path[n] == targets[row, n] for n in np.flatnonzero(shown))]
        every, those = (
            np.logaddexp.reduce([worth(path, logits[row], moves, stays) for path in some]) for some in (legal, agreeing)
        )
        expected += every - those
    real = np.arange(logits.shape[1]) < np.array(lengths)[:, None]
    logits[~real] = 99  # padding, which nothing should come from
    lattice = Lattice(*map(torch.from_numpy, (logits, real, moves, stays)), TagTable.of(TAGS, strict=True))
    found = negative_log_likelihood(lattice, torch.from_numpy(targets))
    assert float(found) == pytest.approx(expected / (targets != UNLABELLED).sum(), abs=1e-3)


@given(batches())
@settings(max_examples=60)
def test_a_tags_probability_is_that_of_the_paths_that_take_it(batch):
    lengths, _, logits, moves, stays = batch
    real = np.arange(logits.shape[1]) < np.array(lengths)[:, None]
    logits[~real] = 99
    lattice = Lattice(*map(torch.from_numpy, (logits, real, moves, stays)), TagTable.of(TAGS, strict=True))
    found = lattice.log_probabilities().exp().numpy()
    for row, length in enumerate(lengths):
        legal = list(paths(length))
        worths = np.array([worth(path, logits[row], moves, stays) for path in legal])
        likely = np.exp(worths - np.logaddexp.reduce(worths))
        expected = np.zeros((length, len(TAGS)))
        for path, probability in zip(legal, likely, strict=True):
            expected[np.arange(length), path] += probability
        np.testing.assert_allclose(found[row, :length], expected, atol=1e-3)


@given(batches())
@settings(max_examples=60)
def test_the_decoders_scores_are_the_same_probabilities(batch):
    lengths, _, logits, moves, stays = batch
    width = logits.shape[1]
    real = np.arange(width) < np.array(lengths)[:, None]
    table = TagTable.of(TAGS, strict=True, transitions=Transitions(moves, stays))
    lattice = Lattice(*map(torch.from_numpy, (logits, real, moves, stays)), table)
    likely = lattice.log_probabilities().exp().numpy()
    chosen = best_tags(logits, real, table)
    for row, spans in enumerate(decode(logits, np.array(lengths), table)):
        for span in spans:
            places = np.arange(span.start, span.end)
            assert span.score == pytest.approx(likely[row, places, chosen[row, places]].mean(), abs=1e-4)


@given(batches(), st.sampled_from([0, 4, 8, 12]))
@settings(max_examples=100)
def test_the_decoder_finds_the_likeliest_path(batch, lead):
    lengths, _, logits, moves, stays = batch
    logits[:, :, 0] += lead  # of outside, which is then the likeliest throughout in some texts
    real = np.arange(logits.shape[1]) < np.array(lengths)[:, None]
    chosen = best_tags(logits, real, TagTable.of(TAGS, strict=True, transitions=Transitions(moves, stays)))
    for row, length in enumerate(lengths):
        best = max(worth(path, logits[row], moves, stays) for path in paths(length))
        assert worth(chosen[row, :length], logits[row], moves, stays) == pytest.approx(best, abs=1e-3)


def test_gradients_are_finite_where_labels_are_all_but_impossible():
    logits = torch.full((1, 3, 5), -60.0)
    logits[0, :, 0] = 60.0
    moves, stays = torch.zeros(3, 3, requires_grad=True), torch.zeros(2, requires_grad=True)
    targets = torch.tensor([[1, 2, UNLABELLED]])
    real = torch.ones(1, 3, dtype=torch.bool)
    loss = negative_log_likelihood(Lattice(logits, real, moves, stays, TagTable.of(TAGS, strict=True)), targets)
    loss.backward()
    assert float(loss.detach()) > 100
    assert moves.grad.isfinite().all()
    assert stays.grad.isfinite().all()
