import numpy as np
import pytest

from worker.ner.decoding import decode
from worker.ner.tags import TagTable


def tagged(names, *tags):
    """Spans of a text whose places clearly have these tags."""
    logits = np.full((1, len(tags), len(names)), -9.0, np.float32)
    for place, tag in enumerate(tags):
        logits[0, place, names.index(tag)] = 9.0
    table = TagTable.of(names, strict=False)
    return [(s.start, s.end, s.label) for s in decode(logits, np.array([len(tags)]), table)[0]]


def test_iob2():
    names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    assert tagged(names, "B-PER", "I-PER", "B-PER", "O", "I-LOC", "I-PER") == [
        (0, 2, "PER"),
        (2, 3, "PER"),
        (4, 5, "LOC"),
        (5, 6, "PER"),
    ]


def test_bioes_and_bilou():
    names = ["O", "B-X", "I-X", "E-X", "S-X"]
    assert tagged(names, "B-X", "E-X", "I-X", "S-X", "S-X") == [(0, 2, "X"), (2, 3, "X"), (3, 4, "X"), (4, 5, "X")]
    names = ["O", "B-X", "I-X", "L-X", "U-X"]
    assert tagged(names, "U-X", "B-X", "I-X", "L-X", "O") == [(0, 1, "X"), (1, 4, "X")]


def test_labels_without_prefix_and_prefix_behind():
    assert tagged(["O", "PER", "LOC"], "PER", "PER", "LOC", "O") == [(0, 2, "PER"), (2, 3, "LOC")]
    assert tagged(["O", "PER-B", "PER-I"], "PER-B", "PER-I", "PER-B") == [(0, 2, "PER"), (2, 3, "PER")]


def test_a_label_may_hold_separators():
    table = TagTable.of(["O", "B-QT_PRICE", "I-QT_PRICE", "B-A-B", "I-A-B"], strict=True)
    assert table.labels == ("QT_PRICE", "A-B")


@pytest.mark.parametrize("names", [["B-X", "I-X"], ["O", "I-X"], ["O", "B-X"], ["O", "S-X"]])
def test_tags_that_are_not_iob2_are_refused_where_that_is_asked(names):
    with pytest.raises(ValueError, match="tag"):
        TagTable.of(names, strict=True)
