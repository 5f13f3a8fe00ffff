"""Tombstones carry no coordinates: they are matched by key, headers and timestamp, as multisets."""

from collections import defaultdict
from collections.abc import Iterator

from worker.audit.partition import Fingerprint
from worker.records import Origin

_Identity = tuple[int, int, int]


class Tombstones:
    """The tombstones of the sources that share an output topic, and those found there."""

    def __init__(self) -> None:
        self._expected: dict[_Identity, list[Origin]] = defaultdict(list)
        self._found: dict[_Identity, list[Origin]] = defaultdict(list)

    def expect(self, fingerprint: Fingerprint, origin: Origin) -> None:
        """Take up a raw tombstone."""
        self._expected[_identity(fingerprint)].append(origin)

    def find(self, fingerprint: Fingerprint, output: Origin) -> None:
        """Take up a tombstone of the output topic."""
        self._found[_identity(fingerprint)].append(output)

    def pairs(self) -> Iterator[tuple[list[Origin], list[Origin]]]:
        """For each identity the raw tombstones that have it, and the outputs, each in the order they came."""
        for identity in self._expected.keys() | self._found.keys():
            yield list(self._expected.get(identity, ())), list(self._found.get(identity, ()))


def _identity(fingerprint: Fingerprint) -> _Identity:
    return fingerprint.key, fingerprint.headers, fingerprint.timestamp
