"""An engine of rules for tests: quick, exact, and able to fail on cue."""

import re
from collections.abc import Callable, Sequence
from threading import Event

from worker.ner.engine import Encoded, ModelInfo, Window
from worker.ner.errors import EngineError
from worker.records import Entity, Span

NAMES = {"이병헌": "PER", "송강호": "PER", "부산": "LOC", "기생충": "WORK", "2019년": "DATE"}
_PATTERN = re.compile("|".join(NAMES))
POISON = "독약"


class FakeEngine:
    """Finds the `NAMES`; raises on a text with `POISON` in it; runs at most when `gate` is open."""

    forward_threads = 1

    def __init__(self, *, on_forward: Callable[[Sequence[Window]], None] | None = None) -> None:
        self.info = ModelInfo("fake", "0", "seed", "rules", "cpu")
        self.gate = Event()
        self.gate.set()
        self.batches: list[list[str]] = []
        self.broken = False
        self._on_forward = on_forward

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return [Encoded(text, (Window(text, len(text) + 2),) if text.strip() else (), None) for text in texts]

    def forward(self, windows: Sequence[Window]) -> list[list[Span]]:
        assert self.gate.wait(60), "the test left the engine's gate shut"
        self.batches.append([window.payload for window in windows])
        if self._on_forward is not None:
            self._on_forward(windows)
        if self.broken or any(POISON in window.payload for window in windows):
            raise EngineError("poison")
        return [
            [Span(found.start(), found.end(), NAMES[found[0]], 0.9) for found in _PATTERN.finditer(window.payload)]
            for window in windows
        ]

    def assemble(self, encoded: Encoded, spans: Sequence[Sequence[Span]]) -> list[Entity]:
        return [
            Entity(
                "text", span.start, span.end, encoded.text[span.start : span.end], span.label, span.label, span.score
            )
            for window in spans
            for span in window
        ]
