"""The network as it stands before the first step: the base's encoder, its vocabulary cut, and a fresh head."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from worker.ner.encoding import CharacterEncoder
from worker.ner.network import CharacterTagger, EncoderShape, HeadShape
from worker.training.base import SPECIALS, Base, cut_vocabulary, read_base, tokenizer_of
from worker.training.labels import LAYERS
from worker.training.recipe import LoopRecipe, ModelRecipe

_LAYER: Final = "encoder.encoder.layer."


@dataclass(frozen=True, slots=True)
class Start:
    """What training begins with, and what its model folder will need beside the weights."""

    model: CharacterTagger
    encoder: CharacterEncoder
    tokenizer_json: str
    characters: str


def start(recipe: ModelRecipe, loop: LoopRecipe, base: Path | None, texts: Sequence[str], characters: str) -> Start:
    """Build the network; the same for the same seed. Without a `base`: random weights, characters for pieces."""
    torch.manual_seed(loop.seed)
    source = _characters_only(recipe, characters) if base is None else _cut(recipe, read_base(base), texts)
    tokenizer = tokenizer_of(source.pieces, source.scores)
    head = HeadShape(recipe.head_width, len(characters) + 2, recipe.places_in_piece, recipe.places_in_word)
    model = CharacterTagger(source.shape, head, LAYERS, dropout=loop.dropout)
    if source.weights:
        model.encoder.load_state_dict(source.weights)
    _ready(model)
    encoder = CharacterEncoder(tokenizer, characters, recipe.places_in_piece, recipe.places_in_word)
    return Start(model, encoder, tokenizer.to_str(), characters)


def start_from(folder: Path, keep: Sequence[int] | None, loop: LoopRecipe) -> Start:
    """A trained model folder as the network to go on from, with the layers `keep` of its encoder (None for all).

    Raises OSError for a file that isn't there, ValueError for a folder of another format or layers that it lacks.
    """
    torch.manual_seed(loop.seed)
    whole = CharacterTagger.from_folder(folder)
    kept = list(range(whole.encoder_shape.layers)) if keep is None else list(keep)
    if not kept or not all(isinstance(n, int) and 0 <= n < whole.encoder_shape.layers for n in kept):
        raise ValueError(f"layers {kept}: {folder} has layers 0 to {whole.encoder_shape.layers - 1}")
    weights = {name: value for name, value in whole.state_dict().items() if not name.startswith(_LAYER)}
    for new, old in enumerate(kept):
        prefix = f"{_LAYER}{old}."
        found = ((name, value) for name, value in whole.state_dict().items() if name.startswith(prefix))
        weights |= {f"{_LAYER}{new}.{name.removeprefix(prefix)}": value for name, value in found}
    shape = replace(whole.encoder_shape, layers=len(kept))
    model = CharacterTagger(shape, whole.head_shape, whole.layers, dropout=loop.dropout)
    model.load_state_dict(weights)
    _ready(model)
    characters = json.loads((folder / "characters.json").read_text("utf-8"))["characters"]
    tokenizer_json = (folder / "tokenizer.json").read_text("utf-8")
    return Start(model, CharacterEncoder.from_folder(folder), tokenizer_json, characters)


def _ready(model: CharacterTagger) -> None:
    # The base was trained without a token that is hidden, and short runs need no dropout between its layers.
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    # The fused kernel's backward pass is the slower one for short texts on a CPU.
    model.encoder.set_attn_implementation("eager")


def _cut(recipe: ModelRecipe, base: Base, texts: Sequence[str]) -> Base:
    """The base with its first `layers` layers, `positions` positions and the pieces that `texts` use."""
    cut = cut_vocabulary(base, texts, recipe.vocabulary)
    shape = replace(cut.shape, layers=recipe.layers, positions=recipe.positions)
    weights = {
        name: value
        for name, value in cut.weights.items()
        if not name.startswith("encoder.layer.") or int(name.split(".")[2]) < recipe.layers
    }
    positions = "embeddings.position_embeddings.weight"
    weights[positions] = weights[positions][: recipe.positions].clone()
    return replace(cut, shape=shape, weights=weights)


def _characters_only(recipe: ModelRecipe, characters: str) -> Base:
    pieces = [*SPECIALS, "▁", *(c for c in characters if c not in " ▁")]
    shape = EncoderShape(len(pieces), recipe.hidden, recipe.layers, recipe.heads, recipe.feed_forward, recipe.positions)
    return Base(shape, tuple(pieces), tuple(-float(i) / 1000 for i in range(len(pieces))), {})
