"""Reviews that somebody made to do harm: each with what must become of it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from worker.contracts import Contracts, Refused
from worker.records import Document, Kind

PASSES = "passes"

Outcome = Literal["passes", "not_json", "not_utf8", "schema", "too_long"]


@dataclass(frozen=True, slots=True)
class Hostile:
    """A raw review's value, and `passes` or the reason of its dead letter."""

    value: bytes
    outcome: Outcome


def _review(members: bytes, text: bytes = b"a") -> bytes:
    return b'{"review_id":"1","text":"%b",%b}' % (text, members)


_ENTITY = b'{"field":"text","start":0,"end":1,"text":"a","type":"PER","label":"PER","score":0.5}'

HOSTILE: dict[str, Hostile] = {
    "arrays nested 100,000 deep": Hostile(_review(b'"n":' + b"[" * 100_000 + b"]" * 100_000), "not_json"),
    "objects nested 100,000 deep": Hostile(_review(b'"n":' + b'{"n":' * 100_000 + b"1" + b"}" * 100_000), "not_json"),
    "brackets that never close": Hostile(b"[" * 900_000, "not_json"),
    "arrays nested 1,000 deep": Hostile(_review(b'"n":' + b"[" * 1000 + b"]" * 1000), "passes"),
    "a number of 100,000 digits": Hostile(_review(b'"n":' + b"9" * 100_000), "passes"),
    "a fraction of 100,000 digits": Hostile(_review(b'"rating":0.' + b"0" * 99_999 + b"1"), "passes"),
    "numbers beyond a double": Hostile(_review(b'"rating":1e999999,"n":[-1e999999,1e-999999]'), "passes"),
    "an exponent of 100,000 digits": Hostile(_review(b'"n":1e' + b"9" * 100_000), "passes"),
    "100,000 members of one name": Hostile(_review(b",".join(b'"n":%d' % n for n in range(100_000))), "passes"),
    "100,000 names that the worker writes": Hostile(_review(b",".join([b'"entities":1'] * 70_000)), "passes"),
    "50,000 texts": Hostile(b'{"review_id":"1",' + b",".join([b'"text":"a"'] * 50_000) + b"}", "passes"),
    "half a surrogate pair in the text": Hostile(_review(b'"n":1', b"\\ud83d"), "not_json"),
    "100,000 halves of surrogate pairs": Hostile(_review(b'"title":"' + b"\\udc00" * 100_000 + b'"'), "passes"),
    "a surrogate in a name": Hostile(_review(b'"\\udfff":"\\ud800"'), "passes"),
    "surrogates encoded as bytes": Hostile(_review(b'"title":"\xed\xa0\x80"'), "not_utf8"),
    "overlong slashes": Hostile(_review(b'"title":"\xc0\xaf"'), "not_utf8"),
    "NULs, escaped": Hostile(_review(b'"title":"' + b"\\u0000" * 10_000 + b'"', b"\\u0000" * 10_000), "passes"),
    "NULs, bare": Hostile(_review(b'"title":"\0"'), "not_json"),
    "a text of a million characters": Hostile(_review(b'"n":1', b"a" * 900_000), "too_long"),
    "a text of escapes": Hostile(_review(b'"n":1', b"\\u0061" * 20_000), "passes"),
    "a text of one letter and its accents": Hostile(_review(b'"n":1', b"a" + "\u0301".encode() * 19_999), "passes"),
    "a text that turns direction": Hostile(_review(b'"n":1', "\u202e\u2066\u200f\u200d".encode() * 5_000), "passes"),
    "100,000 empty objects": Hostile(_review(b'"n":[' + b",".join([b"{}"] * 100_000) + b"]"), "passes"),
    "entities that are there already": Hostile(
        _review(b'"entities":[' + b",".join([_ENTITY] * 10_000) + b'],"enrichment":{}'), "passes"
    ),
    "100,000 entities that are there already": Hostile(
        _review(b'"entities":[' + b",".join([b'"a"'] * 100_000) + b"]"), "passes"
    ),
    "brackets and quotes in strings": Hostile(
        _review(b'"entities":0,"title":"' + b'\\"]},{[\\\\' * 80_000 + b'"'), "passes"
    ),
    "a name of 900,000 characters": Hostile(_review(b'"' + b"n" * 900_000 + b'":1'), "passes"),
    "900,000 spaces": Hostile(b" " * 450_000 + _review(b'"n":1') + b"\n" * 450_000, "passes"),
    "an identifier of the wrong kind, with 100,000 parts": Hostile(
        b'{"text":"a","review_id":[' + b",".join([b"1"] * 100_000) + b"]}", "schema"
    ),
    "a time of 900,000 characters": Hostile(_review(b'"written_at":"' + b"2" * 900_000 + b'"'), "schema"),
    "900 arrays and no record": Hostile(b"[" * 900 + b"]" * 900, "schema"),
    "900 arrays for a text": Hostile(b'{"review_id":"1","text":' + b"[" * 900 + b"]" * 900 + b"}", "schema"),
    "a surrogate deep in a record without a text": Hostile(b'{"review_id":"1","n":{"n":"\\ud83d"}}', "schema"),
    "a surrogate in an object for a text": Hostile(b'{"review_id":"1","text":{"\\ud83d":1e999}}', "schema"),
    "UTF-16": Hostile('{"review_id":"1","text":"a"}'.encode("utf-16"), "not_utf8"),
    "nothing": Hostile(b"", "not_json"),
}


def read_or_refuse(contracts: Contracts, kind: Kind, value: bytes, limit: int) -> Document | Refused:
    """Decode a record, or return its refusal, whose detail is held to its form."""
    try:
        return contracts.decode(kind, value, limit)
    except Refused as error:
        refused = error
    assert 0 < len(refused.detail) <= 200
    assert "\n" not in refused.detail
    return refused


@contextmanager
def deep_recursion() -> Iterator[None]:
    """Let Python's own JSON parser, which checks on the worker's, go as deep as any record."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
