import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.text.normalise import LONGEST_RUN, normalise

ODDITIES = [
    *(
        "e\u0301",
        "ㅋㅋㅋㅋㅋㅋㅋ",
        "㈜한빛",
        "①②",
        "ﬁ",
        "ＡＢＣ１２",
        "ﾡﾢ",
        "이병헌은",
        "￣",
        "½",
        "ﷺ",
        "ｶﾞ",
        "!!!!!!!!",
    ),
    *("👨\u200d👩\u200d👧", "❤\ufe0f", "👍🏽", "🇰🇷🇺🇸", "\u200b", "\ufeff", "\u3000", "\u00a0", "\t", "\r\n", "\ud800"),
    *("\u1100\u1100\u1161", "\u11a8", "\u3164", "\u115f\u1161", "\u0300", unicodedata.normalize("NFD", "각하의 값")),
]
korean = st.text(st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3) | st.sampled_from(" .,ㅋㅠaB1"), max_size=30)
anything = st.lists(st.sampled_from(ODDITIES) | st.text(max_size=4) | korean, max_size=8).map("".join)


@given(anything)
@example("".join(ODDITIES))
@settings(max_examples=300)
def test_every_span_maps_into_the_text_in_order(text):
    normalised = normalise(text)
    length = len(normalised.text)
    singles = [normalised.span(i, i + 1) for i in range(length)]
    assert all(0 <= start < end <= len(text) for start, end in singles)
    assert [start for start, _ in singles] == sorted(start for start, _ in singles)
    assert [end for _, end in singles] == sorted(end for _, end in singles)
    if length:
        assert normalised.span(0, length) == (singles[0][0], singles[-1][1])


@given(anything)
@settings(max_examples=300)
def test_normalising_twice_changes_nothing_more(text):
    once = normalise(text).text
    assert normalise(once).text == once


@given(anything)
@settings(max_examples=300)
def test_result_is_nfc_without_controls_or_other_spaces(text):
    once = normalise(text).text
    assert unicodedata.is_normalized("NFC", once)
    assert all(c == " " or not c.isspace() for c in once)
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in once)


@given(anything)
def test_a_span_never_cuts_a_mark_or_a_jamo_from_its_character(text):
    normalised = normalise(text)
    for i in range(len(normalised.text)):
        start, end = normalised.span(i, i + 1)
        assert end == len(text) or not unicodedata.combining(text[end])
        # What is composed apart from its neighbours composes to the same as with them.
        parts = [unicodedata.normalize("NFC", part) for part in (text[:start], text[start:end], text[end:])]
        assert "".join(parts) == unicodedata.normalize("NFC", text)


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E) | st.sampled_from("가힣뷁ㅋㅠㄳ"), max_size=40))
def test_plain_text_stays_as_it_is(text):
    normalised = normalise(text)
    if not any(c * (LONGEST_RUN + 1) in text for c in set(text) - set("0123456789")):
        assert normalised.text == text
        assert all(normalised.span(i, i + 1) == (i, i + 1) for i in range(len(text)))


@given(korean, st.data())
def test_spans_of_decomposed_text_are_those_of_composed_text(text, data):
    composed = normalise(text)
    decomposed_source = unicodedata.normalize("NFD", text)
    decomposed = normalise(decomposed_source)
    assert decomposed.text == composed.text
    if composed.text:
        start = data.draw(st.integers(0, len(composed.text) - 1))
        end = data.draw(st.integers(start + 1, len(composed.text)))
        a, b = composed.span(start, end)
        c, d = decomposed.span(start, end)
        assert unicodedata.normalize("NFC", decomposed_source[c:d]) == text[a:b]


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        ("ＣＧＶ　１２３！", "CGV 123!"),
        ("㈜한빛", "(주)한빛"),
        ("①ﬁ㎞²", "1fikm2"),
        ("ㅋㅋㅠㅠㄳ", "ㅋㅋㅠㅠㄳ"),
        ("ﾡﾻￇ", "ㄱㅋㅔ"),
        ("\u110f\u110f", "ㅋㅋ"),
        ("ㅋ" * 30, "ㅋㅋㅋㅋㅋ"),
        ("최고!!!!!!!!!", "최고!!!!!"),
        ("10000000000원", "10000000000원"),
        ("가\t나\n다\u00a0라\u2003마", "가 나 다 라 마"),
        ("이\u200b병\ufeff헌\u0000", "이병헌"),
        ("👨\u200d👩\u200d👧 ❤\ufe0f", "👨👩👧 ❤"),
        ("가\u11a8", "각"),
        ("e\u200b\u0301", "é"),
        ("\ud83d가", "\ufffd가"),
        ("", ""),
    ],
)
def test_normal_forms(received, expected):
    assert normalise(received).text == expected


def test_a_span_covers_all_of_a_run_that_was_cut():
    text = "와" + "ㅋ" * 20 + " 이병헌"
    normalised = normalise(text)
    end = normalised.text.index(" ")
    assert normalised.span(0, end) == (0, 21)
    start = normalised.text.index("이")
    assert normalised.span(start, start + 3) == (22, 25)


def test_zero_width_characters_around_a_name_are_not_in_its_span():
    normalised = normalise("\u200b이\u200b병헌\u200b은")
    assert normalised.span(0, 3) == (1, 5)


def test_part_of_a_joined_emoji_maps_to_the_whole():
    family = "👨\u200d👩\u200d👧"
    normalised = normalise(f"a{family}b")
    assert {normalised.span(i, i + 1) for i in (1, 2, 3)} == {(1, 6)}
    flag = normalise("🇰🇷🇺🇸")
    assert [flag.span(i, i + 1) for i in range(4)] == [(0, 2), (0, 2), (2, 4), (2, 4)]
    assert normalise("👍🏽!").span(0, 1) == (0, 2)
    assert normalise("❤\ufe0f!").span(0, 1) == (0, 2)


def test_a_long_hostile_text_takes_no_long_time():
    normalise("e" + "\u0301" * 20_000)
    normalise("\u1100" * 20_000)
    normalise("🇰" * 20_000)
