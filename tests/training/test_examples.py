"""Examples keep a tag for every character through noise, and batches keep within their limits."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from training_corpus import spans_of

from worker.training.corpora import Sentence
from worker.training.examples import Noise, batches, example_of, with_noise
from worker.training.labels import FINE, KLUE, UNLABELLED, LabelledSpan

LOUD = Noise(unspaced=1, repeated=1, unpunctuated=1, lowered=1)
SENTENCE = Sentence(
    "이병헌의 JSA 정말 재밌다ㅋㅋ!!",
    (LabelledSpan(0, 3, "PER"), LabelledSpan(5, 8, "WORK")),
    (LabelledSpan(0, 3, "PS"),),
)


def test_noise_leaves_names_whole():
    for seed in range(50):
        noisy = with_noise(example_of(SENTENCE), LOUD, np.random.default_rng(seed))
        assert len(noisy.text) == len(noisy.fine) == len(noisy.klue)
        fine = [(noisy.text[s.start : s.end], s.label) for s in spans_of(FINE, noisy.fine)]
        klue = [(noisy.text[s.start : s.end], s.label) for s in spans_of(KLUE, noisy.klue)]
        assert fine == [("이병헌", "PER"), ("jsa", "WORK")]
        assert klue == [("이병헌", "PS")]
        assert not noisy.text.endswith("!")


def test_noise_makes_of_a_text_something_else_but_never_nothing():
    for text in ("!!!", " ", "아"):
        noisy = with_noise(example_of(Sentence(text, (), None)), LOUD, np.random.default_rng(0))
        assert noisy.text != ""


def test_a_layer_without_labels_is_left_out_of_the_loss():
    example = example_of(Sentence("영화 괴물", (LabelledSpan(3, 5, "WORK"),), None), [LabelledSpan(0, 2, "")])
    assert (example.klue == UNLABELLED).all()
    assert (example.fine[:2] == UNLABELLED).all()
    assert example.fine[2] == 0
    assert (example.fine[3:] > 0).all()


@given(
    lengths=st.lists(st.integers(1, 300), max_size=60),
    characters=st.integers(50, 600),
    rows=st.integers(1, 16),
    seed=st.integers(0, 9),
)
def test_batches_hold_every_text_once_within_the_limits(lengths, characters, rows, seed):
    made = list(batches(lengths, characters, rows, np.random.default_rng(seed)))
    assert sorted(index for batch in made for index in batch) == list(range(len(lengths)))
    for batch in made:
        assert len(batch) <= rows
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= characters
