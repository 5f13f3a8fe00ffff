"""The tagger as an int8 ONNX file, and as a function that runs it."""

import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from worker.ner.encoding import Int64
from worker.ner.network import ONNX_WEIGHTS, CharacterTagger
from worker.training.tagging import Forward, Logits

_OPSET: Final = 18
_PIECES: Final = ("input_ids", "attention_mask")
_CHARACTERS: Final = ("piece_of", "characters", "place_in_piece", "place_in_word")


def export_onnx(folder: Path) -> Path:
    """Write `model.int8.onnx` into a model folder, from the weights in it; returns its path.

    Dynamic int8 of the matrix products and embedding tables, a scale per output channel. Convolutions stay in float:
    ONNX Runtime's int8 ones are slower.
    """
    model = CharacterTagger.from_folder(folder)
    # The mask as plain arithmetic: a graph that takes any batch and any length.
    model.encoder.set_attn_implementation("eager")
    batch, pieces, characters = 2, 5, 7
    inputs = {name: torch.ones(batch, pieces, dtype=torch.int64) for name in _PIECES}
    inputs |= {name: torch.ones(batch, characters, dtype=torch.int64) for name in _CHARACTERS}
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "model.onnx"
        torch.onnx.export(
            model,
            tuple(inputs.values()),
            str(whole),
            input_names=list(inputs),
            output_names=[layer.name for layer in model.layers],
            dynamic_axes={
                **{name: {0: "batch", 1: "pieces"} for name in _PIECES},
                **{name: {0: "batch", 1: "characters"} for name in _CHARACTERS},
                **{layer.name: {0: "batch", 1: "characters"} for layer in model.layers},
            },
            opset_version=_OPSET,
            dynamo=False,
        )
        quantize_dynamic(
            whole,
            folder / ONNX_WEIGHTS,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
    return folder / ONNX_WEIGHTS


def onnx_forward(folder: Path, threads: int = 0) -> Forward:
    """A model folder's ONNX file on the CPU; `threads` 0 takes a thread per core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(folder / ONNX_WEIGHTS, options, providers=["CPUExecutionProvider"])

    def forward(batch: dict[str, Int64]) -> list[Logits]:
        return [np.asarray(logits) for logits in session.run(None, batch)]

    return forward
