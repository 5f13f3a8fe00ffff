"""The arrays that the tagger reads line up with the text, character for character."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from model_folder import CHARACTERS, make_model_folder
from tokenizers import Tokenizer, models

from worker.ner.encoding import CharacterEncoder, Encoding

TEXTS = st.text(st.sampled_from(CHARACTERS + "뷁龘😀▁\t\n　ᄏ<s>/"), max_size=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def encoder(folder):
    return CharacterEncoder.from_folder(folder)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@given(texts=st.lists(TEXTS, max_size=5))
def test_every_character_is_covered_by_the_piece_that_the_tokenizer_says(encoder, tokenizer, texts):
    for text, encoding in zip(texts, encoder.encode(texts), strict=True):
        plain = "".join(" " if c.isspace() else "ㅋ" if c == "ᄏ" else c for c in text)
        expected = tokenizer.encode(plain)
        assume(all(end - start <= 8 for start, end in expected.offsets))  # more are divided, as the next test says
        typed_marks = [3 if 0 < place < len(expected) - 1 and i < 3 else i for place, i in enumerate(expected.ids)]
        assert encoding.pieces.tolist() == typed_marks
        assert [len(encoding.piece_of), len(encoding.place_in_word)] == [len(text)] * 2
        assert (np.diff(encoding.piece_of) >= 0).all()
        for index, (start, end) in enumerate(expected.offsets):
            # A word mark alone before an unknown letter stands for nothing; both are said to cover the letter.
            if start < end and expected.offsets[index + 1][0] != start:
                assert (encoding.piece_of[start:end] == index).all()


@pytest.mark.parametrize("unknown", ["😀" * 20, "뷁龘" * 10])
def test_what_the_vocabulary_lacks_has_as_many_pieces_as_it_is_long(encoder, tokenizer, unknown):
    assert len(tokenizer.encode(unknown, add_special_tokens=False).ids) <= 2
    for text in (unknown, f"영화 {unknown} 이병헌은"):
        (encoding,) = encoder.encode([text])
        start = text.index(unknown)
        covering = encoding.piece_of[start : start + 20]
        assert np.bincount(covering)[covering[0] :].tolist() in ([8, 8, 4], [7, 8, 5])  # 7 with a space before
        assert (encoding.pieces[covering] == 3).all()
        assert encoding.piece_of[-1] == len(encoding.pieces) - 2
        assert (np.diff(encoding.piece_of) >= 0).all()


@given(texts=st.lists(TEXTS, min_size=1, max_size=5))
def test_a_text_is_encoded_the_same_beside_others(encoder, texts):
    for text, together in zip(texts, encoder.encode(texts), strict=True):
        (alone,) = encoder.encode([text])
        for name in Encoding.__slots__:
            assert getattr(together, name).tolist() == getattr(alone, name).tolist()


def test_places_start_at_the_space_before_a_piece_and_after_it_in_a_word(encoder):
    (encoding,) = encoder.encode(["영화 이병헌은"])
    # ▁영화 · ▁이 · 병헌 · 은
    assert encoding.piece_of.tolist() == [1, 1, 2, 2, 3, 3, 4]
    assert encoding.place_in_piece.tolist() == [1, 2, 0, 1, 0, 1, 0]
    assert encoding.place_in_word.tolist() == [1, 2, 0, 1, 2, 3, 4]


def test_places_stop_at_the_sizes_of_the_model(encoder):
    (encoding,) = encoder.encode(["가나다라마바사아자차카타파하"])
    assert encoding.place_in_word.max() == 7


def test_a_typed_special_token_is_only_characters(encoder):
    (encoding,) = encoder.encode(["<s></s><pad><unk>"])
    assert encoding.pieces[0] == 0
    assert encoding.pieces[-1] == 2
    assert not set(encoding.pieces[1:-1].tolist()) & {0, 1, 2}


def test_characters_without_a_row_are_unknown_and_none_is_padding(encoder):
    (encoding,) = encoder.encode(["이뷁"])
    assert encoding.characters[1] == 1
    assert encoding.characters[0] > 1


def test_empty_texts_have_two_pieces_and_no_character(encoder):
    first, second = encoder.encode(["", ""])
    assert first.pieces.tolist() == second.pieces.tolist() == [0, 2]
    assert len(first.characters) == 0
    assert encoder.encode([]) == []


def test_collate_pads_to_the_longest(encoder):
    batch = encoder.collate(encoder.encode(["이병헌은 영화", "", "영화"]))
    assert {name: array.dtype for name, array in batch.items()} == dict.fromkeys(batch, np.dtype(np.int64))
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (3, 6)
    assert batch["attention_mask"].sum(axis=1).tolist() == [6, 2, 3]
    assert batch["input_ids"][1].tolist() == [0, 2, 1, 1, 1, 1]
    assert batch["characters"].shape == (3, 7)
    assert (batch["characters"][0] > 0).all()
    assert not batch["characters"][1].any()


def test_collate_leaves_a_place_for_the_convolutions_to_stand_on(encoder):
    assert encoder.collate(encoder.encode([""]))["characters"].shape == (1, 1)


def test_a_tokenizer_without_special_pieces_is_refused():
    with pytest.raises(ValueError, match="no <s>, <pad>, </s>"):
        CharacterEncoder(Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0)), "a", 4, 8)
