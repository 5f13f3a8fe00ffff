"""The tagger as an int8 ONNX file, and as a function that runs it."""

import logging
import tempfile
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from worker.ner.encoding import Int64
from worker.ner.network import ONNX_WEIGHTS, CharacterTagger
from worker.ner.onnx_engine import cpu_session
from worker.training.tagging import Forward, Logits

_OPSET: Final = 18
_PIECES: Final = ("input_ids", "attention_mask")
_CHARACTERS: Final = ("piece_of", "characters", "place_in_piece", "place_in_word")


def export_onnx(folder: Path) -> Path:
    """Write `model.int8.onnx` into a model folder, from the weights in it; returns its path.

    Dynamic int8 of the matrix products, a scale per output channel; big embedding tables in int8 with a scale per row.
    Attention is ONNX Runtime's own operator: one product for queries, keys and values, and no transposes.
    """
    model = CharacterTagger.from_folder(folder)
    model.encoder = _Encoder(model.encoder)
    model.add_module("character", _Table(model.character.weight))
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
            custom_opsets={"com.microsoft": 1},
            dynamo=False,
        )
        logging.disable(logging.WARNING)  # it tells the root logger of each tensor that it leaves in float
        try:
            quantize_dynamic(
                whole,
                folder / ONNX_WEIGHTS,
                op_types_to_quantize=["MatMul", "Attention"],
                per_channel=True,
                weight_type=QuantType.QInt8,
            )
        finally:
            logging.disable(logging.NOTSET)
    return folder / ONNX_WEIGHTS


def onnx_forward(folder: Path, threads: int = 0) -> Forward:
    """A model folder's ONNX file on the CPU; `threads` 0 takes a thread per core."""
    session = cpu_session(folder / ONNX_WEIGHTS, threads)

    def forward(batch: dict[str, Int64]) -> list[Logits]:
        return [np.asarray(logits) for logits in session.run(None, batch)]

    return forward


class _Encoder(nn.Module):
    """BERT's encoder, the same sums, as operators that ONNX Runtime runs fast."""

    def __init__(self, bert: Any) -> None:
        super().__init__()
        tables, self.blocks = bert.embeddings, bert.encoder.layer
        self.heads = bert.config.num_attention_heads
        self.pieces = _Table(tables.word_embeddings.weight)
        self.places = _Table(tables.position_embeddings.weight + tables.token_type_embeddings.weight[0])
        self.norm = tables.LayerNorm

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> "_States":
        states = self.norm(self.pieces(input_ids) + self.places.first(input_ids.shape[1]))
        mask = attention_mask.to(torch.int32)
        attention = cast(Any, _Attention).apply
        for block in self.blocks:
            own = block.attention.self
            maps = (own.query, own.key, own.value)
            weights = torch.cat([one.weight for one in maps]).T.contiguous()
            bias = torch.cat([one.bias for one in maps])
            seen = attention(states, weights, bias, mask, self.heads)
            states = block.attention.output(seen, states)
            states = block.output(block.intermediate(states), states)
        return _States(states)


class _States:
    def __init__(self, last_hidden_state: Tensor) -> None:
        self.last_hidden_state = last_hidden_state


class _Table(nn.Module):
    """An embedding table in int8 with a scale per row, as `model.safetensors` keeps it."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.steps: Tensor
        self.scales: Tensor
        largest = weight.detach().abs().amax(1, keepdim=True)
        scales = torch.where(largest > 0, largest / 127, torch.ones_like(largest))
        self.register_buffer("steps", torch.round(weight.detach() / scales).to(torch.int8))
        self.register_buffer("scales", scales)

    def forward(self, rows: Tensor) -> Tensor:
        return self.steps[rows].float() * self.scales[rows]

    def first(self, rows: int) -> Tensor:
        return self.steps[:rows].float() * self.scales[:rows]


class _Attention(torch.autograd.Function):
    """Self-attention, as one operator of ONNX Runtime:

    https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#commicrosoftattention
    """

    @staticmethod
    def forward(_: Any, states: Tensor, weights: Tensor, bias: Tensor, mask: Tensor, heads: int) -> Tensor:
        rows, length, width = states.shape
        parts = (states @ weights + bias).reshape(rows, length, 3, heads, width // heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        shown = mask[:, None, None, :].bool()
        seen = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=shown)
        return seen.transpose(1, 2).reshape(rows, length, width)

    @staticmethod
    def symbolic(graph: Any, states: Any, weights: Any, bias: Any, mask: Any, heads: int) -> Any:
        found = graph.op("com.microsoft::Attention", states, weights, bias, mask, num_heads_i=heads)
        return found.setType(states.type())
