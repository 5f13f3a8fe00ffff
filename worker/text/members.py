"""Members of a JSON object, added and removed on its bytes, so that all other bytes stay as they are."""

import re
from collections.abc import Container, Iterator

import orjson

# Strings whole, and the characters that give a JSON text its structure. Possessive, so that a long string costs
# neither time nor memory to backtrack.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\],:]', re.DOTALL)


def add_members(record: bytes, members: bytes) -> bytes:
    """Put the members of the JSON object `members` at the end of the JSON object `record`; neither may be empty."""
    end = record.rindex(b"}")
    return b"%b,%b%b" % (record[:end], members[1:], record[end + 1 :])


def remove_members(record: bytes, names: Container[str]) -> bytes:
    """Take every member called one of `names` out of the JSON object `record`, at its top level only.

    `record` must be valid JSON. A name counts however it is escaped and however often it stands there.
    """
    opening = record.index(b"{") + 1
    closing = record.rindex(b"}")
    kept = [member for name, member in _members(record, opening, closing) if name not in names]
    return record[:opening] + b",".join(kept) + record[closing:]


def _members(record: bytes, opening: int, closing: int) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each member between an object's braces, the space around it included."""
    depth = 0
    start = opening
    name: str | None = None
    for token in _TOKEN.finditer(record, opening, closing):
        first = record[token.start()]
        if first in b"{[":
            depth += 1
        elif first in b"}]":
            depth -= 1
        elif depth == 0 and first in b'"' and name is None:
            name = _read_name(token.group())
        elif depth == 0 and first in b",":
            yield name or "", record[start : token.start()]
            start, name = token.end(), None
    if name is not None:
        yield name, record[start:closing]


def _read_name(literal: bytes) -> str:
    try:
        name: str = orjson.loads(literal)
    except orjson.JSONDecodeError:  # a lone surrogate escape, which no name that is looked for holds
        return ""
    return name
