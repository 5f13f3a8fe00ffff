"""What a JSON record means, apart from how it is written: the form in which a raw and an enriched one are compared.

Space between tokens and the escapes of a string mean nothing; the digits of a number, the order of members and members
that stand twice do. Written apart from `worker.contracts`, so that the checker does not trust what it checks.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson

ADDED = frozenset({"entities", "enrichment"})

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\],:]|[^\s"{}\[\],:]++', re.DOTALL)
_STRUCTURE = {b"{": 1, b"[": 1, b"}": -1, b"]": -1, b",": 0, b":": 0}  # with what each adds to the depth


@dataclass(frozen=True, slots=True)
class Meaning:
    """A JSON value. `without_added` is its canonical form, the members that koner adds left out."""

    without_added: bytes
    members: Mapping[str, bytes]  # of an object: each member's value as JSON text; of two alike the last

    def member(self, name: str) -> Any:
        """The value of a member, or None where there is none."""
        text = self.members.get(name)
        return None if text is None else load_json(text)


def read_meaning(value: bytes) -> Meaning | None:
    """Read a record's value (a byte order mark at its start does not count); None where it is not JSON."""
    value = value.removeprefix(_BYTE_ORDER_MARK)
    try:
        load_json(value)
    except ValueError:
        return None
    tokens = _TOKEN.finditer(value)
    first = next(tokens)
    if first[0] != b"{":
        rest = b"".join(_canonical(token[0]) for token in tokens)
        return Meaning(_canonical(first[0]) + rest, {})
    kept: list[bytes] = []
    members: dict[str, bytes] = {}
    for name, start, end, canonical in _members(tokens):
        if name not in ADDED:
            kept.append(canonical)
        members[name] = value[start:end]
    return Meaning(b"{" + b",".join(kept) + b"}", members)


def load_json(text: bytes) -> Any:
    """Parse any JSON of RFC 8259, lone surrogate escapes and numbers beyond a double included.

    Raises `ValueError` where it is none, is not UTF-8, or nests deeper than both parsers go.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(text.decode(), parse_constant=_refuse, parse_int=_read_integer)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _read_integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 20 else float(digits)  # int() refuses thousands of digits


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _members(tokens: Iterator[re.Match[bytes]]) -> Iterator[tuple[str, int, int, bytes]]:
    """Yield each member of an object whose brace was read: name, where its value starts and ends, canonical form."""
    depth = 0
    name = b""
    parts: list[bytes] = []
    start = end = 0
    for token in tokens:
        text = token[0]
        if text in _STRUCTURE:
            if depth == 0 and text in b",}":
                if parts:
                    yield _text(name), start, end, b"".join(parts)
                parts = []
                continue
            depth += _STRUCTURE[text]
        if len(parts) < 3:  # the name, the colon, the value's first token
            start = token.start()
            if not parts:
                name = text
        parts.append(text if b"\\" not in text else _canonical(text))
        end = token.end()


def _canonical(token: bytes) -> bytes:
    if b"\\" not in token:
        return token
    return json.dumps(json.loads(token), ensure_ascii=False).encode("utf-8", "surrogatepass")


def _text(literal: bytes) -> str:
    text: str = literal[1:-1].decode() if b"\\" not in literal else json.loads(literal)
    return text
