"""Faults as they are found: counted by kind, with the first few places of each."""

from collections import Counter, defaultdict

from worker.audit.report import Example, Finding
from worker.records import Origin


class Findings:
    """Counts faults by kind and keeps the first few of each as examples."""

    def __init__(self, most_examples: int) -> None:
        self._most = most_examples
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[Example]] = defaultdict(list)

    def add(self, kind: str, source: Origin | None, output: Origin | None, what: str = "") -> None:
        """Note a fault of one kind and where it is."""
        self._counts[kind] += 1
        if len(self._examples[kind]) < self._most:
            self._examples[kind].append(Example(source, output, what))

    def of(self, kind: str) -> Finding:
        """What was found of one kind."""
        return Finding(self._counts[kind], tuple(self._examples[kind]))
