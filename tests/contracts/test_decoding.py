"""What passes into the worker, and why the rest is refused."""

import sys

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.contracts import Contracts, Refused
from worker.records import Kind

CONTRACTS = Contracts()
LIMIT = 20_000
REVIEW = {"review_id": "1", "text": "이병헌 최고"}


def review(**fields: object) -> bytes:
    return orjson.dumps({**REVIEW, **fields})


def refusal(value: bytes, kind: Kind = "review", limit: int = LIMIT) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        CONTRACTS.decode(kind, value, limit)
    return caught.value.reason, caught.value.detail


def is_read_or_refused(kind: Kind, value: bytes) -> bool:
    try:
        document = CONTRACTS.decode(kind, value, LIMIT)
    except Refused as refused:
        return 0 < len(refused.detail) <= 200 and "\n" not in refused.detail
    return document.text.encode().decode() == document.text


def test_a_review_is_its_bytes_and_its_text() -> None:
    value = review(rating=9.5, movie_id="31904", written_at="2026-03-04T12:00:00Z", title="좋다", extra=[None])
    document = CONTRACTS.decode("review", value, LIMIT)
    assert document.raw == value
    assert document.text == "이병헌 최고"
    assert not document.enriched_before


def test_a_query_is_held_to_the_schema_of_queries() -> None:
    assert CONTRACTS.decode("query", b'{"query_id":"1","text":""}', LIMIT).text == ""
    assert refusal(review(), kind="query") == ("schema", "/query_id: missing, but required")


@pytest.mark.parametrize("name", ["entities", "enrichment", "\\u0065ntities"])
def test_a_record_that_was_enriched_before_is_known(name: str) -> None:
    value = f'{{"review_id":"1","{name}":7,"text":"a"}}'.encode()
    assert CONTRACTS.decode("review", value, LIMIT).enriched_before


def test_entities_deeper_in_a_record_are_its_own() -> None:
    assert not CONTRACTS.decode("review", review(source={"entities": [1], "enrichment": {}}), LIMIT).enriched_before


def test_text_is_the_value_of_the_json_string() -> None:
    value = b'{"review_id":"1","text":"\\uc774\\ud83d\\ude00\\n\\u0000\\/"}'
    assert CONTRACTS.decode("review", value, LIMIT).text == "이😀\n\0/"


def test_the_last_of_two_texts_counts() -> None:
    assert CONTRACTS.decode("review", b'{"review_id":"1","text":7,"text":"b"}', LIMIT).text == "b"


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        (b'{"review_id":"1","text":"\xff"}', "byte 25 (0xff): invalid start byte"),
        (b'{"review_id":"1","text":"\xed\xa0\x80"}', "byte 25 (0xed): invalid continuation byte"),
        ("이병헌".encode("cp949"), "byte 0 (0xc0): invalid start byte"),
        ('{"review_id":"1","text":"a"}'.encode("utf-16"), "byte 0 (0xff): invalid start byte"),
    ],
)
def test_what_is_not_utf8_is_refused_with_the_byte(value: bytes, detail: str) -> None:
    assert refusal(value) == ("not_utf8", detail)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (b"", "line 1, column 1: "),
        (b"  ", "line 1, column "),
        (b"review", "line 1, column 1: "),
        (b'{"review_id":"1","text":"a"} x', "line 1, column 30: "),
        ('{"review_id":"1",\n "제목": 이}'.encode(), "line 2, column 8: "),
        (b'{"review_id":"1","text":"a\nb"}', "line 1, column 2"),
        (b'{"review_id":"1","text":"a","n":NaN}', "line 1, column 33: "),
        (b'{"review_id":"1","text":"a","n":-Infinity}', "line 1, column "),
        (b'{"review_id":"1","text":"a","n":01}', "line 1, column "),
        (b'{"review_id":"1","text":"a",}', "line 1, column "),
        (b"{'review_id':'1'}", "line 1, column 2: "),
        (b'{"review_id":"1","text":"a"}\0', "line 1, column 29: "),
        (b'{"review_id":"1","text":"a","n":' + b"[" * 5000 + b"]" * 5000 + b"}", "line 1, column "),
        (b"[" * 1_000_000, "line 1, column "),
        (b'\xef\xbb\xbf{"a"', "line 1, column "),
    ],
)
def test_what_is_not_json_is_refused_with_line_and_column(value: bytes, place: str) -> None:
    reason, detail = refusal(value)
    assert reason == "not_json"
    assert detail.startswith(place)
    assert len(detail) > len(place)


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        (review(text=7), '/text: 7 is not of type "string"'),
        (review(text=None), '/text: null is not of type "string"'),
        (review(text=True), '/text: true is not of type "string"'),
        (review(text=["비밀"]), '/text: an array is not of type "string"'),
        (review(text={"비밀": "비밀"}), '/text: an object is not of type "string"'),
        (review(rating="비밀"), '/rating: a string is not of types "null", "number"'),
        (review(written_at="비밀"), '/written_at: a string is not a "date-time"'),
        (b'{"review_id":"1"}', "/text: missing, but required"),
        (b"[1]", 'the record: an array is not of type "object"'),
        (b'"\xeb\xb9\x84\xeb\xb0\x80"', 'the record: a string is not of type "object"'),
        (b"7", 'the record: 7 is not of type "object"'),
        (b"null", 'the record: null is not of type "object"'),
        (b'{"text":7}', '/review_id: missing, but required; /text: 7 is not of type "string"'),
    ],
)
def test_what_breaks_the_schema_is_refused_with_the_place_and_nobodys_words(value: bytes, detail: str) -> None:
    reason, found = refusal(value)
    assert reason == "schema"
    assert sorted(found.split("; ")) == sorted(detail.split("; "))


@pytest.mark.parametrize(
    "time", ["2026-03-04T12:00:00Z", "2026-03-04T21:00:00.123456789+09:00", "2026-03-04t12:00:00z", None]
)
def test_times_are_rfc_3339(time: str | None) -> None:
    assert CONTRACTS.decode("review", review(written_at=time), LIMIT)


@pytest.mark.parametrize("time", ["2026-03-04 12:00:00", "2026-03-04T12:00:00", "2026-02-30T12:00:00Z", "12.10.16", ""])
def test_other_times_are_refused(time: str) -> None:
    assert refusal(review(written_at=time)) == ("schema", '/written_at: a string is not a "date-time"')


def test_length_is_counted_in_code_points() -> None:
    assert CONTRACTS.decode("review", review(text="😀가" * 10), 20)
    assert refusal(review(text="😀가" * 10 + "a"), limit=20) == (
        "too_long",
        "/text: 21 code points, more than max_text_chars 20",
    )


def test_a_byte_order_mark_is_ignored_and_not_carried_over() -> None:
    document = CONTRACTS.decode("review", b"\xef\xbb\xbf" + review(), LIMIT)
    assert document.raw == review()


@pytest.mark.parametrize(
    "field",
    [
        b'"n":1e400',
        b'"n":-1e400',
        b'"rating":1e400',
        b'"n":' + b"9" * 5000,
        b'"n":"\\ud83d"',
        b'"n":["\\ud83d",{"\\udc00":1e400}]',
        b'"\\ud83d":1',
        b'"title":"\\ud83d"',
    ],
)
def test_legal_json_that_python_cannot_hold_is_carried_over(field: bytes) -> None:
    value = b'{"review_id":"1","text":"a",%b}' % field
    document = CONTRACTS.decode("review", value, LIMIT)
    assert (document.raw, document.text) == (value, "a")


def test_half_an_emoji_in_the_text_is_refused_with_its_place() -> None:
    assert refusal(b'{"review_id":"1","text":"ab\\ud83d"}') == (
        "not_json",
        "/text: code point 2 is a surrogate escape without its other half",
    )


def test_half_an_emoji_in_a_time_breaks_its_format() -> None:
    assert refusal(b'{"review_id":"1","text":"a","written_at":"\\ud83d"}') == (
        "schema",
        '/written_at: a string is not a "date-time"',
    )


def test_depth_is_refused_alike_whatever_else_a_record_holds() -> None:
    deep = b'{"review_id":"1","text":"a","n":[1e400,' + b"[" * 1100 + b"]" * 1100 + b"]}"
    assert refusal(deep)[0] == "not_json"
    nested = b'{"review_id":"1","text":"a","n":' + b"[" * 1000 + b"]" * 1000 + b"}"
    assert CONTRACTS.decode("review", nested, LIMIT).raw == nested


def test_a_detail_is_short_and_on_one_line() -> None:
    refused = Refused("model_error", "x" * 1000)
    assert len(refused.detail) == 200
    _, detail = refusal(review(review_id=[1], text=[1], title=[1], movie_id=[1], rating=[1], written_at=[1]))
    assert len(detail) <= 200
    assert "\n" not in detail


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,\\ud8e1.-+0 \n\ufeff가', max_size=60).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused(value: bytes) -> None:
    assert is_read_or_refused("query", value)


@given(st.binary(min_size=1, max_size=4), st.integers(0, 100))
@settings(max_examples=300, deadline=None)
def test_a_record_with_bytes_thrown_in_is_read_or_refused(noise: bytes, at: int) -> None:
    value = review(title="좋다", rating=9.5, n=[1, {"a": None}])
    at = min(at, len(value))
    assert is_read_or_refused("review", value[:at] + noise + value[at:])


def test_numbers_python_cannot_hold_are_finite_for_the_schema() -> None:
    from worker.contracts.parsing import parse_leniently

    _, record = parse_leniently(b'{"a":1e400,"b":-1e400}')
    assert record == {"a": sys.float_info.max, "b": -sys.float_info.max}
