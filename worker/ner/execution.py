"""Running a batch so that one bad window takes no other one down."""

from collections.abc import Callable, Sequence

from worker.ner.batching import TokenBudget
from worker.ner.engine import Engine, Window
from worker.ner.errors import EngineError, EngineOutOfMemory
from worker.records import Span

Outcome = list[Span] | EngineError


class BatchRunner:
    """Runs batches on an engine; only windows that fail on their own come back as errors.

    `run` is safe to call from several threads at once, as `engine.forward` is.
    """

    def __init__(self, engine: Engine, budget: TokenBudget, on_error: Callable[[str], None]) -> None:
        """`on_error` is called with `error` or `out_of_memory` for each failed pass."""
        self._engine = engine
        self._budget = budget
        self._on_error = on_error

    def run(self, windows: Sequence[Window]) -> list[Outcome]:
        """Spans, or why there are none, for each window in order.

        1. A part over the budget is halved before it runs (the budget may have shrunk since the batch was picked).
        2. Out of memory: the budget shrinks and the part runs again in halves; a single window gets a second try.
        3. Any other failure: the part runs again in halves, until a single window fails alone.
        4. A batch that ran without a failure lets the budget grow.
        """
        outcomes: list[Outcome] = [[] for _ in windows]
        waiting: list[tuple[int, int, bool]] = [(0, len(windows), False)] if windows else []
        clean = True
        while waiting:
            start, end, tried = waiting.pop()
            part = windows[start:end]
            middle = (start + end) // 2
            if len(part) > 1 and max(window.tokens for window in part) * len(part) > self._budget.tokens:
                waiting += [(middle, end, False), (start, middle, False)]
                continue
            try:
                outcomes[start:end] = self._forward(part)
                continue
            except EngineOutOfMemory as error:
                failure: EngineError = error
                self._on_error("out_of_memory")
                self._budget.shrink()
                try_again = not tried
            except EngineError as error:
                failure = error
                self._on_error("error")
                try_again = False
            clean = False
            if len(part) > 1:
                waiting += [(middle, end, False), (start, middle, False)]
            elif try_again:
                waiting.append((start, end, True))
            else:
                outcomes[start] = failure
        if clean and windows:
            self._budget.grow()
        return outcomes

    def _forward(self, part: Sequence[Window]) -> list[list[Span]]:
        try:
            spans = self._engine.forward(part)
        except EngineError:
            raise
        except Exception as error:
            # Its own message may quote the text.
            raise EngineError(f"the engine raised {type(error).__name__}") from error
        if len(spans) != len(part):
            raise EngineError(f"the engine gave {len(spans)} results for {len(part)} windows")
        return spans
