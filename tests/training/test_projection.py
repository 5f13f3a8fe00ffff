"""Known forms are laid onto sentences: the longest, the likely, and what KLUE's spans agree with."""

from worker.training.labels import LabelledSpan
from worker.training.projection import Forms, count_occurrences, project, read_forms


def projected(text, counts, occurrences=None, klue=()):
    table = Forms(counts, occurrences or {form: sum(labels.values()) for form, labels in counts.items()}, 20)
    return [(text[span.start : span.end], span.label) for span in project(text, table, klue)]


def test_the_longest_form_wins():
    counts = {"서울": {"LOC": 9}, "서울대": {"ORG": 9}}
    assert projected("서울대와 서울에", counts) == [("서울대", "ORG"), ("서울", "LOC")]


def test_a_form_that_folds_into_nothing_hides_the_forms_inside_it():
    counts = {"한국": {"LOC": 9}, "한국인": {"": 9}}
    assert projected("한국인 한국", counts) == [("한국", "LOC")]


def test_a_form_that_is_seldom_an_entity_is_left_alone():
    assert projected("하나 둘", {"하나": {"ORG": 2}}, {"하나": 100}) == []


def test_a_form_never_begins_inside_a_word():
    assert projected("이영화 (영화)", {"영화": {"WORK": 9}}) == [("영화", "WORK")]


def test_a_number_is_not_cut():
    assert projected("97개 9", {"9": {"QUANTITY": 9}}) == [("9", "QUANTITY")]


def test_a_klue_span_picks_among_a_forms_types_and_opens_words():
    counts = {"한국": {"LOC": 90, "ORG": 3}}
    assert projected("한국", counts) == [("한국", "LOC")]
    assert projected("한국", counts, klue=[LabelledSpan(0, 2, "OG")]) == [("한국", "ORG")]
    assert projected("이한국", counts, klue=[LabelledSpan(1, 3, "LC")]) == [("한국", "LOC")]


def test_occurrences_are_counted_longest_first(tmp_path):
    (tmp_path / "forms.tsv").write_text("서울\tLCP_CAPITALCITY\t2\n서울대\tOGG_EDUCATION\t1\n", "utf-8")
    forms = count_occurrences(read_forms(tmp_path / "forms.tsv"), ["서울대 서울 서울", "남서울"])
    assert dict(forms.occurrences) == {"서울대": 1, "서울": 2}
    assert forms.share("서울", "LOC") == 1
