"""Plans near a good one."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airtune.allocation.sparsity.deadline_cells import RankTrade
from airtune.allocation.sparsity.deadline_search import answer_to_price, neighbours, plans_within
from airtune.allocation.sparsity.options import rank_options
from airtune.wireless.rate import ShannonLinks


@given(st.integers(0, 10_000), st.floats(0.0, 3.0))
def test_plans_within_lists_all_and_only_those(seed: int, budget: float) -> None:
    cost = np.random.default_rng(seed).random((3, 4))
    cost[2, 1] = np.inf
    found = plans_within(cost, budget, 1000)
    assert found is not None
    least = cost.min(axis=0).sum()
    expected = {
        plan
        for plan in itertools.product(range(3), repeat=4)
        if cost[list(plan), range(4)].sum() - least <= budget
    }
    assert {tuple(plan) for plan in found.tolist()} == expected
    assert len(found) == len(expected)


def test_plans_within_gives_up_at_the_limit() -> None:
    assert plans_within(np.zeros((5, 6)), 0.0, 100) is None
    assert plans_within(np.zeros((1, 6)), 0.0, 100) is not None


def small_trade(seed: int) -> RankTrade:
    draw = np.random.default_rng(seed)
    clients = 4
    energy = draw.random((clients, 5))
    options = rank_options(energy, np.full((clients, 1), 1e5), np.zeros(clients))
    slack = draw.random(clients)
    slack[0] = 0.0
    links = ShannonLinks(10 ** draw.uniform(5, 8, clients))
    return RankTrade(links, options, np.ones(clients), 1.0, slack, 1.0, 1e6, True)


def test_neighbours_differ_in_one_or_two_clients_and_hold_every_single_move() -> None:
    trade = small_trade(1)
    option = np.array([0, 2, 4, 1])
    plans = neighbours(trade, option, float(trade.headroom(option)))
    changed = (plans != option).sum(axis=1)
    assert set(changed.tolist()) == {1, 2}
    singles = {tuple(plan) for plan in plans[changed == 1].tolist()}
    for client, step in itertools.product(range(4), (-1, 1)):
        moved = option.copy()
        moved[client] += step
        if 0 <= moved[client] <= 4:
            assert tuple(moved.tolist()) in singles


@given(st.integers(0, 1000))
def test_the_answer_to_the_own_price_is_each_clients_best(seed: int) -> None:
    """The price is the queue over the bandwidth that a second more would free, by differences."""
    trade = small_trade(seed)
    option = np.random.default_rng(seed).integers(0, 5, 4)
    headroom = float(trade.headroom(option))
    rows = np.arange(5)[:, None]

    def band(at: float) -> np.ndarray:
        return trade.links.bandwidth_for(
            trade.options.bits(trade.columns, rows) / (at + trade.slack_s)
        )

    step = 1e-5 * headroom
    sooner, later = (band(headroom + by)[option, trade.columns] for by in (-step, step))
    price = trade.queue * 2.0 * step / (sooner - later).sum()
    cost = trade.gain * trade.options.dropped.T + price * band(headroom)
    answer = answer_to_price(trade, option, headroom)
    assert cost[answer, trade.columns] == pytest.approx(cost.min(axis=0), rel=1e-6)
