"""Records mutated at random: each is refused for the true reason, or comes out saying the same and two members more.

Python's own JSON parser says what a record means, and so whether a refusal is right. `KONER_FUZZ_INPUTS` sets how many
inputs there are, `KONER_FUZZ_SEED` where to begin; an input is made from the seed and its number alone.
"""

import json
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from hostile_records import HOSTILE, deep_recursion, read_or_refuse

from worker.contracts import Contracts, Refused
from worker.contracts.schemas import validator
from worker.records import Document, Enrichment, Entity, Kind, Origin

INPUTS = int(os.environ.get("KONER_FUZZ_INPUTS", "50000"))
SEED = int(os.environ.get("KONER_FUZZ_SEED", "1"))
LIMIT = 200
DEEPEST = 800  # nesting that must be read; what is deeper may be refused
CHECKED_AGAINST_THE_SCHEMA = 50  # one in so many of the records that come out

CONTRACTS = Contracts()
ENRICHED = validator("enriched")
ORIGIN = Origin("reviews.raw", 3, 1182)
AT = "2026-03-04T12:00:01.204Z"

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SURROGATE = re.compile("[\ud800-\udfff]")

RECORDS = [
    '{"review_id":"1","text":"이병헌 연기는 광해에서 최고였다","title":"좋다","rating":9.5,"movie_id":"31904"}',
    '{"review_id":"2","text":"재밋어요ㅎㅎㅎㅎ","rating":null,"tags":["심야",{"device":"tv"}]}',
    '{"review_id":"3","text":"😀 \\ud83d\\ude00 \\u0000","written_at":"2026-03-04T12:00:00Z","n":[1e400,-0,0.10]}',
    ' {\n"text" : "a" ,\t"review_id": "4", "entities":[{"a":"]}"}], "enrichment" : {"kind":1} }\r\n',
    '{"review_id":"5","k":1,"k":2,"text":"b","text":"c","":{"":[[],{}]},"\\u0065ntities":7}',
    '{"review_id":"6","text":"","title":"\\"\\\\\\/\\b\\f\\n\\r\\t","x":"\\ud83d"}',
    '{"query_id":"1","text":"송강호 기생충","user_id":"u","searched_at":"2026-03-04T21:00:00.5+09:00"}',
    '{"query_id":"2","text":"2019년 영화","context":{"page":[1,2,{"a":{"b":{"c":true}}}]}}',
]
SEEDS = [record.encode() for record in RECORDS]
TOKENS = [
    token.encode("utf-8", "surrogatepass")
    for token in (
        *"{}[],:\"\\/\0\x1f \n\t-+.eE09", "\ufeff", "\u2028", "가", "😀", "\ud800", "null", "true", "false", "NaN",
        "Infinity", "-Infinity", "1e999", "-0", "01", "1.", ".5", "0x1", "9" * 40, "1" + "0" * 400, "1e-400", "[]",
        "{}", '""', '"\\ud83d"', '"\\udc00\\ud83d"', '"\\u"', '"\\u12"', '"\\x41"', '"\\uD83D\\uDE00"', '"text":"a"',
        '"text":null', '"text":"\\ud83d"', '"review_id":"1"', '"query_id":"1"', '"entities":[]', '"enrichment":{}',
        '"entities":{"entities":[1,"]"]}', '"\\u0065nrichment":1', '"written_at":"2026-02-30T12:00:00Z"',
        '"rating":1e400', '"rating":"9"', ',"n":', '{"a":', "/*", "*/", "//", "'", "undefined", "\\u0000", "\\ud83d",
    )
]  # fmt: skip
LITERAL = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null|[{}\[\],:]')


def flip_bits(value: bytes, chance: random.Random) -> bytes:
    mutated = bytearray(value)
    for _ in range(chance.randint(1, 4)):
        mutated[chance.randrange(len(mutated))] ^= 1 << chance.randrange(8)
    return bytes(mutated)


def replace_bytes(value: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(value))
    return value[:at] + chance.randbytes(chance.randint(1, 4)) + value[at + chance.randint(0, 4) :]


def truncate(value: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(value))
    return value[:at] if chance.random() < 0.7 else value[at:]


def cut_out(value: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(value))
    return value[:at] + value[at + chance.randint(1, 12) :]


def repeat(value: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(value))
    end = at + chance.randint(1, 20)
    return value[:end] + value[at:end] * chance.choice((1, 2, 3, 50)) + value[end:]


def insert_token(value: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(value) + 1)
    return value[:at] + chance.choice(TOKENS) + value[at:]


def replace_literal(value: bytes, chance: random.Random) -> bytes:
    """Put a token, or a token of another record, where one of this record stands: much of this remains JSON."""
    found = [match.span() for match in LITERAL.finditer(value)]
    if not found:
        return value
    start, end = chance.choice(found)
    other = LITERAL.findall(chance.choice(SEEDS))
    return value[:start] + chance.choice(TOKENS if chance.random() < 0.5 else other) + value[end:]


def insert_member(value: bytes, chance: random.Random) -> bytes:
    """Put a member at the start or the end of the record, or of an object in it."""
    members = [token for token in TOKENS if token.startswith(b'"') and b'":' in token]
    member = chance.choice(members)
    places = [at for at, byte in enumerate(value) if byte in b"{}"]
    if not places:
        return value
    at = chance.choice(places)
    if value[at] == ord("{"):
        return value[: at + 1] + member + b"," + value[at + 1 :]
    return value[:at] + b"," + member + value[at:]


def splice(value: bytes, chance: random.Random) -> bytes:
    other = chance.choice(SEEDS)
    return value[: chance.randrange(len(value))] + other[chance.randrange(len(other)) :]


def nest(value: bytes, chance: random.Random) -> bytes:
    depth = chance.choice((1, 3, 50, 990, 1020, 1030, 3000))
    opened, closed = chance.choice(((b"[", b"]"), (b'{"a":', b"}")))
    inner = opened * depth + b"1" + closed * (depth if chance.random() < 0.8 else depth - 1)
    at = value.rfind(b"}")
    return value[:at] + b',"n":' + inner + value[at:] if at > 0 else inner


def lengthen(value: bytes, chance: random.Random) -> bytes:
    at = value.find(b'"text":"')
    filling = chance.choice((b"a", "가".encode(), b"\\u0061", "e\u0301".encode(), b"\\n")) * chance.randint(150, 250)
    return value if at < 0 else value[: at + 8] + filling + value[at + 8 :]


def recode(value: bytes, chance: random.Random) -> bytes:
    text = value.decode(errors="replace")
    return chance.choice(
        (
            lambda: _BYTE_ORDER_MARK + value,
            lambda: text.encode("utf-16"),
            lambda: text.encode("utf-16-le"),
            lambda: text.encode("cp949", "replace"),
            lambda: text.encode("latin-1", "replace"),
            lambda: text.encode("utf-7"),
            lambda: b" \r\n" + value + b"\t",
        )
    )()


Mutation = Callable[[bytes, random.Random], bytes]
MUTATIONS: list[Mutation] = [flip_bits, replace_bytes, truncate, cut_out, repeat, insert_token, splice, recode, nest]
MUTATIONS += [replace_literal, insert_member, lengthen] * 3  # what may leave it JSON


def make_input(seed: int, number: int) -> bytes:
    """The input of a number: a record, mutated once to four times."""
    chance = random.Random((seed << 48) + number)
    value = chance.choice(SEEDS)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 4))):
        if value:
            value = chance.choice(MUTATIONS)(value, chance)
    return value


def meaning(value: bytes) -> Any:
    """What JSON says, to the digit, by another parser than the worker's: objects as their members in order."""

    def no_constant(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(
        value.decode(),
        parse_float=lambda digits: ("number", digits),
        parse_int=lambda digits: ("number", digits),
        parse_constant=no_constant,
        object_pairs_hook=lambda pairs: ("object", pairs),
    )


def depth_of(value: bytes) -> int:
    """The most brackets that are open at once, those in strings not counted."""
    depth = deepest = 0
    for token in LITERAL.findall(value):
        depth += (token in (b"[", b"{")) - (token in (b"]", b"}"))
        deepest = max(deepest, depth)
    return deepest


def last(members: list[tuple[str, Any]], name: str) -> Any:
    return next((member for key, member in reversed(members) if key == name), None)


def is_rightly_refused(value: bytes, refused: Refused) -> bool:
    """Whether the reason is the true one, as far as another parser can tell."""
    bare = value.removeprefix(_BYTE_ORDER_MARK)
    try:
        bare.decode()
    except UnicodeDecodeError:
        return refused.reason == "not_utf8"
    try:
        said = meaning(bare)
    except ValueError:
        return refused.reason == "not_json"
    text = last(said[1], "text") if isinstance(said, tuple) and said[0] == "object" else None
    if refused.reason == "not_json":
        return depth_of(bare) > DEEPEST or (isinstance(text, str) and bool(_SURROGATE.search(text)))
    if refused.reason == "too_long":
        return isinstance(text, str) and len(text) > LIMIT
    return refused.reason == "schema"


def entities_of(document: Document) -> list[Entity]:
    text = document.text
    return [Entity("text", at, at + 2, text[at : at + 2], "PER", "PER", 0.5) for at in range(0, len(text) - 1, 7)]


def check_passed(kind: Kind, value: bytes, document: Document, *, thoroughly: bool) -> None:
    """The record that comes out says what the one that went in said, and the two members more."""
    enrichment = Enrichment(kind, "fake", "0", "seed")
    bare = value.removeprefix(_BYTE_ORDER_MARK)
    entities = entities_of(document)
    published = CONTRACTS.encode(document, entities, enrichment, ORIGIN, AT)
    said, says = meaning(bare), meaning(published)
    assert said[0] == says[0] == "object"
    assert last(said[1], "text") == document.text
    assert len(document.text) <= LIMIT
    kept = [member for member in said[1] if member[0] not in ("entities", "enrichment")]
    assert says[1][:-2] == kept
    assert [name for name, _ in says[1][-2:]] == ["entities", "enrichment"]
    assert [last(entity[1], "text") for entity in says[1][-2][1]] == [entity.text for entity in entities]
    if thoroughly and b"\\ud" not in published.lower():  # the validator takes no surrogates
        ENRICHED.validate(json.loads(published, parse_int=_number, parse_float=_number))


def _number(digits: str) -> float:
    return max(-sys.float_info.max, min(float(digits), sys.float_info.max))


def fuzz(numbers: range, seed: int) -> Counter[str]:
    """Decode and encode inputs; count what became of them. Raises on the first that breaks a promise, and shows it."""
    outcomes: Counter[str] = Counter()
    for number in numbers:
        value = make_input(seed, number)
        kind: Kind = "query" if b"query_id" in value else "review"
        try:
            read = read_or_refuse(CONTRACTS, kind, value, LIMIT)
            outcome = read.reason if isinstance(read, Refused) else "passed"
            outcomes[outcome] += 1
            with deep_recursion():
                if isinstance(read, Refused):
                    assert is_rightly_refused(value, read), read
                else:
                    check_passed(kind, value, read, thoroughly=outcomes[outcome] % CHECKED_AGAINST_THE_SCHEMA == 0)
        except Exception as error:
            raise AssertionError(f"input {number} of seed {seed}, a {kind}: {value!r}") from error
    return outcomes


@pytest.mark.timeout(120 + INPUTS // 200)
def test_mutated_records_pass_unchanged_or_are_refused() -> None:
    outcomes = fuzz(range(INPUTS), SEED)
    print(f"{INPUTS} inputs of seed {SEED}: {dict(outcomes.most_common())}")
    assert outcomes.total() == INPUTS
    # A fuzzer whose inputs all fail at the first byte shows nothing.
    assert outcomes["passed"] > INPUTS // 10
    assert all(outcomes[reason] > INPUTS // 200 for reason in ("not_json", "not_utf8", "schema", "too_long"))


def test_the_other_parser_sees_through_wrong_refusals_and_changed_records() -> None:
    value = SEEDS[0]
    document = CONTRACTS.decode("review", value, LIMIT)
    assert not is_rightly_refused(value, Refused("not_json", "line 1, column 1: wrong"))
    assert not is_rightly_refused(b"{", Refused("schema", "wrong"))
    assert not is_rightly_refused(value, Refused("too_long", "wrong"))
    with pytest.raises(AssertionError):
        check_passed("review", value.replace(b"9.5", b"9.50"), document, thoroughly=False)


@pytest.mark.parametrize("name", HOSTILE)
def test_halves_of_hostile_records_are_refused_or_read(name: str) -> None:
    value = HOSTILE[name].value
    for half in (value[: len(value) // 2], value[len(value) // 2 :]):
        with pytest.raises(Refused):
            CONTRACTS.decode("review", half, LIMIT)
