import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.observe.history import History, growth, quantile
from worker.observe.metrics import Metrics


def test_a_quantile_is_linear_within_its_bucket() -> None:
    cumulative = {0.1: 0.0, 0.2: 50.0, 0.4: 100.0, math.inf: 100.0}
    assert quantile(0.25, cumulative) == pytest.approx(0.15)
    assert quantile(0.5, cumulative) == pytest.approx(0.2)
    assert quantile(0.75, cumulative) == pytest.approx(0.3)


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    assert quantile(0.99, {1.0: 1.0, math.inf: 100.0}) == 1.0


def test_there_is_no_quantile_of_nothing() -> None:
    assert quantile(0.5, {}) is None
    assert quantile(0.5, {1.0: 0.0, math.inf: 0.0}) is None


@given(st.lists(st.floats(0.001, 3.0), min_size=1), st.floats(0.01, 1.0))
def test_a_quantile_lies_in_the_bucket_of_the_observation_of_its_rank(seen: list[float], share: float) -> None:
    bounds = [0.01, 0.1, 1.0, 10.0]
    cumulative = {bound: float(sum(value <= bound for value in seen)) for bound in [*bounds, math.inf]}
    ranked = sorted(seen)[max(0, math.ceil(share * len(seen) - 1e-9) - 1)]
    upper = next(bound for bound in bounds if ranked <= bound)
    lower = max([0.0, *(bound for bound in bounds if bound < upper)])
    got = quantile(share, cumulative)
    assert got is not None
    assert lower <= got <= upper


def test_a_window_reaches_back_as_far_as_asked_or_as_there_is() -> None:
    history = History(Metrics())
    for now in (0.0, 1.0, 2.0, 3.0, 4.5):
        history.sample(now)
    assert [sample.at for sample in history.window(2.0)] == [2.0, 4.5]
    assert [sample.at for sample in history.window(60.0)] == [0.0, 4.5]


def test_old_samples_go() -> None:
    history = History(Metrics(), size=3)
    for now in range(10):
        history.sample(float(now))
    assert [sample.at for sample in history.samples] == [7.0, 8.0, 9.0]


def test_a_series_that_is_new_grew_from_nothing() -> None:
    assert growth({"a": 2.0}, {"a": 5.0, "b": 1.0}) == {"a": 3.0, "b": 1.0}
