"""The engine for any Hugging Face token-classification checkpoint, in PyTorch.

It tags the checkpoint's own pieces, so a particle that shares a piece with a name stays in the span: that is the
model's matter. Tags may be IOB, IOB2, BIOES, BILOU or bare labels.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer

from worker.ner.assembly import Layout, assemble
from worker.ner.decoding import Float32, decode
from worker.ner.engine import Encoded, ModelInfo, Window
from worker.ner.errors import EngineError, ModelError
from worker.ner.tags import TagTable
from worker.ner.taxonomy import Taxonomy, load_taxonomy
from worker.ner.torch_device import TorchDevice
from worker.records import Entity, Span
from worker.text.normalise import normalise
from worker.text.windows import Range, cut_windows

LAYER: Final = "labels"
_MOST_PIECES: Final = 512  # of a model that does not say
_UNLIMITED: Final = 100_000  # tokenizers without a limit give an absurd one


@dataclass(frozen=True, slots=True)
class Pieces:
    """A window: its pieces without special ones, and what each covers of the window's text."""

    ids: tuple[int, ...]
    covers: tuple[Range, ...]  # characters, from the window's start
    text: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint as it was loaded."""

    name: str
    revision: str
    tokenizer: Any  # tokenizers.Tokenizer, with neither padding nor truncation
    model: torch.nn.Module
    tags: TagTable
    max_pieces: int  # special ones included
    padding: int  # id of the padding piece


class CheckpointEngine:
    """Runs a checkpoint. `encode` and `forward` may be called from several threads at once."""

    def __init__(self, checkpoint: Checkpoint, taxonomy: Taxonomy, device: TorchDevice) -> None:
        """Raises `ModelError` where special pieces leave no room for any other."""
        framed = checkpoint.tokenizer.encode("가", add_special_tokens=True)
        inner = [place for place, special in enumerate(framed.special_tokens_mask) if not special]
        first, last = (inner[0], inner[-1] + 1) if inner else (0, 0)
        self._before, self._after = framed.ids[:first], framed.ids[last:]
        self._most = checkpoint.max_pieces - len(self._before) - len(self._after)
        if self._most < 1:
            raise ModelError(f"{checkpoint.name}: takes {checkpoint.max_pieces} pieces, all of them special ones")
        self._tokenizer = checkpoint.tokenizer
        self._tags = checkpoint.tags
        self._padding = checkpoint.padding
        self._taxonomy = taxonomy
        self._device = device
        self._model = device.place(checkpoint.model)
        self._info = ModelInfo(checkpoint.name, checkpoint.revision, taxonomy.name, "torch", str(device.device))

    @property
    def info(self) -> ModelInfo:
        """The model, its revision, the taxonomy and where it runs."""
        return self._info

    @property
    def forward_threads(self) -> int:
        """Two on CUDA, one on the CPU."""
        return self._device.forward_threads

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """See `Engine.encode`."""
        normalised = [normalise(text) for text in texts]
        filled = [index for index, one in enumerate(normalised) if one.text and not one.text.isspace()]
        found = self._tokenizer.encode_batch([normalised[index].text for index in filled], add_special_tokens=False)
        encoded = [Encoded(text, (), Layout(one, ())) for text, one in zip(texts, normalised, strict=True)]
        for index, pieces in zip(filled, found, strict=True):
            text = normalised[index].text
            parts, ranges = self._cut(text, pieces.ids, pieces.offsets)
            tokens = len(self._before) + len(self._after)
            windows = tuple(Window(part, len(part.ids) + tokens) for part in parts)
            encoded[index] = Encoded(texts[index], windows, Layout(normalised[index], tuple(ranges)))
        return encoded

    def forward(self, windows: Sequence[Window]) -> list[list[Span]]:
        """See `Engine.forward`."""
        if not windows:
            return []
        lengths = np.fromiter((len(window.payload.ids) for window in windows), np.int64, len(windows))
        logits = self._device.run(self._collate(windows), self._logits)
        inner = logits[:, len(self._before) : len(self._before) + int(lengths.max())]
        if inner.shape != (len(windows), int(lengths.max()), len(self._tags.opens)):
            raise EngineError(f"{self._info.name}: the model gave logits of shape {logits.shape}")
        return self._spans(inner, lengths, windows)

    def assemble(self, encoded: Encoded, spans: Sequence[Sequence[Span]]) -> list[Entity]:
        """See `Engine.assemble`."""
        return assemble(encoded, spans, self._taxonomy)

    def _cut(self, text: str, ids: list[int], offsets: list[Range]) -> tuple[list[Pieces], list[Range]]:
        breaks: list[int] = []
        if len(ids) > self._most:
            breaks = [
                i for i, (start, _) in enumerate(offsets) if text[start : start + 1] == " " or _after_space(text, start)
            ]
        parts, ranges = [], []
        for first, last in cut_windows(len(ids), self._most, breaks):
            inner = offsets[first:last]
            start = min((a for a, _ in inner), default=0)
            end = max((b for _, b in inner), default=0)
            covers = tuple((a - start, b - start) for a, b in inner)
            parts.append(Pieces(tuple(ids[first:last]), covers, text[start:end]))
            ranges.append((start, end))
        return parts, ranges

    def _collate(self, windows: Sequence[Window]) -> dict[str, NDArray[np.int64]]:
        framed = [[*self._before, *window.payload.ids, *self._after] for window in windows]
        width = max(map(len, framed))
        return {
            "input_ids": np.array([row + [self._padding] * (width - len(row)) for row in framed], np.int64),
            "attention_mask": np.array([[1] * len(row) + [0] * (width - len(row)) for row in framed], np.int64),
        }

    def _logits(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        logits: torch.Tensor = self._model(**inputs).logits
        return logits

    def _spans(self, logits: Float32, lengths: NDArray[np.int64], windows: Sequence[Window]) -> list[list[Span]]:
        try:
            tagged = decode(logits, lengths, self._tags)
        except ValueError as error:
            raise EngineError(str(error)) from None
        return [_in_characters(spans, window.payload) for spans, window in zip(tagged, windows, strict=True)]


def load_checkpoint(name: str, *, taxonomy: str, device: TorchDevice) -> CheckpointEngine:
    """Load a checkpoint from a folder or, by its name, from the Hugging Face hub. Raises `ModelError` with one line."""
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model, loaded = AutoModelForTokenClassification.from_pretrained(
            name, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:  # hub, network, JSON, safetensors: each library raises its own
        raise ModelError(f"{name}: {_why_not(name, error)}") from None
    made_up = sorted({*loaded["missing_keys"], *(key for key, *_ in loaded["mismatched_keys"])})
    if made_up:  # transformers fills them with random numbers
        raise ModelError(
            f"{name}: its weights lack {made_up[0]} ({len(made_up)} in all); take a whole checkpoint that was trained"
            " to label tokens"
        )
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"{name}: its tokenizer has no fast version, which tells where pieces lie in a text")
    known, rows = backend.get_vocab_size(), int(getattr(config, "vocab_size", 0))
    if rows and not rows // 2 <= known <= rows:  # without its files, transformers makes up an empty tokenizer
        raise ModelError(
            f"{name}: its tokenizer has {known} pieces and the model {rows}; copy the tokenizer's files too"
        )
    backend.no_padding()
    backend.no_truncation()
    if sorted(config.id2label) != list(range(len(config.id2label))):
        raise ModelError(f"{name}: config.json names the labels {sorted(config.id2label)[:8]}; they must count from 0")
    names = [str(config.id2label[index]) for index in range(len(config.id2label))]
    try:
        tags = TagTable.of(names, strict=False)
    except ValueError as error:
        raise ModelError(f"{name}: labels {', '.join(names[:8])} are not those of entities ({error})") from None
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    most = _positions(model, config, tokenizer)
    checkpoint = Checkpoint(name, _revision(name, config), backend, model, tags, most, padding)
    return CheckpointEngine(checkpoint, load_taxonomy(taxonomy, {LAYER: tags.labels}, name), device)


def _in_characters(spans: Sequence[Span], pieces: Pieces) -> list[Span]:
    """Spans of pieces as spans of characters, without spaces at their ends and without overlaps."""
    found: list[Span] = []
    for span in spans:
        covers = [cover for cover in pieces.covers[span.start : span.end] if cover[0] < cover[1]]
        if not covers:
            continue
        # Pieces of bytes can share a character.
        start = max(covers[0][0], found[-1].end if found else 0)
        end = max(cover[1] for cover in covers)
        inner = pieces.text[start:end]
        start += len(inner) - len(inner.lstrip())
        end -= len(inner) - len(inner.rstrip())
        if start < end:
            found.append(Span(start, end, span.label, span.score))
    return found


def _after_space(text: str, place: int) -> bool:
    return place > 0 and text[place - 1] == " "


def _positions(model: torch.nn.Module, config: Any, tokenizer: Any) -> int:
    """The most pieces of a text: RoBERTa's kind lose the positions up to that of padding."""
    limits = [tokenizer.model_max_length] if tokenizer.model_max_length < _UNLIMITED else []
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            limits.append(module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1))
            break
    else:
        limits.append(getattr(config, "max_position_embeddings", None) or _MOST_PIECES)
    return int(min(limits))


def _revision(name: str, config: Any) -> str:
    """The hub's commit, or the first 12 hex digits of a SHA-256 over a folder's weights files, in order of name."""
    folder = Path(name)
    if not folder.is_dir():
        return str(getattr(config, "_commit_hash", None) or "unknown")[:12]
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]):
        with path.open("rb") as weights:
            while block := weights.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:12]


def _why_not(name: str, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    if Path(name).is_dir():
        return f"not a token-classification checkpoint that transformers can load ({reason})"
    return f"no such folder, and the Hugging Face hub did not give it ({reason}); download it and name its folder"
