"""A record's bytes to a JSON value, or to the reason why they hold none."""

import json
import re
import sys
from typing import Any, NoReturn

import orjson

from worker.contracts.refusal import Refused

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DIGITS_OF_64_BITS = 19
_SURROGATE = re.compile("[\ud800-\udfff]")
# Every escape in a JSON text; the group is one that names half of a surrogate pair alone.
_ESCAPE = re.compile(
    r"\\u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|(\\u[dD][89a-fA-F][\da-fA-F]{2})|\\.", re.DOTALL
)


def parse_leniently(value: bytes) -> tuple[bytes, Any]:
    """Parse what orjson refuses: return the value without a byte order mark, and the JSON value in it.

    orjson refuses some texts that are JSON by RFC 8259: numbers beyond a double (1e400) and lone surrogate escapes
    ("\\ud83d", half of an emoji cut in two). Both are legal, and the raw bytes carry them over whatever Python makes
    of them, so they pass here: such a number reads as the largest double. A byte order mark at the start is ignored,
    as RFC 8259 (section 8.1) allows, and is not carried over, as it forbids.

    Only the member `text` may hold no lone surrogate: it has no place in UTF-8, which its entities are written in.

    Raises `Refused` with `not_utf8` and the offset of the first wrong byte, or `not_json` with a line and a column
    (both from 1, the column in code points) or a place in `text`.
    """
    value = value.removeprefix(_BYTE_ORDER_MARK)
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        wrong = value[error.start]
        raise Refused("not_utf8", f"byte {error.start} (0x{wrong:02x}): {error.reason}") from None
    try:
        return value, orjson.loads(value)
    except orjson.JSONDecodeError as error:
        refusal = Refused("not_json", f"line {error.lineno}, column {error.colno}: {error.msg}")
        too_deep = "depth" in error.msg or "recursion" in error.msg
    if too_deep:  # before the other parser: its limit is another one
        raise refusal
    try:
        record = _parse(text)
        _refuse_surrogates(record)
        # The validator takes none, however deep: a question mark stands for each.
        whole = _ESCAPE.sub(lambda escape: "?" if escape[1] else escape[0], text)
        return value, record if whole == text else _parse(whole)
    except (ValueError, RecursionError):
        raise refusal from None


def _parse(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse, parse_float=_read_float, parse_int=_read_integer)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _read_float(digits: str) -> float:
    return max(-sys.float_info.max, min(float(digits), sys.float_info.max))


def _read_integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _DIGITS_OF_64_BITS else _read_float(digits)


def _refuse_surrogates(record: Any) -> None:
    text = record.get("text") if isinstance(record, dict) else None
    if isinstance(text, str) and (surrogate := _SURROGATE.search(text)):
        raise Refused("not_json", f"/text: code point {surrogate.start()} is a surrogate escape without its other half")
