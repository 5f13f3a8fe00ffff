from hypothesis import given
from hypothesis import strategies as st

from worker.ner.batching import TokenBudget, cut, pick

lengths = st.lists(st.integers(1, 600), max_size=60)
budgets = st.integers(16, 4096)


def area(tokens, batch):
    return max(tokens[i] for i in batch) * len(batch)


@given(lengths.filter(bool), budgets)
def test_pick_holds_the_oldest_window_and_stays_within_the_budget(tokens, budget):
    batch = pick(tokens, budget)
    assert batch[0] == 0
    assert batch == sorted(set(batch))
    assert len(batch) == 1 or area(tokens, batch) <= budget


@given(lengths.filter(bool), budgets)
def test_pick_pads_at_most_a_quarter(tokens, budget):
    batch = pick(tokens, budget)
    assert sum(tokens[i] for i in batch) >= 0.75 * area(tokens, batch)


@given(lengths.filter(bool), budgets)
def test_pick_takes_the_earliest_of_windows_of_one_length(tokens, budget):
    batch = set(pick(tokens, budget))
    for index in batch - {0}:
        assert all(earlier in batch for earlier in range(index) if tokens[earlier] == tokens[index])


def test_pick_fills_the_batch_with_the_nearest_lengths():
    assert pick([10, 40, 11, 9, 200, 10, 10], 50) == [0, 3, 5, 6]
    assert pick([10, 40, 10, 9, 200, 10, 10], 50) == [0, 2, 3, 5, 6]


def test_pick_sends_a_window_over_the_budget_alone():
    assert pick([500, 3, 500], 100) == [0]


def test_pick_keeps_a_short_query_from_riding_in_a_long_batch():
    assert pick([5, 300], 1000) == [0]


def test_pick_of_nothing_is_empty():
    assert pick([], 100) == []


@given(lengths, budgets)
def test_cut_shares_out_every_window_once_within_the_budget(tokens, budget):
    batches = cut(tokens, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(tokens)))
    for batch in batches:
        assert len(batch) == 1 or area(tokens, batch) <= budget
        assert sum(tokens[i] for i in batch) >= 0.75 * area(tokens, batch)


@given(lengths, budgets)
def test_picking_until_nothing_waits_runs_every_window_once(tokens, budget):
    waiting = list(range(len(tokens)))
    ran = []
    while waiting:
        batch = pick([tokens[i] for i in waiting], budget)
        ran += [waiting[i] for i in batch]
        waiting = [w for i, w in enumerate(waiting) if i not in set(batch)]
    assert sorted(ran) == list(range(len(tokens)))


def test_budget_halves_down_to_a_floor_and_grows_back_to_its_limit():
    budget = TokenBudget(512)
    budget.shrink()
    assert budget.tokens == 256
    for _ in range(20):
        budget.shrink()
    assert budget.tokens == 16
    budget.grow()
    assert 16 < budget.tokens < 64
    for _ in range(300):
        budget.grow()
    assert budget.tokens == 512
