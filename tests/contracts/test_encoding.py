"""Enriched records: the raw record as it was, with two members more."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.contracts import Contracts
from worker.contracts.schemas import validator
from worker.records import Document, Enrichment, Entity, Origin
from worker.text.members import remove_members

CONTRACTS = Contracts()
ENRICHED = validator("enriched")
LIMIT = 20_000
ENTITIES = (
    Entity("text", 0, 3, "이병헌", "PER", "PER", 0.987654321),
    Entity("text", 4, 6, "최고", "PRODUCT", "WORK", 1.0, {"year": 2012}, {"id": "movie:1"}),
)
ENRICHMENT = Enrichment("review", "koner-base", "5f2c19ab04de", "seed")
ORIGIN = Origin("reviews.raw", 3, 1182)
AT = "2026-03-04T12:00:01.204Z"

MEMBERS_TEXT = (
    '"entities":[{"field":"text","start":0,"end":3,"text":"이병헌","type":"PER","label":"PER","score":0.9877},'
    '{"field":"text","start":4,"end":6,"text":"최고","type":"PRODUCT","label":"WORK","score":1.0,'
    '"value":{"year":2012},"link":{"id":"movie:1"}}],'
    '"enrichment":{"kind":"review","model":"koner-base","revision":"5f2c19ab04de","taxonomy":"seed",'
    '"source":{"topic":"reviews.raw","partition":3,"offset":1182},"enriched_at":"2026-03-04T12:00:01.204Z"}'
)


def enrich(value: bytes, entities: tuple[Entity, ...] = ENTITIES) -> bytes:
    return CONTRACTS.encode(CONTRACTS.decode("review", value, LIMIT), entities, ENRICHMENT, ORIGIN, AT)


def meaning(value: bytes) -> Any:
    """What JSON says, to the digit: numbers as they are written, objects as their members in order."""
    return json.loads(value, parse_float=lambda digits: ("number", digits), parse_int=lambda digits: ("number", digits),
                      object_pairs_hook=lambda pairs: ("object", pairs))  # fmt: skip


def test_the_two_members_stand_at_the_end() -> None:
    enriched = enrich('{"review_id":"1","text":"이병헌 최고"}'.encode())
    assert enriched.decode() == '{"review_id":"1","text":"이병헌 최고",' + MEMBERS_TEXT + "}"
    ENRICHED.validate(orjson.loads(enriched))


def test_a_record_without_entities_gets_an_empty_list() -> None:
    enriched = orjson.loads(enrich(b'{"review_id":"1","text":"a"}', ()))
    assert enriched["entities"] == []
    ENRICHED.validate(enriched)


def test_numpy_scores_are_written_as_numbers() -> None:
    import numpy as np

    scored = Entity("text", 0, 1, "a", "PER", "PER", np.float32(0.98765432))  # type: ignore[arg-type]
    assert orjson.loads(enrich(b'{"review_id":"1","text":"a"}', (scored,)))["entities"][0]["score"] == 0.9877


@pytest.mark.parametrize(
    "raw",
    [
        '{"review_id":"1","text":"a","n":[1e400,-1E-400,0.1000000000000000055,123456789012345678901234567890,-0,1.0]}',
        '{"review_id":"1","text":"a","rating":9.50}',
        '{"review_id":"1","text":"a","a":null,"b":{"c":[{},[],{"d":[[null]]}]}}',
        '{"review_id":"1","text":"a","k":1,"k":2,"":3}',
        '{"review_id":"1","text":"a","가":"\\uac00\\/\\ud83d\\ude00\\u0000","\\uac00":"\\ud83d"}',
        ' \n{\t"review_id" : "1" ,\r\n "text":"a"\n}\n ',
        '{"review_id":"}","text":"a","x":"} "}',
    ],
)
def test_everything_else_stays_as_it_was_written(raw: str) -> None:
    enriched = enrich(raw.encode()).decode()
    end = raw.rindex("}")
    assert enriched == raw[:end] + "," + MEMBERS_TEXT + raw[end:]


@pytest.mark.parametrize(
    ("raw", "without"),
    [
        ('{"entities":[],"review_id":"1","text":"a"}', '{"review_id":"1","text":"a"}'),
        ('{"review_id":"1","entities":[{"a":"]}"}],"text":"a"}', '{"review_id":"1","text":"a"}'),
        ('{"review_id":"1","text":"a","enrichment":{"entities":1}}', '{"review_id":"1","text":"a"}'),
        ('{"review_id":"1","text":"a", "entities" : 1 , "enrichment":null }', '{"review_id":"1","text":"a"}'),
        ('{"entities":1,"review_id":"1","entities":2,"text":"a"}', '{"review_id":"1","text":"a"}'),
        ('{"\\u0065ntities":"\\"entities\\":","review_id":"1","text":"a"}', '{"review_id":"1","text":"a"}'),
        (
            '{"review_id":"entities","entities":1,"text":"enrichment","x":["entities",{"entities":2}]}',
            '{"review_id":"entities","text":"enrichment","x":["entities",{"entities":2}]}',
        ),
        ('{"review_id":"1","\\ud83d":1e400,"entities":7,"text":"a"}', '{"review_id":"1","\\ud83d":1e400,"text":"a"}'),
        ('{"review_id":"1","text":"a","x":"\\\\","entities":7}', '{"review_id":"1","text":"a","x":"\\\\"}'),
    ],
)
def test_members_of_an_earlier_enrichment_are_replaced(raw: str, without: str) -> None:
    assert enrich(raw.encode()).decode() == without[:-1] + "," + MEMBERS_TEXT + "}"


def test_removing_the_only_member_leaves_an_empty_object() -> None:
    assert remove_members(b' {"a":1} ', ("a",)) == b" {} "
    assert remove_members(b"{}", ("a",)) == b"{}"


def test_a_large_record_enriched_before_is_read_once_through() -> None:
    text = "가" * 10_000 + '\\"' * 10_000
    raw = f'{{"review_id":"1","entities":[],"text":"a","x":"{text}"}}'.encode()
    assert enrich(raw).endswith(f'"x":"{text}",{MEMBERS_TEXT}}}'.encode())


numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
strings = st.text(max_size=8).map(json.dumps) | st.text(max_size=8).map(lambda text: orjson.dumps(text).decode())
strings |= st.sampled_from(['"entities"', '"enrichment"', '"\\u0065ntities"', '"\\ud83d"', '"text"'])
spaces = st.sampled_from(["", "", " ", "\n\t", "\r"])


def arrays(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(items, max_size=3).map(lambda parts: "[" + ",".join(parts) + "]")


@st.composite
def objects(draw: st.DrawFn, items: st.SearchStrategy[str], required: tuple[str, ...] = ()) -> str:
    members = [
        f"{draw(spaces)}{draw(strings)}{draw(spaces)}:{draw(spaces)}{draw(items)}{draw(spaces)}"
        for _ in range(draw(st.integers(0, 4)))
    ]
    # The last member of a name counts, so those that must be right come last.
    members = [*members, *required]
    moved = draw(st.integers(0, 3))
    if required and moved:  # and members that have no part in the schema may follow them
        members += [f'{draw(spaces)}"{name}":{draw(items)}' for name in ("entities", "enrichment", "x")[:moved]]
    return "{" + ",".join(members) + "}"


values = st.recursive(
    numbers | strings | st.sampled_from(["null", "true", "false"]),
    lambda items: arrays(items) | objects(items),
    max_leaves=8,
)


@st.composite
def reviews(draw: st.DrawFn) -> bytes:
    text = json.dumps(draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=12)))
    record = draw(objects(values, required=('"review_id":"1"', f'"text":{text}')))
    return (draw(spaces) + record + draw(spaces)).encode()


@given(reviews())
@settings(max_examples=300, deadline=None)
def test_a_record_comes_out_as_it_went_in_plus_the_two_members(value: bytes) -> None:
    kind, members = meaning(value)
    assert kind == "object"
    kept = [(name, member) for name, member in members if name not in ("entities", "enrichment")]
    added = meaning(b"{%b}" % MEMBERS_TEXT.encode())[1]
    enriched = enrich(value)
    assert meaning(enriched) == ("object", kept + added)
    assert enrich(enriched) == enriched


def test_encoding_leaves_the_document_alone() -> None:
    document = Document(b'{"review_id":"1","text":"a","entities":1}', "a", enriched_before=True)
    CONTRACTS.encode(document, ENTITIES, ENRICHMENT, ORIGIN, AT)
    assert document.raw == b'{"review_id":"1","text":"a","entities":1}'


def test_threads_share_the_contracts() -> None:
    def work(number: int) -> bool:
        text = f"이병헌 {number}"
        document = CONTRACTS.decode("review", orjson.dumps({"review_id": "1", "text": text, "n": number}), LIMIT)
        enriched = orjson.loads(CONTRACTS.encode(document, ENTITIES, ENRICHMENT, ORIGIN, AT))
        return document.text == enriched["text"] == text and enriched["n"] == number

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(2000)))
