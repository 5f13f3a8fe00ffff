"""Why a record is refused."""

from typing import Literal

Reason = Literal["not_utf8", "not_json", "schema", "too_long", "model_error", "too_large_to_publish"]

MAX_DETAIL_CHARS = 200


class Refused(Exception):
    """A record that cannot be enriched and becomes a dead letter.

    `reason` is one of `Reason`. `detail` says in one line what is wrong and where; it is at most `MAX_DETAIL_CHARS`
    long and never quotes a string of the record.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        detail = shorten(detail)
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


def shorten(detail: str) -> str:
    """Put a detail on one line of at most `MAX_DETAIL_CHARS` characters."""
    detail = " ".join(detail.split())
    return detail if len(detail) <= MAX_DETAIL_CHARS else detail[: MAX_DETAIL_CHARS - 1] + "…"
