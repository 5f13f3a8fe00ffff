"""A user's marked lines: read with spans on the normalised text, and refused with the line that is wrong."""

import json
import unicodedata

import pytest

from worker.training.labels import LabelledSpan
from worker.training.own_lines import OwnText, read_own_lines, stretches

FOLD = {"PER": "PER", "WORK": "PRODUCT", "PRODUCT": "PRODUCT", "GENRE": "GENRE"}


def read(tmp_path, *rows, marked=("GENRE",)):
    path = tmp_path / "own.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return read_own_lines(path, FOLD, marked)


def test_spans_of_labels_that_are_not_marked_are_counted_and_left_out(tmp_path):
    entities = [{"start": 0, "end": 3, "type": "PER"}, {"start": 4, "end": 6, "type": "GENRE"}]
    texts, left_out = read(tmp_path, {"text": "송강호 멜로", "entities": entities})
    assert texts == [OwnText("송강호 멜로", (LabelledSpan(4, 6, "GENRE"),))]
    assert left_out == {"PER": 1}


def test_a_line_without_entities_is_one_that_nobody_marked(tmp_path):
    texts, _ = read(tmp_path, {"text": "멜로"}, {"text": "멜로", "entities": []}, "", {"text": "  "})
    assert [own.spans for own in texts] == [None, ()]


def test_spans_move_with_normalisation(tmp_path):
    text = unicodedata.normalize("NFD", "한국 ") + "멜로"
    start = text.index("멜")
    texts, _ = read(tmp_path, {"text": text, "entities": [{"start": start, "end": start + 2, "label": "GENRE"}]})
    (span,) = texts[0].spans
    assert texts[0].text[span.start : span.end] == "멜로"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 1: not JSON"),
        ({"entities": []}, "line 1: needs `text`"),
        ({"text": "멜로", "entities": [{"start": 0, "end": 3, "type": "GENRE"}]}, "whole numbers"),
        ({"text": "멜로", "entities": [{"start": 0, "end": 2, "type": "FOOD"}]}, "FOOD stands for 0 labels"),
        ({"text": "멜로", "entities": [{"start": 0, "end": 2, "type": "PRODUCT2"}]}, "PRODUCT2"),
        ({"text": "멜로", "entities": [{"start": 0, "end": 2, "label": "FOOD"}]}, "FOOD does not stand"),
        ({"text": "멜 로", "entities": [{"start": 1, "end": 2, "label": "GENRE"}]}, "blank"),
        (
            {
                "text": "멜로물",
                "entities": [{"start": 0, "end": 2, "label": "GENRE"}, {"start": 1, "end": 3, "label": "GENRE"}],
            },
            "overlap",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_without_the_text(tmp_path, line, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        read(tmp_path, line)
    assert "멜" not in str(caught.value)


def test_stretches_cut_at_spaces_and_never_inside_a_span():
    text = "가나 다라 마바 사아"
    own = OwnText(text, (LabelledSpan(3, 8, "GENRE"),))
    parts = list(stretches(own, 6))
    assert "".join(part.text for part in parts) == text
    assert [part.text[s.start : s.end] for part in parts for s in part.spans] == ["다라 마바"]
    assert all(len(part.text) <= 6 for part in parts)


def test_a_span_longer_than_a_stretch_is_left_out_with_it():
    own = OwnText("가나다라마바사 아자", (LabelledSpan(0, 7, "GENRE"),))
    parts = list(stretches(own, 4))
    assert not any(part.spans for part in parts)
    assert "".join(part.text for part in parts) == " 아자"
