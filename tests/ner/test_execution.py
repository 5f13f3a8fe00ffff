import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.ner.batching import TokenBudget
from worker.ner.engine import Window
from worker.ner.errors import EngineError, EngineOutOfMemory
from worker.ner.execution import BatchRunner
from worker.records import Span


class Device:
    """Forward passes that fail where they are told to; a window's payload is its name."""

    def __init__(self, poison=(), memory=10**9, failure=None):
        self.poison, self.memory, self.failure = set(poison), memory, failure or EngineError("poison")
        self.passes = []

    def forward(self, windows):
        self.passes.append([window.payload for window in windows])
        if max(window.tokens for window in windows) * len(windows) > self.memory:
            raise EngineOutOfMemory("too big")
        if self.poison & {window.payload for window in windows}:
            raise self.failure
        return [[Span(0, 1, str(window.payload), 1.0)] for window in windows]


def windows(count, tokens=10):
    return [Window(payload=i, tokens=tokens) for i in range(count)]


@given(st.integers(1, 40), st.sets(st.integers(0, 39)))
def test_only_poison_windows_come_back_as_errors(count, poison):
    failed = []
    outcomes = BatchRunner(Device(poison), TokenBudget(10_000), failed.append).run(windows(count))
    assert len(outcomes) == count
    for i, outcome in enumerate(outcomes):
        assert isinstance(outcome, EngineError) if i in poison else outcome == [Span(0, 1, str(i), 1.0)]
    assert bool(failed) == any(i < count for i in poison)


def test_one_poison_window_among_many_costs_few_passes():
    device = Device({37})
    failed = []
    BatchRunner(device, TokenBudget(10_000), failed.append).run(windows(64))
    assert len(device.passes) == 13  # the batch, then two halves at each of six levels
    assert failed == ["error"] * 7


def test_out_of_memory_shrinks_the_budget_and_loses_nothing():
    budget, failed = TokenBudget(640), []
    device = Device(memory=200)
    outcomes = BatchRunner(device, budget, failed.append).run(windows(64))
    assert outcomes == [[Span(0, 1, str(i), 1.0)] for i in range(64)]
    assert budget.tokens == 160
    # Once the budget is known to be too large, the other halves are not tried at that size again.
    assert failed == ["out_of_memory", "out_of_memory"]


def test_budget_grows_after_a_clean_batch_only():
    budget = TokenBudget(640)
    budget.shrink()
    runner = BatchRunner(Device(poison={0}), budget, lambda kind: None)
    runner.run(windows(2))
    assert budget.tokens == 320
    runner.run(windows(3)[1:])
    assert budget.tokens > 320


def test_a_window_that_never_fits_is_tried_twice_and_comes_back_as_out_of_memory():
    device = Device(memory=5)
    outcomes = BatchRunner(device, TokenBudget(640), lambda kind: None).run(windows(1))
    assert isinstance(outcomes[0], EngineOutOfMemory)
    assert device.passes == [[0], [0]]


def test_an_unforeseen_exception_becomes_an_error_without_its_message():
    device = Device({1}, failure=RuntimeError("holds someone's words"))
    outcomes = BatchRunner(device, TokenBudget(640), lambda kind: None).run(windows(3))
    assert isinstance(outcomes[1], EngineError)
    assert "words" not in str(outcomes[1])
    assert "RuntimeError" in str(outcomes[1])


def test_an_engine_that_loses_results_is_an_error():
    class Forgetful:
        def forward(self, windows):
            return []

    outcomes = BatchRunner(Forgetful(), TokenBudget(640), lambda kind: None).run(windows(2))
    assert all(isinstance(outcome, EngineError) for outcome in outcomes)


def test_an_interrupt_is_not_swallowed():
    with pytest.raises(KeyboardInterrupt):
        BatchRunner(Device({0}, failure=KeyboardInterrupt()), TokenBudget(640), lambda kind: None).run(windows(2))


def test_no_windows_run_nothing():
    device = Device()
    assert BatchRunner(device, TokenBudget(640), lambda kind: None).run([]) == []
    assert device.passes == []
