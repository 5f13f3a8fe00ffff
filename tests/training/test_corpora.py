"""The corpora are read with exact spans, whatever their spacing and particles."""

import json

import pytest

from worker.training.corpora import canonical, read_gold, read_klue, read_multiconer
from worker.training.labels import LabelledSpan


def forms(sentence):
    return [(sentence.text[span.start : span.end], span.label) for span in sentence.fine]


def test_fine_spans_move_to_a_text_that_is_spaced_differently(tmp_path):
    row = {"text": "이 영화 감독 봉준호다", "klue": [[8, 11, "PS"]], "fine_text": "이영화 감독 봉준호다"}
    (tmp_path / "dev.jsonl").write_text(
        json.dumps(row | {"fine": [[7, 10, "PS_NAME"], [4, 6, "CV_POSITION"]]}), "utf-8"
    )
    (sentence,) = read_klue(tmp_path / "dev.jsonl")
    assert forms(sentence) == [("봉준호", "PER")]
    assert sentence.klue == (LabelledSpan(8, 11, "PS"),)


def test_a_sentence_whose_fine_text_is_another_has_no_fine_layer(tmp_path):
    row = {"text": "봉준호", "klue": [], "fine_text": "박찬욱", "fine": [[0, 3, "PS_NAME"]]}
    (tmp_path / "dev.jsonl").write_text(json.dumps(row), "utf-8")
    assert read_klue(tmp_path / "dev.jsonl")[0].fine is None


def test_gold_is_read_over_the_text_it_was_marked_on(tmp_path):
    row = {
        "text": "칸 영화제",
        "klue": [],
        "fine_text": "칸영화제",
        "fine": [[0, 4, "EV_FESTIVAL"], [0, 1, "LCP_CITY"]],
    }
    (tmp_path / "dev.jsonl").write_text(json.dumps(row), "utf-8")
    assert read_gold(tmp_path / "dev.jsonl", "fine") == [("칸영화제", [LabelledSpan(0, 4, "EVENT")])]
    assert read_gold(tmp_path / "dev.jsonl", "klue") == [("칸 영화제", [])]
    with pytest.raises(ValueError, match="'seed'"):
        read_gold(tmp_path / "dev.jsonl", "seed")


def test_particles_are_cut_off_the_last_word_of_a_multiconer_span(tmp_path):
    words = [
        "봉준호 B-PER",
        "경기도 B-LOC",
        "서울에서 B-LOC",
        "런던 B-GRP",
        "대학교는 I-GRP",
        "기생충을 B-CW",
        "봤다 O",
    ]
    block = "# id 1\tdomain=train\n" + "".join("{} _ _ {}\n".format(*word.split()) for word in words)
    (tmp_path / "m.conll").write_text(block + "\n", "utf-8")
    assert forms(read_multiconer(tmp_path / "m.conll")[0]) == [
        ("봉준호", "PER"),
        ("경기도", "LOC"),
        ("서울", "LOC"),
        ("런던 대학교", "ORG"),
        ("기생충", "WORK"),
    ]


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("ㅋㅋ", "ㅋㅋ"),
        ("\u110f\u110f", "ㅋㅋ"),
        ("ＡＢ１", "AB1"),
        ("a\u3000b\tc", "a b c"),
        ("\u1100\u1161", "가"),
        ("…㎞", "…㎞"),
    ],
)
def test_canonical_text_spells_each_character_one_way(typed, read):
    assert canonical(typed) == read
