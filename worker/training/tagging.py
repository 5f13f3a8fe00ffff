"""Texts to spans by a tagger in hand: what training and its evaluation use, without the product's engines."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from worker.ner.decoding import decode
from worker.ner.encoding import CharacterEncoder, Int64
from worker.ner.network import CharacterTagger
from worker.ner.tags import TagTable
from worker.training.evaluation import Predict
from worker.training.labels import LabelledSpan

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


def predictor(forward: Forward, encoder: CharacterEncoder, layer: int, tags: TagTable) -> Predict:
    """Spans of a label layer, whose tags are `tags`, decoded as engines do. Texts must fit the model's positions."""

    def predict(texts: Sequence[str]) -> list[list[LabelledSpan]]:
        found: list[list[LabelledSpan]] = [[] for _ in texts]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), _BATCH):
            indices = order[start : start + _BATCH]
            batch = encoder.collate(encoder.encode([texts[i] for i in indices]))
            logits = forward(batch)[layer]
            lengths = np.array([len(texts[i]) for i in indices])
            spaces = np.zeros(logits.shape[:2], bool)
            for row, i in enumerate(indices):
                spaces[row, : lengths[row]] = [character.isspace() for character in texts[i]]
            for i, spans in zip(indices, decode(logits, lengths, tags, spaces), strict=True):
                found[i] = [LabelledSpan(span.start, span.end, span.label) for span in spans]
        return found

    return predict
