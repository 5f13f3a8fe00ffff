"""The tagger as a torch module, and the folder it is kept in."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from worker.ner.layers import LabelLayer
from worker.ner.model_config import read_transitions
from worker.ner.tags import TagTable, Transitions

FORMAT: Final = "koner-character-tagger/1"
WEIGHTS: Final = "model.safetensors"
ONNX_WEIGHTS: Final = "model.int8.onnx"
_SCALE: Final = ".scale"
_TRANSITIONS: Final = ("moves.", "stays.")  # parameters that the config holds
_DECIMALS: Final = 4  # of transitions


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """The transformer over pieces."""

    vocabulary: int  # rows of the embedding table
    hidden: int
    layers: int
    heads: int
    feed_forward: int
    positions: int  # the most pieces, `<s>` and `</s>` included


@dataclass(frozen=True, slots=True)
class HeadShape:
    """The convolutions over characters."""

    width: int
    characters: int  # rows of the character table, padding and unknown included
    places_in_piece: int
    places_in_word: int
    kernel: int = 3


class CharacterTagger(nn.Module):
    """A label per character and layer, from the pieces that an encoder was trained on.

    Each character sees the state of the piece that covers it, its own embedding and its place in the piece and in the
    word; two convolutions with a residual mix neighbours, and one linear map per label layer gives the logits.
    Beside them stand the transitions of each layer, which take no part in the logits: see `Transitions`.
    """

    def __init__(
        self, encoder: EncoderShape, head: HeadShape, layers: tuple[LabelLayer, ...], dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.encoder_shape, self.head_shape, self.layers = encoder, head, layers
        bert = cast(type[Any], BertModel)  # its constructor carries no types
        self.encoder = bert(_bert_config(encoder, dropout), add_pooling_layer=False)
        self.from_piece = nn.Linear(encoder.hidden, head.width)
        self.character = nn.Embedding(head.characters, head.width, padding_idx=0)
        self.place_in_piece = nn.Embedding(head.places_in_piece, head.width)
        self.place_in_word = nn.Embedding(head.places_in_word, head.width)
        self.norm_in = nn.LayerNorm(head.width)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(head.width, head.width, head.kernel, padding=head.kernel // 2) for _ in range(2)
        )
        self.norm_out = nn.LayerNorm(head.width)
        self.dropout = nn.Dropout(dropout)
        self.classifiers = nn.ModuleList(nn.Linear(head.width, len(layer.tags)) for layer in layers)
        counts = [len(layer.tags) // 2 for layer in layers]
        self.moves = nn.ParameterList(nn.Parameter(torch.zeros(count + 1, count + 1)) for count in counts)
        self.stays = nn.ParameterList(nn.Parameter(torch.zeros(count)) for count in counts)
        for table in (self.character, self.place_in_piece, self.place_in_word):
            nn.init.normal_(table.weight, std=0.05)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        piece_of: Tensor,
        characters: Tensor,
        place_in_piece: Tensor,
        place_in_word: Tensor,
    ) -> tuple[Tensor, ...]:
        """Logits [B, C, tags] of each label layer, in their order.

        `input_ids` and `attention_mask` are int64 [B, T], the rest int64 [B, C]. What a text's logits are does not
        depend on the texts beside it, up to rounding: padded characters (id 0) are silenced before each convolution.
        """
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        pieces = self.from_piece(states)
        rows, length, width = pieces.shape
        starts = torch.arange(rows, device=piece_of.device).unsqueeze(1) * length
        covering = pieces.reshape(rows * length, width)[piece_of + starts]
        places = self.place_in_piece(place_in_piece) + self.place_in_word(place_in_word)
        seen = self.norm_in(covering + self.character(characters) + places)
        real = (characters != 0).unsqueeze(2).to(seen.dtype)
        mixed = self.dropout(seen)
        for convolution in self.convolutions:
            mixed = nn.functional.gelu(_convolved(cast(nn.Conv1d, convolution), mixed * real))
        out = self.dropout(self.norm_out(seen + mixed))
        return tuple(classifier(out) for classifier in self.classifiers)

    def tag_table(self, layer: int) -> TagTable:
        """The tags of a label layer, with the transitions as they are now."""
        moves, stays = (part[layer].detach().float().cpu().numpy().copy() for part in (self.moves, self.stays))
        return TagTable.of(self.layers[layer].tags, strict=True, transitions=Transitions(moves, stays))

    @classmethod
    def from_folder(cls, path: str | Path) -> "CharacterTagger":
        """Load a model folder for inference, in float32 on the CPU.

        Raises OSError for a file that isn't there and ValueError for a folder of another format.
        """
        folder = Path(path)
        config = json.loads((folder / "config.json").read_text("utf-8"))
        if config.get("format") != FORMAT:
            raise ValueError(f"{folder / 'config.json'}: format is {config.get('format')!r}, not {FORMAT!r}")
        layers = tuple(LabelLayer(layer["name"], tuple(layer["tags"])) for layer in config["layers"])
        model = cls(EncoderShape(**config["encoder"]), HeadShape(**config["head"]), layers)
        stored = dequantised(load_file(folder / WEIGHTS))
        for number, layer in enumerate(config["layers"]):
            found = read_transitions(layer) or Transitions.none(len(layer["tags"]) // 2)
            stored |= {f"moves.{number}": found.moves, f"stays.{number}": found.stays}
        model.load_state_dict({name: torch.from_numpy(value) for name, value in stored.items()})
        return model.eval()

    def save(
        self, path: str | Path, *, name: str, tokenizer_json: str, characters: str, trained_on: Mapping[str, str]
    ) -> None:
        """Write the model folder, all but its ONNX file; big matrices as int8 with a scale per output channel.

        `tokenizer_json` and `characters` are what `CharacterEncoder` reads back. Call `write_revision` once the ONNX
        file stands beside it. The folder is made if it isn't there.
        """
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            name: value.numpy() for name, value in self.state_dict().items() if not name.startswith(_TRANSITIONS)
        }
        save_file(quantised(weights), folder / WEIGHTS)
        (folder / "tokenizer.json").write_text(tokenizer_json, "utf-8")
        _write_json(folder / "characters.json", {"characters": characters})
        config = {
            "format": FORMAT,
            "name": name,
            "revision": "",
            "max_pieces": self.encoder_shape.positions,
            "encoder": asdict(self.encoder_shape),
            "head": asdict(self.head_shape),
            "layers": [self._layer(number) for number in range(len(self.layers))],
            "trained_on": dict(trained_on),
        }
        _write_json(folder / "config.json", config)
        write_revision(folder)

    def _layer(self, number: int) -> dict[str, Any]:
        """A label layer as the config has it; transitions that add nothing are left out."""
        found = self.tag_table(number).transitions
        layer: dict[str, Any] = {"name": self.layers[number].name, "tags": list(self.layers[number].tags)}
        if found.any:
            layer["transitions"] = {
                part: np.round(values.astype(np.float64), _DECIMALS).tolist()
                for part, values in (("moves", found.moves), ("stays", found.stays))
            }
        return layer


def _convolved(convolution: nn.Conv1d, seen: Tensor) -> Tensor:
    """The convolution over the middle axis of [B, C, width], as one matrix product.

    That is the same sum, without turning the tensor round, and a product that ONNX Runtime has a fast int8 kernel for.
    """
    reach = convolution.kernel_size[0] // 2
    padded = nn.functional.pad(seen, (0, 0, reach, reach))
    beside = torch.cat([padded[:, place : place + seen.shape[1]] for place in range(2 * reach + 1)], dim=2)
    weights = convolution.weight.permute(0, 2, 1).reshape(convolution.out_channels, -1)
    return nn.functional.linear(beside, weights, convolution.bias)


def write_revision(folder: Path) -> str:
    """Set the config's `revision` to the first 12 hex digits of a SHA-256 over weights and transitions; returns it."""
    digest = hashlib.sha256()
    for name in (WEIGHTS, ONNX_WEIGHTS):
        if (folder / name).exists():
            digest.update((folder / name).read_bytes())
    config = json.loads((folder / "config.json").read_text("utf-8"))
    for layer in config["layers"]:
        if "transitions" in layer:
            digest.update(json.dumps(layer["transitions"]).encode())
    config["revision"] = digest.hexdigest()[:12]
    _write_json(folder / "config.json", config)
    return cast(str, config["revision"])


def quantised(weights: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Matrices as int8 `NAME` and float32 `NAME.scale` [rows, 1] (a row's largest weight / 127); the rest as it is."""
    stored: dict[str, NDArray[Any]] = {}
    for name, value in weights.items():
        if value.ndim != 2:
            stored[name] = np.ascontiguousarray(value)
            continue
        largest = np.abs(value).max(axis=1, keepdims=True)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        stored[name] = np.rint(value / scale).astype(np.int8)
        stored[name + _SCALE] = scale
    return stored


def dequantised(stored: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The weights that `quantised` was given, up to half a step of each row's scale."""
    return {
        name: value.astype(np.float32) * stored[name + _SCALE] if value.dtype == np.int8 else value
        for name, value in stored.items()
        if not name.endswith(_SCALE)
    }


def _bert_config(shape: EncoderShape, dropout: float) -> BertConfig:
    return BertConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.feed_forward,
        max_position_embeddings=shape.positions,
        pad_token_id=1,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=0.0,  # dropout inside attention would cost the fused kernel on the CPU
    )


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", "utf-8")
