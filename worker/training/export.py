"""The tagger as an int8 ONNX file, and as a function that runs it."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from worker.ner.encoding import CharacterEncoder, Int64
from worker.ner.network import ONNX_WEIGHTS, CharacterTagger
from worker.ner.onnx_engine import cpu_session
from worker.training.tagging import Forward, Logits

_OPSET: Final = 18
_SHIFTED: Final = 0.5  # how much of the inputs' unevenness goes over to the weights
_SMALLEST: Final = 1e-3  # divisor
_PIECES: Final = ("input_ids", "attention_mask")
_CHARACTERS: Final = ("piece_of", "characters", "place_in_piece", "place_in_word")


def export_onnx(folder: Path, texts: Sequence[str] = ()) -> Path:
    """Write `model.int8.onnx` into a model folder, from the weights in it; returns its path.

    Dynamic int8 of the matrix products, a scale per output channel, with weights of seven bits: CPUs without VNNI add
    two products up in 16 bits and cut what is more. Big embedding tables in int8 with a scale per row.
    Attention is ONNX Runtime's own operator: one product for queries, keys and values, and no transposes. A product's
    inputs have one scale together, so a few large channels would leave the others coarse: what is large on `texts` is
    made smaller, and the weights larger (Xiao et al. 2023, "SmoothQuant"). Nor may a few large pieces, as they come out
    of the wide part of a layer, leave the others coarse: there each is made as large as the others before the product.
    """
    model = CharacterTagger.from_folder(folder)
    model.encoder = _Encoder(model.encoder, _largest_inputs(model, CharacterEncoder.from_folder(folder), texts))
    model.add_module("character", _Table(model.character.weight))
    batch, pieces, characters = 2, 5, 7
    inputs = {name: torch.ones(batch, pieces, dtype=torch.int64) for name in _PIECES}
    inputs |= {name: torch.ones(batch, characters, dtype=torch.int64) for name in _CHARACTERS}
    with tempfile.TemporaryDirectory() as scratch:
        whole, written = Path(scratch) / "model.onnx", folder / (ONNX_WEIGHTS + ".new")
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
                written,
                op_types_to_quantize=["MatMul", "Attention"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                reduce_range=True,
            )
        finally:
            logging.disable(logging.NOTSET)
    written.replace(folder / ONNX_WEIGHTS)  # whole, or not at all
    return folder / ONNX_WEIGHTS


def onnx_forward(folder: Path, threads: int = 0) -> Forward:
    """A model folder's ONNX file on the CPU; `threads` 0 takes a thread per core."""
    session = cpu_session(folder / ONNX_WEIGHTS, threads)

    def forward(batch: dict[str, Int64]) -> list[Logits]:
        return [np.asarray(logits) for logits in session.run(None, batch)]

    return forward


def _largest_inputs(model: CharacterTagger, encoder: CharacterEncoder, texts: Sequence[str]) -> dict[nn.Module, Tensor]:
    """For each linear map of the encoder, the largest size of each of its input's channels over the texts."""
    largest: dict[nn.Module, Tensor] = {}

    def watch(module: nn.Module, inputs: tuple[Tensor]) -> None:
        seen = inputs[0].detach().abs().flatten(0, -2).amax(0)
        largest[module] = torch.maximum(largest[module], seen) if module in largest else seen

    linear = [module for module in model.encoder.modules() if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_pre_hook(watch) for module in linear]
    with torch.inference_mode():
        for text in texts:  # one by one, so that no padding is seen
            batch = encoder.collate(encoder.encode([text]))
            model(**{name: torch.from_numpy(array) for name, array in batch.items()})
    for hook in hooks:
        hook.remove()
    return largest


class _Encoder(nn.Module):
    """BERT's encoder, the same sums, as operators that ONNX Runtime runs fast."""

    def __init__(self, bert: Any, largest: Mapping[nn.Module, Tensor]) -> None:
        super().__init__()
        tables = bert.embeddings
        self.pieces = _Table(tables.word_embeddings.weight)
        self.places = _Table(tables.position_embeddings.weight + tables.token_type_embeddings.weight[0])
        self.norm = tables.LayerNorm
        heads = bert.config.num_attention_heads
        self.blocks = nn.ModuleList(_Block(layer, heads, largest) for layer in bert.encoder.layer)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> "_States":
        states = self.norm(self.pieces(input_ids) + self.places.first(input_ids.shape[1]))
        mask = attention_mask.to(torch.int32)
        for block in self.blocks:
            states = block(states, mask)
        return _States(states)


class _Block(nn.Module):
    """One layer of the encoder."""

    def __init__(self, layer: Any, heads: int, largest: Mapping[nn.Module, Tensor]) -> None:
        super().__init__()
        own = layer.attention.self
        maps = (own.query, own.key, own.value)
        self.heads = heads
        self.attended = _Smooth(
            torch.cat([one.weight for one in maps]), torch.cat([one.bias for one in maps]), largest.get(own.query)
        )
        self.attention_output = layer.attention.output
        inner, outer = layer.intermediate.dense, layer.output.dense
        self.inner = _Smooth(inner.weight, inner.bias, largest.get(inner))
        self.outer = _Smooth(outer.weight, outer.bias, largest.get(outer), by_piece=True)
        self.norm = layer.output.LayerNorm

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        apply = cast(Any, _Attention).apply
        attended = self.attended
        seen = apply(states * attended.smaller, attended.weight.T.contiguous(), attended.bias, mask, self.heads)
        states = self.attention_output(seen, states)
        return cast(Tensor, self.norm(self.outer(nn.functional.gelu(self.inner(states))) + states))


class _Smooth(nn.Module):
    """A linear map whose input is divided, and whose weights are multiplied, channel by channel.

    With `by_piece`, which is for what comes out of GELU, the input of each piece is also divided by its largest value,
    and the output multiplied by it.
    """

    def __init__(self, weight: Tensor, bias: Tensor, largest: Tensor | None, by_piece: bool = False) -> None:
        super().__init__()
        self.by_piece = by_piece
        ratio = torch.ones(weight.shape[1])
        if largest is not None:
            weights = weight.detach().abs().amax(0).clamp(min=1e-5)
            ratio = (largest.clamp(min=1e-4) ** _SHIFTED / weights ** (1 - _SHIFTED)).clamp(min=1e-3)
        self.weight = nn.Parameter(weight.detach() * ratio)
        self.bias = nn.Parameter(bias.detach())
        self.smaller: Tensor
        self.register_buffer("smaller", 1 / ratio)

    def forward(self, states: Tensor) -> Tensor:
        states = states * self.smaller
        if not self.by_piece:
            return nn.functional.linear(states, self.weight, self.bias)
        # GELU is never far below 0: what is largest is largest in size, and needs no `abs`.
        largest = states.amax(-1, keepdim=True).clamp(min=_SMALLEST)
        return nn.functional.linear(states / largest, self.weight) * largest + self.bias


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
