"""Bounds over intervals of deadlines hold for every plan in them, and are exact at a point."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airtune.allocation.sparsity import deadline_cells as module
from airtune.allocation.sparsity.deadline_cells import (
    Cell,
    CostTable,
    RankTrade,
    bound_cell,
    options_at_price,
)
from airtune.allocation.sparsity.options import RankOptions, _prefixes, rank_options
from airtune.quantities import FloatArray
from airtune.wireless.cqi import CqiLinks
from airtune.wireless.rate import FixedEfficiencyLinks, Links, ShannonLinks

CLIENTS, RANKS = 3, 4


def links_of(kind: str, draw: np.random.Generator) -> Links:
    cn0 = 10 ** draw.uniform(4.5, 7.5, CLIENTS)
    if kind == "fixed":
        return FixedEfficiencyLinks(draw.uniform(0.3, 5.0, CLIENTS))
    return CqiLinks(cn0).envelope() if kind == "envelope" else ShannonLinks(cn0)


def trade_of(seed: int, kind: str, options: RankOptions | None = None) -> RankTrade:
    draw = np.random.default_rng(seed)
    links = links_of(kind, draw)
    slack = draw.random(CLIENTS) * draw.choice([0.0, 1.0])
    slack[draw.integers(CLIENTS)] = 0.0
    energy = draw.random((CLIENTS, RANKS))
    payload = np.full((CLIENTS, 1), draw.uniform(1e4, 3e5))
    options = options or rank_options(energy, payload, np.zeros(CLIENTS))
    gain, smooth = draw.uniform(0.5, 2.0, CLIENTS), kind != "envelope"
    queue = 10 ** draw.uniform(-1.0, 1.0)
    return RankTrade(links, options, gain, queue, slack, float(slack.max()), 1e6, smooth)


def all_plans(trade: RankTrade) -> np.ndarray:
    return np.array(list(itertools.product(*(range(count) for count in trade.options.count))))


def costs(trade: RankTrade, plans: np.ndarray) -> tuple[FloatArray, FloatArray]:
    headroom = trade.headroom(plans)
    return headroom, trade.loss(plans) + trade.queue * (trade.start_s + headroom)


@given(
    st.integers(0, 10_000),
    st.sampled_from(["shannon", "fixed", "envelope"]),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
)
def test_no_plan_in_the_interval_costs_less(seed: int, kind: str, one: float, two: float) -> None:
    trade = trade_of(seed, kind)
    plans = all_plans(trade)
    headroom, cost = costs(trade, plans)
    ends = headroom.min() * (headroom.max() / headroom.min()) ** np.array(sorted([one, two]))
    cell = Cell(float(ends[0]), float(ends[1]), -np.inf, 1e-6)
    found, _ = bound_cell(trade, cell, np.inf, 1e-9)
    inside = (headroom >= ends[0]) & (headroom <= ends[1])
    assert (cost[inside] >= found.bound - 1e-9).all()
    # The plans that need less time than the interval starts at are feasible in it, too.
    waiting = cost + trade.queue * np.maximum(ends[0] - headroom, 0.0)
    assert (waiting[headroom <= ends[1]] >= found.bound - 1e-9).all()


@given(st.integers(0, 10_000), st.sampled_from(["shannon", "fixed", "envelope"]))
def test_at_a_point_it_is_the_fractional_knapsack(seed: int, kind: str) -> None:
    """Options are in convex position, so the relaxation takes increments by energy per hertz."""
    trade = trade_of(seed, kind)
    headroom, _ = costs(trade, all_plans(trade))
    at = float(np.quantile(headroom, 0.4))
    found, table = bound_cell(trade, Cell(at, at, -np.inf, 1e-6), np.inf, 1e-12)
    spare = trade.bandwidth_hz - float(table.band[0].sum())
    loss = float(table.loss[0].sum())
    with np.errstate(invalid="ignore"):
        steps = np.diff(table.band, axis=0).ravel()
        gains = -np.diff(table.loss, axis=0).ravel()
    worth = np.where(np.isfinite(steps), gains / np.where(np.isfinite(steps), steps, 1.0), -1.0)
    for step in np.argsort(-worth):
        if worth[step] > 0 and spare > 0:
            share = min(spare / steps[step], 1.0)
            loss, spare = loss - share * gains[step], spare - share * steps[step]
    assert found.bound == pytest.approx(loss + trade.latency_cost(at), rel=1e-7)


def test_the_error_over_an_interval_is_of_second_order() -> None:
    trade = trade_of(5, "shannon")
    _, cost = costs(trade, all_plans(trade))
    headroom = float(trade.headroom(all_plans(trade)[int(np.argmin(cost))]))
    point, _ = bound_cell(trade, Cell(headroom, headroom, -np.inf, 1e-6), np.inf, 1e-12)
    errors = []
    for width in (0.08, 0.04, 0.02):
        cell = Cell(headroom * (1.0 - width), headroom, -np.inf, point.price)
        table = CostTable(trade, headroom, point.options[0], {})
        value, _, _ = module._at_price(trade, (table, table), cell, point.price)
        exact = CostTable(trade, cell.low_s, point.options[0], {}).cheapest(point.price)[0]
        exact += trade.latency_cost(cell.low_s) - point.price * trade.bandwidth_hz
        tangent = table.cheapest(point.price, headroom * width)[0]
        tangent += trade.latency_cost(cell.low_s) - point.price * trade.bandwidth_hz
        assert value <= exact
        errors.append(exact - tangent)
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.15)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.0, 0.5))
def test_a_window_finds_what_the_whole_table_finds(seed: int, earlier: float) -> None:
    draw = np.random.default_rng(seed)
    energy = draw.random((CLIENTS, 40)) * 0.9 ** np.arange(40)
    options = rank_options(energy, np.full((CLIENTS, 1), 2e4), np.zeros(CLIENTS))
    trade = trade_of(seed, "shannon", options)
    headroom = 2.0 * float(trade.headroom(np.full(CLIENTS, 10)))
    whole = CostTable(trade, headroom, np.zeros(CLIENTS, dtype=np.intp), {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TABLE_ENTRIES", 0)
        window = CostTable(trade, headroom, draw.integers(0, 40, CLIENTS), {})
        for price in (1e-9, 1e-7, 1e-6, 1e-4):
            expected = whole.cheapest(price, earlier * headroom)
            found = window.cheapest(price, earlier * headroom)
            assert found[0] == pytest.approx(expected[0], rel=1e-12)
            assert found[2].tolist() == expected[2].tolist()
            if not earlier:
                guess = options_at_price(trade, headroom, price)
                assert guess.tolist() == expected[2].tolist()


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.floats(0.01, 0.8))
def test_windows_give_an_interval_the_bound_of_the_whole_table(seed: int, width: float) -> None:
    draw = np.random.default_rng(seed)
    energy = draw.random((CLIENTS, 40)) * 0.9 ** np.arange(40)
    options = rank_options(energy, np.full((CLIENTS, 1), 2e4), np.zeros(CLIENTS))
    trade = trade_of(seed, "shannon", options)
    headroom = float(trade.headroom(np.full(CLIENTS, 10)))
    cell = Cell((1 - width) * headroom, headroom, -np.inf, 10 ** draw.uniform(-9, -3))
    whole, _ = bound_cell(trade, cell, np.inf, 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TABLE_ENTRIES", 0)
        near = draw.integers(0, 40, CLIENTS)
        windows, _ = bound_cell(trade, cell, np.inf, 0.0, near)
    assert windows.bound == pytest.approx(whole.bound, rel=1e-9)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_prefixes_bound_every_subset(seed: int, one: float, two: float) -> None:
    """Where only prefixes by energy per bit are listed, the bound still holds for all subsets."""
    draw = np.random.default_rng(seed + 1)
    energy = draw.random((CLIENTS, RANKS))
    payload = draw.uniform(2e4, 2e5, (CLIENTS, RANKS))
    listed = trade_of(seed, "shannon", _prefixes(energy, payload, np.zeros(CLIENTS)))
    every = trade_of(seed, "shannon", rank_options(energy, payload, np.zeros(CLIENTS)))
    assert every.options.complete
    headroom, cost = costs(every, all_plans(every))
    ends = headroom.min() * (headroom.max() / headroom.min()) ** np.array(sorted([one, two]))
    cell = Cell(float(ends[0]), float(ends[1]), -np.inf, 1e-6)
    found, _ = bound_cell(listed, cell, np.inf, 1e-9)
    inside = (headroom >= ends[0]) & (headroom <= ends[1])
    assert (cost[inside] >= found.bound - 1e-9).all()


def test_limits_leave_only_their_options() -> None:
    trade = trade_of(2, "shannon")
    near = np.zeros(CLIENTS, dtype=np.intp)
    table = CostTable(trade, 5.0, near, {1: (1, 2), 2: (3, 3)})
    for price in (1e-12, 1e-6, 1.0):
        option = table.cheapest(price)[2]
        assert 1 <= option[1] <= 2
        assert option[2] == 3


def test_rate_over_slope_is_convex_in_the_rate() -> None:
    """What the window search for the tangents needs of Shannon's formula, from -50 to 300 dB."""
    snr = 10.0 ** np.linspace(30.0, -5.0, 4000)
    links = ShannonLinks(np.ones(len(snr)))
    band = 1.0 / snr
    rate = links.rate(band)
    value = rate / links.slope(band)
    assert (np.diff(rate) > 0).all()
    slopes = np.diff(value) / np.diff(rate)
    assert (np.diff(slopes) > 0).all()
