"""The one interface of every engine: texts in, entities out, in three steps that threads can share out.

encoded = engine.encode(texts)            # the tokenising thread
spans = engine.forward(windows)           # a forward thread, on windows of many texts
entities = engine.assemble(one, spans)    # any thread, per text
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from worker.records import Entity, Span


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of one normalised text that fits the model's positions: the unit of a batch."""

    payload: Any  # what the engine's own `forward` reads
    tokens: int  # what it costs in a batch: its pieces, special ones included, or more where they are long


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text made ready for the model."""

    text: str  # as received
    windows: tuple[Window, ...]  # none for an empty or blank text
    payload: Any  # what `assemble` needs: the offset map and where each window lies


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is told of a model in records, metrics and pages."""

    name: str
    revision: str
    taxonomy: str
    engine: str  # torch or onnxruntime
    device: str  # cpu, cuda:0


class Engine(Protocol):
    """Turns texts into entities. `encode` and `forward` block, and are safe to call from several threads at once."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def forward_threads(self) -> int:
        """How many threads should call `forward` at once: one on the CPU, two where a device works beside the host."""
        ...

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Normalise, tokenise and cut into windows: one `Encoded` a text, in order."""
        ...

    def forward(self, windows: Sequence[Window]) -> list[list[Span]]:
        """Tag a batch: a list of spans a window, in order, in code points of the window's normalised text.

        Raises `EngineOutOfMemory` where a smaller batch may fit and `EngineError` for any other failure.
        """
        ...

    def assemble(self, encoded: Encoded, spans: Sequence[Sequence[Span]]) -> list[Entity]:
        """Join the spans of a text's windows, map them to the text as received and to the taxonomy's types.

        `spans` holds a list for each of `encoded.windows`. Entities come sorted by start and never overlap; for each,
        `encoded.text[e.start:e.end] == e.text`, and `field` is "text".
        """
        ...
