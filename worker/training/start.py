"""The network as it stands before the first step: the base's encoder, its vocabulary cut, and a fresh head."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from worker.ner.encoding import CharacterEncoder
from worker.ner.network import CharacterTagger, EncoderShape, HeadShape
from worker.training.base import SPECIALS, Base, cut_vocabulary, read_base, tokenizer_of
from worker.training.labels import LAYERS
from worker.training.recipe import LoopRecipe, ModelRecipe


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
    # The base was trained without a token that is hidden, and short runs need no dropout between its layers.
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if source.weights:
        model.encoder.load_state_dict(source.weights)
    # The fused kernel's backward pass is the slower one for short texts on a CPU.
    model.encoder.set_attn_implementation("eager")
    encoder = CharacterEncoder(tokenizer, characters, recipe.places_in_piece, recipe.places_in_word)
    return Start(model, encoder, tokenizer.to_str(), characters)


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
