"""A model folder small enough for tests: random weights, the real format, ONNX file included."""

from pathlib import Path

import torch

from worker.ner.network import CharacterTagger, EncoderShape, HeadShape, write_revision
from worker.training.base import SPECIALS, tokenizer_of
from worker.training.export import export_onnx
from worker.training.labels import LAYERS

CHARACTERS = " 이병헌은의를가나다라마바사아자차카타파하영화좋아요서울부산만원년월일시2019abcXYZ.,!?ㅋㅠ"


def make_model_folder(path: Path, *, seed: int = 0, max_pieces: int = 64, hidden: int = 32, layers: int = 2) -> Path:
    """Write a model folder at `path` and return it; the same weights, so the same spans, for the same seed."""
    torch.manual_seed(seed)
    characters = "".join(dict.fromkeys(CHARACTERS))
    pieces = [*SPECIALS, "▁", "▁영화", "▁이", "병헌", "은", *(c for c in characters if c not in " 은")]
    tokenizer = tokenizer_of(pieces, [-1.0 - 0.01 * i for i in range(len(pieces))])
    shape = EncoderShape(len(pieces), hidden, layers, 2, 2 * hidden, max_pieces)
    model = CharacterTagger(shape, HeadShape(16, len(characters) + 2, 4, 8), LAYERS)
    with torch.no_grad():  # far enough apart that random weights do find spans, and the engines agree on them
        for classifier in model.classifiers:
            classifier.weight.mul_(5)
    model.save(path, name="tiny", tokenizer_json=tokenizer.to_str(), characters=characters, trained_on={})
    export_onnx(path)
    write_revision(path)
    return path
