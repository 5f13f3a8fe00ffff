"""Texts to spans by a tagger in hand: what training and its evaluation use, without the product's engines."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from worker.ner.encoding import CharacterEncoder, Int64
from worker.ner.network import CharacterTagger, LabelLayer
from worker.training.evaluation import Predict
from worker.training.labels import LabelledSpan, spans_of

Logits = NDArray[np.float32]
Forward = Callable[[dict[str, Int64]], Sequence[Logits]]
"""A collated batch to the logits of each label layer."""

_BATCH = 24


def torch_forward(model: CharacterTagger) -> Forward:
    """The tagger in evaluation mode, on its own device."""

    def forward(batch: dict[str, Int64]) -> list[Logits]:
        device = next(model.parameters()).device
        model.eval()
        with torch.inference_mode():
            logits = model(**{name: torch.from_numpy(array).to(device) for name, array in batch.items()})
        return [layer.float().cpu().numpy() for layer in logits]

    return forward


def predictor(forward: Forward, encoder: CharacterEncoder, layers: Sequence[LabelLayer], layer: int) -> Predict:
    """Spans of one label layer, by the most likely tags that make a whole: no `I-` but after its own label.

    Texts must fit the model's positions.
    """

    def predict(texts: Sequence[str]) -> list[list[LabelledSpan]]:
        found: list[list[LabelledSpan]] = [[] for _ in texts]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), _BATCH):
            indices = order[start : start + _BATCH]
            batch = encoder.collate(encoder.encode([texts[i] for i in indices]))
            for index, logits in zip(indices, forward(batch)[layer], strict=True):
                tags = best_tags(logits[: len(texts[index])], layers[layer])
                found[index] = trimmed(texts[index], spans_of(layers[layer], tags))
        return found

    return predict


def best_tags(logits: Logits, layer: LabelLayer) -> NDArray[np.int64]:
    """Viterbi over [C, tags] with one rule: `I-X` follows `B-X` or `I-X`. Returns [C]."""
    allowed = np.zeros((len(layer.tags), len(layer.tags)), np.float32)
    for to, tag in enumerate(layer.tags):
        if tag.startswith("I-"):
            allowed[:, to] = -np.inf
            allowed[[layer.tags.index(f"B-{tag[2:]}"), to], to] = 0
    if not len(logits):
        return np.zeros(0, np.int64)
    score = np.where([tag.startswith("I-") for tag in layer.tags], -np.inf, logits[0])
    came_from = np.zeros(logits.shape, np.int64)
    for place in range(1, len(logits)):
        ways = score[:, None] + allowed
        came_from[place] = ways.argmax(axis=0)
        score = ways.max(axis=0) + logits[place]
    tags = np.zeros(len(logits), np.int64)
    tags[-1] = score.argmax()
    for place in range(len(logits) - 1, 0, -1):
        tags[place - 1] = came_from[place, tags[place]]
    return tags


def trimmed(text: str, spans: Sequence[LabelledSpan]) -> list[LabelledSpan]:
    """The spans without white space at their ends; none that is only that."""
    kept = []
    for span in spans:
        form = text[span.start : span.end]
        start = span.start + len(form) - len(form.lstrip())
        end = span.end - (len(form) - len(form.rstrip()))
        if start < end:
            kept.append(LabelledSpan(start, end, span.label))
    return kept
