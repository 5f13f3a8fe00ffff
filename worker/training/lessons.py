"""What texts teach a model that is trained further: its own probabilities as it was, and the marks of a new label.

What the texts don't mark, the model as it was goes on to decide: its probabilities are the targets (knowledge
distillation, Hinton et al. 2015). On texts that nobody marked, a new label is neither taught nor forbidden: its
probability counts as that of "outside", as in Cermelli et al. 2020, "Modeling the Background for Incremental Learning".
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.ner.decoding import decode
from worker.ner.layers import LabelLayer
from worker.training.labels import LabelledSpan, tags_of
from worker.training.own_lines import OwnText
from worker.training.start import Start
from worker.training.tagging import torch_forward

Float32 = NDArray[np.float32]

_MARK: Final = 3.0  # weight of a marked character; the others have 1
_ABSENCE: Final = 0.3  # weight of a new label's absence in texts that nobody marked; 1 in those that are marked
_LEAST: Final = 0.05  # of the old model's probability that is left for the labels not marked, to be scaled up
_ROWS: Final = 16  # texts that the old model reads at once


@dataclass(frozen=True, slots=True)
class Labels:
    """The layer that is taught, with the tags it will have, and which labels are marked and new."""

    number: int  # of the layer
    wide: LabelLayer  # the tags of new labels come last
    marked: tuple[str, ...]
    new: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lesson:
    """A text and what is to be learned from it."""

    text: str
    targets: tuple[Float32, ...]  # [C, tags] probabilities for each layer; all zero where nothing is taught
    marked: bool  # whether where a new label stands is known
    closed: Float32  # [C] where it isn't: the weight of its absence


def lessons_of(
    begun: Start, texts: Sequence[OwnText], labels: Labels, forms_of: Sequence[OwnText] = ()
) -> Iterator[Lesson]:
    """What each text teaches, by the model as it was and by the marks.

    Where a new label's form, out of these texts or `forms_of`, stands unmarked in a text that nobody marked, it may be
    that label.
    """
    forward = torch_forward(begun.model)
    table = begun.model.tag_table(labels.number)
    forms = {
        own.text[span.start : span.end]
        for own in (*texts, *forms_of)
        for span in own.spans or ()
        if span.label in labels.new
    }
    known = re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True)))) if forms else None
    order = sorted(range(len(texts)), key=lambda index: len(texts[index].text))
    for at in range(0, len(order), _ROWS):
        batch = [texts[index] for index in order[at : at + _ROWS]]
        logits = forward(begun.encoder.collate(begun.encoder.encode([own.text for own in batch])))
        lengths = np.array([len(own.text) for own in batch])
        found = decode(logits[labels.number], lengths, table)
        for row, own in enumerate(batch):
            targets = [_softmax(layer[row, : len(own.text)]) for layer in logits]
            spans = [LabelledSpan(span.start, span.end, span.label) for span in found[row]]
            targets[labels.number] = _target(targets[labels.number], own, spans, labels)
            closed = np.full(len(own.text), _ABSENCE if own.spans is None else 0, np.float32)
            for place in known.finditer(own.text) if known else ():
                closed[place.start() : place.end()] = 0
            yield Lesson(own.text, tuple(targets), own.spans is not None, closed)


def _target(old: Float32, own: OwnText, found: Sequence[LabelledSpan], labels: Labels) -> Float32:
    target = np.zeros((len(old), len(labels.wide.tags)), np.float32)
    target[:, : old.shape[1]] = old
    if own.spans is None:
        return target
    of_marked = [index for index, tag in enumerate(labels.wide.tags) if tag[2:] in labels.marked]
    target[:, of_marked] = 0
    left = target.sum(axis=1)
    target[left < _LEAST] = np.eye(len(labels.wide.tags), dtype=np.float32)[labels.wide.tags.index("O")]
    target[left >= _LEAST] /= left[left >= _LEAST, None]
    for span in found:  # what a mark cuts off an old span is neither inside nor outside
        if any(mark.start < span.end and span.start < mark.end for mark in own.spans):
            target[span.start : span.end] = 0
    tags = tags_of(labels.wide, len(old), own.spans)
    hard = np.flatnonzero(tags)
    target[hard] = 0
    target[hard, tags[hard]] = _MARK
    return target


def _softmax(logits: Float32) -> Float32:
    likely = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return cast(Float32, likely / likely.sum(axis=-1, keepdims=True))


def loss_of(begun: Start, batch: Sequence[Lesson], labels: Labels) -> Tensor:
    """The cross-entropy with the targets, a mean over characters for each layer, all layers summed."""
    arrays = begun.encoder.collate(begun.encoder.encode([lesson.text for lesson in batch]))
    device = next(begun.model.parameters()).device
    logits = begun.model(**{name: torch.from_numpy(array).to(device) for name, array in arrays.items()})
    marked = torch.from_numpy(np.repeat([one.marked for one in batch], [len(one.text) for one in batch])).to(device)
    first_new = len(labels.wide.tags) - 2 * len(labels.new)
    losses = []
    for place, layer in enumerate(logits):
        found = torch.cat([layer[row, : len(lesson.text)] for row, lesson in enumerate(batch)]).log_softmax(-1)
        wanted = torch.from_numpy(np.concatenate([lesson.targets[place] for lesson in batch])).to(device)
        if place == labels.number and labels.new:
            outside = labels.wide.tags.index("O")
            open_outside = torch.cat([found[:, outside : outside + 1], found[:, first_new:]], dim=1).logsumexp(-1)
            either = torch.where(marked, found[:, outside], open_outside)
            absent = found[:, :first_new].logsumexp(-1)
            closed = torch.from_numpy(np.concatenate([lesson.closed for lesson in batch])).to(device)
            losses.append(-(closed * absent).mean())
            found = torch.cat([found[:, :outside], either.unsqueeze(1), found[:, outside + 1 :]], dim=1)
        losses.append(-(wanted * found).sum() / max(len(found), 1))
    return torch.stack(losses).sum()
