"""Two ways of writing the same JSON mean the same, and nothing else does."""

import json

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.audit.meaning import read_meaning

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
records = st.dictionaries(st.text() | st.sampled_from(["entities", "enrichment", "text"]), values, max_size=5)


@settings(max_examples=80, deadline=None)
@given(record=records, ascii_only=st.booleans(), indent=st.sampled_from([None, 1]))
def test_space_and_escapes_mean_nothing(record: dict, ascii_only: bool, indent: int | None):
    one = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    other = json.dumps(record, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    assert read_meaning(one) == read_meaning(one)
    assert read_meaning(one).without_added == read_meaning(other).without_added


@settings(max_examples=80, deadline=None)
@given(record=records)
def test_the_form_without_what_was_added_is_the_record_without_it(record: dict):
    value = json.dumps(record).encode()
    meaning = read_meaning(value)
    kept = {name: part for name, part in record.items() if name not in ("entities", "enrichment")}
    assert json.loads(meaning.without_added.decode()) == kept
    for name, part in record.items():
        assert meaning.member(name) == part


@settings(max_examples=60, deadline=None)
@given(one=records, other=records)
def test_different_records_differ(one: dict, other: dict):
    kept = [json.dumps({n: v for n, v in r.items() if n not in ("entities", "enrichment")}) for r in (one, other)]
    same = (
        read_meaning(json.dumps(one).encode()).without_added == read_meaning(json.dumps(other).encode()).without_added
    )
    assert same == (kept[0] == kept[1])


@pytest.mark.parametrize("value", [b"", b"{", b"{}x", b"nul", b"\xff", b'{"a":NaN}', b'{"a":1,}', b"[" * 200_000])
def test_what_is_not_json_has_no_meaning(value: bytes):
    assert read_meaning(value) is None


@pytest.mark.parametrize(
    "value", [b'{"a":1e400}', b'{"a":' + b"9" * 6_000 + b"}", b'{"a":"\\ud83d"}', b'\xef\xbb\xbf{"a":1}', b"7", b" [1]"]
)
def test_odd_but_legal_json_is_read(value: bytes):
    assert read_meaning(value) is not None


def test_a_byte_order_mark_means_nothing():
    assert read_meaning(b'\xef\xbb\xbf{"a":1}') == read_meaning(b'{"a":1}')


def test_of_two_members_alike_the_last_is_read_and_both_count():
    meaning = read_meaning(b'{"text":"a","text":"b","\\u0065ntities":[1]}')
    assert meaning.member("text") == "b"
    assert meaning.member("entities") == [1]
    assert meaning.without_added == b'{"text":"a","text":"b"}'


def test_nested_members_of_the_same_name_stay():
    value = orjson.dumps({"a": {"entities": 1}, "entities": {"b": [1, {"c": 2}]}, "z": []})
    assert read_meaning(value).without_added == b'{"a":{"entities":1},"z":[]}'
