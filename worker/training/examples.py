"""Sentences as the network learns them: characters with a tag in each layer, noise, and batches of like length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from worker.training.corpora import Sentence
from worker.training.labels import FINE, KLUE, UNLABELLED, LabelledSpan, Tags, tags_of

Float16 = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Example:
    """A text and its tags; a layer that it isn't labelled in is UNLABELLED throughout."""

    text: str
    fine: Tags  # [C]
    klue: Tags  # [C]
    taught: tuple[Float16, ...] = ()  # a teacher's logits [C, tags] of each layer, if there is a teacher


@dataclass(frozen=True, slots=True)
class Noise:
    """How often each thing that people do to text is done to an example."""

    unspaced: float  # every space left out, or each with even odds
    repeated: float  # a letter or sign repeated
    unpunctuated: float  # final punctuation dropped
    lowered: float  # Latin letters in lower case


def example_of(sentence: Sentence, masked: Sequence[LabelledSpan] = ()) -> Example:
    """The example; characters in `masked` carry no fine label."""
    length = len(sentence.text)
    unlabelled = np.full(length, UNLABELLED, np.int16)
    fine = unlabelled if sentence.fine is None else tags_of(FINE, length, sentence.fine)
    klue = unlabelled if sentence.klue is None else tags_of(KLUE, length, sentence.klue)
    if masked:
        fine = fine.copy()
        for span in masked:
            fine[span.start : span.end] = UNLABELLED
    return Example(sentence.text, fine, klue)


def with_noise(example: Example, noise: Noise, random: Generator) -> Example:
    """The example as someone hastier would have typed it. Never empty."""
    text = example.text
    if random.random() < noise.lowered:
        lowered = text.lower()
        text = lowered if len(lowered) == len(text) else text
    times = np.ones(len(text), np.int64)
    if random.random() < noise.unspaced:
        share = 1.0 if random.random() < 0.4 else 0.5
        spaces = np.array([c == " " for c in text])
        times[spaces & (random.random(len(text)) < share)] = 0
    if random.random() < noise.unpunctuated:
        end = len(text.rstrip(".!?~ "))
        times[max(end, 1) :] = 0
    if random.random() < noise.repeated:
        signs = [i for i, c in enumerate(text) if c in ".!?~ㅋㅎㅠㅜ" or (c.isalpha() and random.random() < 0.03)]
        for place in signs:
            if example.fine[place] <= 0 and example.klue[place] <= 0:
                times[place] *= int(random.integers(1, 5))
    if (times == 1).all():
        return example if text is example.text else replace(example, text=text)
    if not times.any():
        return example
    places = np.repeat(np.arange(len(text)), times)
    taught = tuple(logits[places] for logits in example.taught)
    return Example("".join(text[i] for i in places), example.fine[places], example.klue[places], taught)


def batches(lengths: Sequence[int], characters: int, rows: int, random: Generator) -> Iterator[list[int]]:
    """Indices in batches of at most `rows` texts and `characters` characters, padding counted, of like lengths.

    Order is random, so is the composition: lengths are sorted with some jitter. A longer text is a batch of its own.
    """
    jittered = np.asarray(lengths) * random.uniform(0.85, 1.15, len(lengths))
    made: list[list[int]] = []
    batch: list[int] = []
    longest = 0
    for index in np.argsort(jittered, kind="stable").tolist():
        longest = max(longest, lengths[index])
        if batch and (len(batch) == rows or (len(batch) + 1) * longest > characters):
            made.append(batch)
            batch, longest = [], lengths[index]
        batch.append(index)
    if batch:
        made.append(batch)
    for place in random.permutation(len(made)):
        yield made[place]
