"""What a dead letter says of the record in it."""

from worker.contracts.refusal import Reason, shorten
from worker.records import Origin


def dead_letter_headers(reason: Reason, detail: str, origin: Origin, failed_at: str) -> list[tuple[str, bytes]]:
    """Return the headers that a dead letter carries after the raw record's own, as `dead-letter.json` describes them.

    `detail` is put on one short line. `failed_at` is an RFC 3339 time in UTC. Values are UTF-8, numbers decimal.
    """
    return [
        ("koner-reason", reason.encode()),
        ("koner-detail", shorten(detail).encode(errors="replace")),
        ("koner-topic", origin.topic.encode()),
        ("koner-partition", b"%d" % origin.partition),
        ("koner-offset", b"%d" % origin.offset),
        ("koner-failed-at", failed_at.encode()),
    ]
