"""What the engines of a character tagger share: texts to windows of arrays, and logits to spans."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from worker.ner.assembly import Layout
from worker.ner.decoding import Float32, decode
from worker.ner.encoding import CharacterEncoder, Encoding, Int64
from worker.ner.engine import Encoded, Window
from worker.ner.errors import EngineError, ModelError
from worker.ner.model_config import ModelConfig
from worker.ner.tags import TagTable
from worker.records import Span
from worker.text.normalise import normalise
from worker.text.windows import Range, cut_windows

_CHARACTERS_OF_A_TOKEN: Final = 4


class CharacterText:
    """Both ends of a character tagger's forward pass. Holds no state between calls."""

    def __init__(self, encoder: CharacterEncoder, max_pieces: int, tags: TagTable) -> None:
        """`max_pieces` is what a window may hold, specials included; `tags` are those of the layer that is read."""
        self._encoder = encoder
        self._most = max_pieces - 2
        self._tags = tags

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Normalise, tokenise and cut into windows, whose payload is an `Encoding`; none for a blank text."""
        normalised = [normalise(text) for text in texts]
        filled = [index for index, one in enumerate(normalised) if one.text and not one.text.isspace()]
        encodings = self._encoder.encode([normalised[index].text for index in filled])
        encoded = [Encoded(text, (), Layout(one, ())) for text, one in zip(texts, normalised, strict=True)]
        for index, encoding in zip(filled, encodings, strict=True):
            parts, ranges = self._cut(encoding)
            windows = tuple(Window(part, _tokens(part)) for part in parts)
            encoded[index] = Encoded(texts[index], windows, Layout(normalised[index], ranges))
        return encoded

    def collate(self, windows: Sequence[Window]) -> dict[str, Int64]:
        """The model's inputs for a batch."""
        return self._encoder.collate([window.payload for window in windows])

    def decode(self, logits: Float32, inputs: dict[str, Int64], windows: Sequence[Window]) -> list[list[Span]]:
        """Spans of each window. Raises `EngineError` for logits of a wrong shape or that are not finite."""
        expected = (*inputs["characters"].shape, len(self._tags.opens))
        if logits.shape != expected:
            raise EngineError(f"the model gave logits of shape {logits.shape} instead of {expected}")
        lengths = np.fromiter((len(window.payload.characters) for window in windows), np.int64, len(windows))
        try:
            return decode(logits, lengths, self._tags, spaces=inputs["place_in_word"] == 0)
        except ValueError as error:
            raise EngineError(str(error)) from None

    def _cut(self, encoding: Encoding) -> tuple[tuple[Encoding, ...], tuple[Range, ...]]:
        pieces = len(encoding.pieces) - 2
        if pieces <= self._most:
            return (encoding,), ((0, len(encoding.characters)),)
        word_starts = np.unique(encoding.piece_of[encoding.place_in_word == 0]) - 1
        parts, ranges = [], []
        for first, last in cut_windows(pieces, self._most, word_starts.tolist()):
            start, end = np.searchsorted(encoding.piece_of, [first + 1, last + 1]).tolist()
            parts.append(_part(encoding, (first, last), (start, end)))
            ranges.append((start, end))
        return tuple(parts), tuple(ranges)


def read_encoder(config: ModelConfig) -> CharacterEncoder:
    """The encoder of a model folder. Raises `ModelError` where its files are missing or damaged."""
    try:
        return CharacterEncoder.from_folder(config.folder)
    except FileNotFoundError as error:
        raise ModelError(f"{config.folder}: no {error.filename or 'tokenizer'} in it; copy the model again") from None
    except Exception as error:  # tokenizers raises bare exceptions
        raise ModelError(
            f"{config.folder}: its tokenizer cannot be read ({type(error).__name__}); copy the model again"
        ) from None


def _tokens(part: Encoding) -> int:
    """What a window costs: its pieces, or a quarter of its characters where those are many (a usual piece has 1.3)."""
    return max(len(part.pieces), -(-len(part.characters) // _CHARACTERS_OF_A_TOKEN))


def _part(encoding: Encoding, pieces: Range, characters: Range) -> Encoding:
    """A stretch of an encoding between its own special pieces; tokenising it again could give others."""
    (first, last), (start, end) = pieces, characters
    ids = encoding.pieces
    return Encoding(
        pieces=np.concatenate([ids[:1], ids[first + 1 : last + 1], ids[-1:]]),
        piece_of=encoding.piece_of[start:end] - np.int32(first),
        characters=encoding.characters[start:end],
        place_in_piece=encoding.place_in_piece[start:end],
        place_in_word=encoding.place_in_word[start:end],
    )
