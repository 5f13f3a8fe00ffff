"""Scores: our counts against `seqeval`, and exact spans by type."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import classification_report, f1_score
from seqeval.scheme import IOB2

from worker.training.evaluation import confusion, evaluate, evaluate_klue, klue_tags, score_spans, strict_spans
from worker.training.labels import KLUE, LabelledSpan

LABELS = [tag[2:] for tag in KLUE.tags if tag.startswith("B-")]


@st.composite
def spans(draw, length):
    cuts = sorted(draw(st.lists(st.integers(0, length), unique=True, max_size=8)))
    pairs = [(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False) if a < b]
    return [LabelledSpan(a, b, draw(st.sampled_from(LABELS))) for a, b in pairs]


@st.composite
def sentences(draw):
    text = draw(st.text(st.sampled_from("가나다 "), min_size=1, max_size=20))
    return text, draw(spans(len(text))), draw(spans(len(text)))


@settings(max_examples=60)
@given(st.lists(sentences(), min_size=1, max_size=6))
def test_klue_entity_scores_are_seqevals(data):
    true = [klue_tags(text, gold) for text, gold, _ in data]
    found = [klue_tags(text, guess) for text, _, guess in data]
    if not any(tag != "O" for tags in [*true, *found] for tag in tags):
        return
    report = classification_report(
        [[tag for tags in true for tag in tags]],
        [[tag for tags in found for tag in tags]],
        mode="strict",
        scheme=IOB2,
        output_dict=True,
        zero_division=0,
    )
    scores = klue_scores(data)
    assert scores.entity_macro_f1 == pytest.approx(report["macro avg"]["f1-score"])
    for label, score in scores.entities.by_type.items():
        assert score.f1 == pytest.approx(report[label]["f1-score"])
        assert score.precision == pytest.approx(report[label]["precision"])


@settings(max_examples=60)
@given(st.lists(sentences(), min_size=1, max_size=6))
def test_klue_character_scores_are_the_mean_over_all_thirteen_tags(data):
    true = [tag for text, gold, _ in data for tag in klue_tags(text, gold)]
    found = [tag for text, _, guess in data for tag in klue_tags(text, guess)]
    by_hand = []
    for tag in KLUE.tags:
        right = sum(a == b == tag for a, b in zip(true, found, strict=True))
        either = true.count(tag) + found.count(tag)
        by_hand.append(2 * right / either if either else 1.0)  # KLUE's code divides with zero_division=True
    assert len(by_hand) == 13
    assert klue_scores(data).character_macro_f1 == pytest.approx(sum(by_hand) / 13)


def test_a_span_ends_with_its_sentence_in_flattened_data():
    data = [("가나", [LabelledSpan(0, 2, "PS")], [LabelledSpan(0, 2, "PS")]), ("다", [LabelledSpan(0, 1, "PS")], [])]
    flat = [[tag for text, gold, _ in data for tag in klue_tags(text, gold)]]
    guessed = [[tag for text, _, guess in data for tag in klue_tags(text, guess)]]
    assert (flat, guessed) == ([["B-PS", "I-PS", "B-PS"]], [["B-PS", "I-PS", "O"]])
    expected = f1_score(flat, guessed, average="macro", mode="strict", scheme=IOB2)
    assert klue_scores(data).entity_macro_f1 == pytest.approx(expected) == pytest.approx(2 / 3)


def klue_scores(data):
    return evaluate_klue(lambda _: [guess for _, _, guess in data], [(text, gold) for text, gold, _ in data])


@given(st.lists(st.sampled_from(KLUE.tags), max_size=12))
def test_strict_spans_are_seqevals(tags):
    from seqeval.scheme import Entities

    expected = [(e.start, e.end, e.tag) for e in Entities([list(tags)], IOB2).entities[0]]
    assert [(s.start, s.end, s.label) for s in strict_spans(tags)] == expected


def test_spaces_carry_no_tag_in_klues_protocol():
    assert klue_tags("가 나 다", [LabelledSpan(0, 3, "PS")]) == ["B-PS", "I-PS", "O"]
    assert klue_tags("가 나", [LabelledSpan(1, 2, "PS")]) == ["O", "O"]


def test_character_scores_count_o_as_a_tag():
    scores = evaluate_klue(lambda texts: [[]], [("가나 다", [LabelledSpan(0, 1, "PS")])])
    assert scores.characters["O"].f1 == pytest.approx(2 * 2 / (3 + 2))
    assert scores.characters["B-PS"].f1 == 0
    assert scores.character_macro_f1 == pytest.approx((0.8 + 0 + 11) / 13)


def test_spans_must_be_exact():
    true = [LabelledSpan(0, 3, "PER"), LabelledSpan(5, 8, "WORK"), LabelledSpan(9, 10, "LOC")]
    found = [LabelledSpan(0, 3, "PER"), LabelledSpan(5, 7, "WORK"), LabelledSpan(9, 10, "ORG")]
    scores = score_spans([found], [true])
    assert (scores.micro.right, scores.micro.found, scores.micro.true) == (1, 3, 3)
    assert scores.by_type["PER"].f1 == 1
    assert scores.macro_f1 == pytest.approx(1 / 4)


def test_types_fold_and_fall_away_on_both_sides():
    gold = [("가나다라", [LabelledSpan(0, 1, "WORK"), LabelledSpan(2, 3, "QUANTITY")])]
    scores = evaluate(
        lambda texts: [[LabelledSpan(0, 1, "PRODUCT")]], gold, leave_out=["QUANTITY"], fold={"WORK": "PRODUCT"}
    )
    assert list(scores.by_type) == ["PRODUCT"]
    assert scores.macro_f1 == 1


def test_confusion_tells_what_each_type_was_taken_for():
    def span(start, end, label):
        return LabelledSpan(start, end, label)

    true = [[span(0, 3, "PER"), span(4, 6, "WORK"), span(7, 9, "ORG"), span(10, 12, "LOC")], [span(0, 2, "WORK")], []]
    found = [
        [span(0, 3, "PER"), span(4, 6, "PER"), span(7, 8, "ORG"), span(13, 14, "DATE")],
        [span(0, 1, "PRODUCT")],
        [span(0, 1, "WORK")],
    ]
    assert confusion(found, true) == {
        "LOC": {"none": 1},
        "ORG": {"boundary": 1},
        "PER": {"PER": 1},
        "WORK": {"PER": 1, "none": 1},
        "none": {"DATE": 1, "PRODUCT": 1, "WORK": 1},
    }
