"""Text to the arrays that the tagger reads: pieces for its encoder, characters for its head. Knows no torch."""

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

PADDING: Final = 0
UNKNOWN: Final = 1
WORD_MARK: Final = "▁"
_CODE_POINTS: Final = 0x110000
_MOST_OF_UNKNOWN: Final = 8  # characters that one unknown piece covers


@dataclass(frozen=True, slots=True)
class Encoding:
    """One text as the tagger reads it: T pieces (`<s>` and `</s>` among them) and C characters (code points).

    A place in a piece counts the piece's word mark, so the space before a word is place 0 and its first letter 1.
    A place in a word is 0 for a space and 1 for a word's first character. Both stop at the model's limit.
    """

    pieces: Int32  # [T] ids in the tokenizer's vocabulary
    piece_of: Int32  # [C] index into `pieces` of the piece that covers the character; a space goes with the next word
    characters: Int32  # [C] ids in the model's character table; 0 is padding, 1 a character it does not know
    place_in_piece: Int32  # [C]
    place_in_word: Int32  # [C]


class CharacterEncoder:
    """Encodes normalised texts. Its tokenizer must not change lengths: no normaliser, the Metaspace pre-tokeniser."""

    def __init__(self, tokenizer: Tokenizer, characters: str, places_in_piece: int, places_in_word: int) -> None:
        """`characters[i]` has id `i + 2`; the places are the sizes of the model's two tables of places.

        Raises ValueError if the tokenizer lacks one of `<s>`, `<pad>`, `</s>` and `<unk>`.
        """
        self._tokenizer = tokenizer
        self._spelled = _spelled()
        self._last_place_in_piece = places_in_piece - 1
        self._last_place_in_word = places_in_word - 1
        vocabulary = tokenizer.get_vocab()
        missing = [name for name in ("<s>", "<pad>", "</s>", "<unk>") if name not in vocabulary]
        if missing:
            raise ValueError(f"the tokenizer has no {', '.join(missing)}: not a tokenizer of a koner-character-tagger")
        self._begin, self._pad = vocabulary["<s>"], vocabulary["<pad>"]
        self._end, self._unknown_piece = vocabulary["</s>"], vocabulary["<unk>"]
        self._piece_lengths = np.zeros(max(vocabulary.values()) + 1, np.int32)
        for piece, index in vocabulary.items():
            self._piece_lengths[index] = len(piece)
        self._character_ids = np.full(_CODE_POINTS, UNKNOWN, np.int32)
        for index, character in enumerate(characters):
            self._character_ids[ord(character)] = index + 2

    @classmethod
    def from_folder(cls, path: str | Path) -> "CharacterEncoder":
        """Read `tokenizer.json`, `characters.json` and the head's sizes in `config.json` of a model folder.

        Raises OSError for a file that isn't there and ValueError for one of another format.
        """
        folder = Path(path)
        head = json.loads((folder / "config.json").read_text("utf-8"))["head"]
        characters = json.loads((folder / "characters.json").read_text("utf-8"))["characters"]
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return cls(tokenizer, characters, head["places_in_piece"], head["places_in_word"])

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Encode each text, without a limit on its length: windows are the caller's.

        What the vocabulary lacks side by side is one unknown piece to the tokenizer, however long. It is several here,
        so that a text's pieces tell what it costs.
        """
        if not texts:
            return []
        plain = [text.translate(self._spelled) for text in texts]
        ids = [found.ids for found in self._tokenizer.encode_batch_fast(plain, add_special_tokens=False)]
        pieces_in: Int64 = np.fromiter(map(len, ids), np.int64, len(ids))
        characters_in = np.fromiter(map(len, plain), np.int64, len(plain))
        pieces = np.concatenate([np.asarray(row, np.int32) for row in ids])
        # Someone typed `<s>`: not the model's own mark, whatever the vocabulary says.
        pieces[np.isin(pieces, (self._begin, self._pad, self._end))] = self._unknown_piece
        codes = np.frombuffer("".join(plain).encode("utf-32-le"), np.uint32)
        first_piece = np.cumsum(pieces_in) - pieces_in
        first_character = np.cumsum(characters_in) - characters_in

        lengths, hidden_marks = self._lengths(plain, pieces, first_piece, pieces_in)
        if (lengths > _MOST_OF_UNKNOWN).any():
            parts = np.where(pieces == self._unknown_piece, np.maximum(-(-lengths // _MOST_OF_UNKNOWN), 1), 1)
            pieces, lengths, hidden_marks = _divided(parts, pieces, lengths, hidden_marks)
            pieces_in = np.add.reduceat(np.append(parts, 0), first_piece) * (pieces_in > 0)
            first_piece = np.cumsum(pieces_in) - pieces_in
        local_piece = _count_up(pieces_in) + 1  # 0 is <s>
        piece_of = np.repeat(local_piece, lengths).astype(np.int32)
        characters = self._character_ids[codes]
        in_pieces = _count_up(lengths) + np.repeat(hidden_marks, lengths)
        in_words = _places_in_words(codes == 0x20, first_character[characters_in > 0])
        place_in_piece = np.minimum(in_pieces, self._last_place_in_piece).astype(np.int32)
        place_in_word = np.minimum(in_words, self._last_place_in_word).astype(np.int32)

        framed = np.empty(len(pieces) + 2 * len(ids), np.int32)
        first_framed = first_piece + 2 * np.arange(len(ids))
        framed[first_framed] = self._begin
        framed[first_framed + pieces_in + 1] = self._end
        framed[np.arange(len(pieces)) + np.repeat(2 * np.arange(len(ids)) + 1, pieces_in)] = pieces

        encodings = []
        bounds = zip(
            first_framed.tolist(), pieces_in.tolist(), first_character.tolist(), characters_in.tolist(), strict=True
        )
        for p, piece_count, c, character_count in bounds:
            q, d = p + piece_count + 2, c + character_count
            encodings.append(
                Encoding(framed[p:q], piece_of[c:d], characters[c:d], place_in_piece[c:d], place_in_word[c:d])
            )
        return encodings

    def collate(self, encodings: Sequence[Encoding]) -> dict[str, Int64]:
        """Pad to the longest: `input_ids` and `attention_mask` are [B, T], the four arrays of characters [B, C].

        C is at least 1, since the head's convolutions need a place to stand on. Padded characters have id 0.
        """
        rows = len(encodings)
        piece_counts = np.fromiter((len(e.pieces) for e in encodings), np.int64, rows)
        character_counts = np.fromiter((len(e.characters) for e in encodings), np.int64, rows)
        real_pieces = np.arange(int(piece_counts.max(initial=1))) < piece_counts[:, None]
        real_characters = np.arange(int(character_counts.max(initial=1))) < character_counts[:, None]
        return {
            "input_ids": _padded([e.pieces for e in encodings], real_pieces, self._pad),
            "attention_mask": real_pieces.astype(np.int64),
            "piece_of": _padded([e.piece_of for e in encodings], real_characters, 0),
            "characters": _padded([e.characters for e in encodings], real_characters, PADDING),
            "place_in_piece": _padded([e.place_in_piece for e in encodings], real_characters, 0),
            "place_in_word": _padded([e.place_in_word for e in encodings], real_characters, 0),
        }

    def _lengths(self, texts: list[str], pieces: Int32, first_piece: Int64, pieces_in: Int64) -> tuple[Int64, Int64]:
        """Characters that each piece covers, and 1 for a piece whose word mark stands for no character of the text."""
        lengths = self._piece_lengths[pieces].astype(np.int64)
        hidden_marks = np.zeros(len(pieces), np.int64)
        unmarked = np.fromiter((bool(text) and text[0] not in (" ", WORD_MARK) for text in texts), bool, len(texts))
        opening = first_piece[unmarked]
        hidden_marks[opening] = 1
        lengths[opening] -= 1
        # An unknown piece may cover any number of characters; only the tokenizer's offsets tell. Their begins do: a
        # hidden mark that is a piece of its own is said to cover the first letter, as the piece after it does.
        unknown = np.flatnonzero(pieces == self._unknown_piece)
        for row in np.unique(np.searchsorted(first_piece, unknown, side="right") - 1):
            start = int(first_piece[row])
            offsets = self._tokenizer.encode(texts[row], add_special_tokens=False).offsets
            begins = [begin for begin, _ in offsets]
            lengths[start : start + int(pieces_in[row])] = np.diff([*begins, len(texts[row])])
        return lengths, hidden_marks


def _spelled() -> dict[int, str]:
    """What the tokenizer would not know, spelled as it knows it, a code point for a code point.

    Its pre-tokeniser splits at U+0020 alone, and a jamo that stands alone is in the vocabulary as it is typed (ㅋ),
    not as NFKC has it.
    """
    below = range(0x3001)  # no white space lies above
    white = (code for code in below if chr(code).isspace() or unicodedata.category(chr(code)) == "Zs")
    spelled = {code: " " for code in white if code != 0x20}
    for code in range(0x3131, 0x318F):
        conjoining = unicodedata.normalize("NFKC", chr(code))
        if len(conjoining) == 1:
            spelled[ord(conjoining)] = chr(code)
    return spelled


def _divided(parts: Int64, pieces: Int32, lengths: Int64, hidden_marks: Int64) -> tuple[Int32, Int64, Int64]:
    """Each piece as so many of its own, with the characters shared out among them, all full but the last."""
    number = _count_up(parts)
    left = np.repeat(lengths, parts) - number * _MOST_OF_UNKNOWN
    is_last = number == np.repeat(parts, parts) - 1
    return (
        np.repeat(pieces, parts),
        np.where(is_last, left, _MOST_OF_UNKNOWN),
        np.repeat(hidden_marks, parts) * (number == 0),
    )


def _count_up(lengths: Int64) -> Int64:
    """0, 1, 2, ... for each length in turn: [2, 3] gives [0, 1, 0, 1, 2]."""
    return np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _places_in_words(spaces: NDArray[np.bool_], text_starts: Int64) -> Int64:
    """How many characters after the last space, or the text's start, each character stands; 0 for a space."""
    here = np.arange(len(spaces))
    anchors = np.where(spaces, here, -1)
    unspaced = text_starts[~spaces[text_starts]]
    anchors[unspaced] = unspaced - 1
    # A text's first character is an anchor even at the very start, where the place before it is -1.
    anchored = spaces.copy()
    anchored[unspaced] = True
    latest = np.maximum.accumulate(np.where(anchored, here, 0))
    return here - anchors[latest]


def _padded(rows: Sequence[Int32], real: NDArray[np.bool_], padding: int) -> Int64:
    table = np.full(real.shape, padding, np.int64)
    if rows:
        table[real] = np.concatenate(rows)
    return table
