"""What a record counts for while it is in flight."""

from types import SimpleNamespace

import pytest

from worker.stream.work import raw_size


@pytest.mark.parametrize(
    ("value", "headers", "size"),
    [
        (b"value", (), 8),
        (None, (), 3),
        (b"value", (("name", b"x" * 900_000),), 900_112),
        (None, (("h", b"x"), ("h", None)), 3 + 102 + 101),
        (None, tuple((f"h{n}", b"x") for n in range(10_000)), 3 + 10_000 * 101 + 48_890),
    ],
)
def test_a_record_counts_with_its_headers(value, headers, size):
    assert raw_size(SimpleNamespace(key=b"key", value=value, headers=headers)) == size
