"""Teachers' labels for a student to learn: logits for every character, from the teachers' int8 ONNX files.

Those of a CRF are the logarithms of its probabilities, whose softmax they are.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from worker.ner.encoding import CharacterEncoder
from worker.ner.model_config import read_config
from worker.ner.network import ONNX_WEIGHTS
from worker.ner.tags import TagTable
from worker.training.examples import Example, Float16
from worker.training.export import onnx_forward
from worker.training.labels import UNLABELLED
from worker.training.likelihood import Lattice
from worker.training.tagging import Logits

_CHARACTERS: Final = 900  # in a batch, padding counted
_LEAST: Final = 1e-7  # probability
Labels = dict[str, tuple[Float16, ...]]  # text -> logits [C, tags] of each layer
TAUGHT: Final = "taught.npz"


def teacher_of(
    folders: Sequence[Path], kept: Path, doubt: float = 0.0, progress: Callable[[float], None] = lambda part: None
) -> Callable[[Sequence[Example]], list[Example]]:
    """A function from examples to the same ones with the logits of a model folder, as float16.

    Those of several models are the logarithms of the mean of their probabilities. A fine label to which the teachers
    give a probability below `doubt` is left out of the loss. The logits are kept in `TAUGHT` in the folder `kept`, so
    that the same teachers label no text twice. `progress` gets the part of a teacher's texts that is done.
    """

    def teach(examples: Sequence[Example]) -> list[Example]:
        files = [folder / name for folder in folders for name in (ONNX_WEIGHTS, "config.json")]
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
        labels = _read(kept / TAUGHT, digest)
        missing = sorted({example.text for example in examples} - labels.keys(), key=lambda text: (len(text), text))
        if missing:
            by_teacher = [_label(folder, missing, progress) for folder in folders]
            labels |= {text: _mean([found[text] for found in by_teacher]) for text in missing}
            _write(kept / TAUGHT, digest, labels)
        taught = [replace(example, taught=labels[example.text]) for example in examples]
        return [without_doubtful(example, doubt) for example in taught] if doubt else taught

    return teach


def without_doubtful(example: Example, doubt: float) -> Example:
    """The example without the fine labels that its teachers give a lower probability than `doubt`."""
    logits = example.taught[0].astype(np.float32)
    likely = np.exp(logits - logits.max(axis=1, keepdims=True))
    likely /= likely.sum(axis=1, keepdims=True)
    labelled = example.fine != UNLABELLED
    given = likely[np.arange(len(logits)), np.where(labelled, example.fine, 0)]
    return replace(example, fine=np.where(labelled & (given < doubt), np.int16(UNLABELLED), example.fine))


def _mean(of_teachers: Sequence[tuple[Float16, ...]]) -> tuple[Float16, ...]:
    """The logarithms of the mean probabilities, for each layer; the logits themselves of one teacher alone."""
    if len(of_teachers) == 1:
        return of_teachers[0]
    means = []
    for layers in zip(*of_teachers, strict=True):
        logits = np.stack(layers).astype(np.float32)
        likely = np.exp(logits - logits.max(axis=-1, keepdims=True))
        likely /= likely.sum(axis=-1, keepdims=True)
        means.append(np.log(likely.mean(axis=0).clip(min=_LEAST)).astype(np.float16))
    return tuple(means)


def _label(folder: Path, texts: Sequence[str], progress: Callable[[float], None]) -> Labels:
    """The logits of each text; texts of like length should stand together."""
    encoder, forward = CharacterEncoder.from_folder(folder), onnx_forward(folder)
    layers = list(read_config(folder).layers.values())
    labels: Labels = {}
    at = 0
    while at < len(texts):
        end = at + 1
        while end < len(texts) and (end + 1 - at) * len(texts[end]) <= _CHARACTERS:
            end += 1
        batch = texts[at:end]
        lengths = np.array([len(text) for text in batch])
        found = forward(encoder.collate(encoder.encode(batch)))
        logits = [_as_probabilities(of_layer, lengths, tags) for of_layer, tags in zip(found, layers, strict=True)]
        for row, text in enumerate(batch):
            labels[text] = tuple(layer[row, : len(text)].astype(np.float16) for layer in logits)
        at = end
        progress(at / len(texts))
    return labels


def _as_probabilities(logits: Logits, lengths: NDArray[np.int64], tags: TagTable) -> Logits:
    """Logits [B, C, K] whose softmax is the probability of each tag: of a CRF, not the ones it gives."""
    if not tags.transitions.any:
        return logits
    real = np.arange(logits.shape[1]) < lengths[:, None]
    moves, stays = torch.from_numpy(tags.transitions.moves), torch.from_numpy(tags.transitions.stays)
    lattice = Lattice(torch.from_numpy(logits), torch.from_numpy(real), moves, stays, tags)
    found: Logits = lattice.log_probabilities().numpy()
    return found


def _write(path: Path, digest: str, labels: Labels) -> None:
    layers = {f"layer{n}": np.concatenate(of_layer) for n, of_layer in enumerate(zip(*labels.values(), strict=True))}
    with path.with_suffix(".new").open("wb") as file:
        np.savez(file, allow_pickle=False, digest=np.array(digest), texts=np.array("\n".join(labels)), **layers)
    path.with_suffix(".new").replace(path)


def _read(path: Path, digest: str) -> Labels:
    """What `_write` wrote for the same teacher; nothing if there is no such file."""
    if not path.exists():
        return {}
    with np.load(path) as stored:
        if str(stored["digest"]) != digest:
            return {}
        texts = str(stored["texts"]).split("\n")
        ends = np.cumsum([len(text) for text in texts])[:-1]
        layers = [np.split(stored[name], ends) for name in sorted(stored.files) if name.startswith("layer")]
    return dict(zip(texts, zip(*layers, strict=True), strict=True))
