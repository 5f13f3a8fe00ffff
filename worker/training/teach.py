"""A teacher's labels for a student to learn: logits for every character, from the teacher's int8 ONNX file."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from worker.ner.encoding import CharacterEncoder
from worker.training.examples import Example
from worker.training.export import onnx_forward

_CHARACTERS: Final = 900  # in a batch, padding counted


def teacher_of(folder: Path) -> Callable[[Sequence[Example]], list[Example]]:
    """A function from examples to the same ones with the logits of the model folder, as float16."""
    encoder, forward = CharacterEncoder.from_folder(folder), onnx_forward(folder)

    def teach(examples: Sequence[Example]) -> list[Example]:
        taught = list(examples)
        order = sorted(range(len(examples)), key=lambda i: len(examples[i].text))
        at = 0
        while at < len(order):
            end = at + 1
            while end < len(order) and (end + 1 - at) * len(examples[order[end]].text) <= _CHARACTERS:
                end += 1
            indices = order[at:end]
            texts = [examples[i].text for i in indices]
            logits = forward(encoder.collate(encoder.encode(texts)))
            for row, i in enumerate(indices):
                of_layers = tuple(layer[row, : len(texts[row])].astype(np.float16) for layer in logits)
                taught[i] = replace(examples[i], taught=of_layers)
            at = end
        return taught

    return teach
