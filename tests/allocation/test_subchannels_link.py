"""Assignments of subchannels: matching, greedy, counts, local search and the dual bound."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airtune.allocation.subchannels.assignment import (
    even_owners,
    greedy_owners,
    improve_owners,
    unreachable_client,
)
from airtune.allocation.subchannels.bound import PriceCut, best_cut, cut_at, energy_cut
from airtune.allocation.subchannels.link import best_counts, best_of_all, counts_within
from airtune.allocation.subchannels.power import UNUSED, Demand, Uplink
from tests.allocation.subchannel_cases import (
    all_assignments,
    random_demand,
    random_link,
    window_of,
    windows_of_all,
)


def case(seed: int, flat: bool = False) -> tuple[Uplink, Demand]:
    rng = np.random.default_rng(seed)
    clients = int(rng.integers(2, 5))
    link = random_link(rng, clients, int(rng.integers(clients, 7)), flat)
    return link, random_demand(rng, clients)


def deadline_ratio(demand: Demand, window: float, best: float) -> float:
    return demand.deadline(window) / demand.deadline(best)


@pytest.mark.parametrize("seed", range(12))
def test_counts_are_optimal_where_subchannels_are_alike(seed: int) -> None:
    link, demand = case(seed, flat=True)
    answer = best_counts(link, demand)
    assert answer is not None
    best = float(windows_of_all(link, demand).min())
    assert answer.window_s == pytest.approx(best, rel=1e-9)
    assert answer.window_s == pytest.approx(window_of(link, demand, answer.owner), rel=1e-11)
    assert answer.window_s * (1 - 1e-9) <= answer.window_bound_s <= best
    assert counts_within(link, demand, best * (1 - 1e-6)) is None


@pytest.mark.parametrize("seed", range(5))
def test_counts_respect_a_cutoff(seed: int) -> None:
    link, demand = case(seed, flat=True)
    best = float(windows_of_all(link, demand).min())
    assert best_counts(link, demand, best * (1 - 1e-6)) is None
    found = best_counts(link, demand, best * (1 + 1e-6))
    assert found is not None
    assert found.window_s == pytest.approx(best, rel=1e-9)


def test_local_search_finds_the_optimum_of_small_cases() -> None:
    ratios, greedy = [], []
    for seed in range(60):
        link, demand = case(seed)
        best = float(windows_of_all(link, demand).min())
        start = greedy_owners(link, demand)
        owner, window = improve_owners(link, demand, start)
        assert window == pytest.approx(window_of(link, demand, owner), rel=1e-12)
        ratios.append(deadline_ratio(demand, window, best))
        greedy.append(deadline_ratio(demand, window_of(link, demand, start), best))
    assert min(ratios) >= 1 - 1e-9
    assert np.mean(ratios) < 1.001
    assert np.max(ratios) < 1.02
    # The search has something to do here, or this test shows nothing.
    assert np.max(greedy) > 1.05


@pytest.mark.parametrize("seed", range(10))
def test_greedy_serves_everyone_and_search_never_worsens(seed: int) -> None:
    rng = np.random.default_rng(seed)
    link = random_link(rng, 6, 25)
    demand = random_demand(rng, 6)
    owner = greedy_owners(link, demand)
    assert set(range(6)) <= set(owner.tolist())
    before = window_of(link, demand, owner)
    _, after = improve_owners(link, demand, owner)
    assert after <= before
    assert after < window_of(link, demand, even_owners(link, demand))


@pytest.mark.parametrize("seed", range(12))
def test_bound_is_below_every_assignment(seed: int) -> None:
    link, demand = case(seed)
    windows = windows_of_all(link, demand)
    bound = best_cut(link, demand, float(np.median(windows))).window(demand)
    assert 0 < bound <= windows.min()


def relaxed_deadline(link: Uplink, demand: Demand) -> float:
    """Subchannels shared in time, as a convex program: what the dual bound must reach."""
    import cvxpy

    unit_s = float(demand.fixed_delay_s.max()) + 1e-6 * float(demand.payload_bits.max())
    share = cvxpy.Variable(link.noise_to_gain.shape, nonneg=True)
    snr = cvxpy.Variable(link.noise_to_gain.shape, nonneg=True)
    deadline = cvxpy.Variable()
    width = np.tile(link.bandwidth_hz / 1e6, (link.clients, 1))
    rate = cvxpy.sum(cvxpy.multiply(width, -cvxpy.rel_entr(share, share + snr)), axis=1)
    power = cvxpy.sum(cvxpy.multiply(width * 1e6 * link.noise_to_gain, snr), axis=1)
    bits = demand.payload_bits * np.log(2) / 1e6 / unit_s
    time = deadline - demand.fixed_delay_s / unit_s
    cvxpy_problem = cvxpy.Problem(
        cvxpy.Minimize(deadline),
        [
            rate >= cvxpy.multiply(bits, cvxpy.inv_pos(time)),
            cvxpy.sum(share, axis=0) <= 1,
            cvxpy.multiply(1 / link.power_max_w, power) <= 1,
            cvxpy.sum(power) / link.power_total_w <= 1,
        ],
    )
    cvxpy_problem.solve(solver=cvxpy.CLARABEL)
    return float(deadline.value) * unit_s


@pytest.mark.parametrize("seed", range(6))
def test_bound_reaches_the_time_sharing_relaxation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = 10 ** rng.uniform(-9, -8, (3, 1)) / rng.exponential(1, (3, 7))
    caps = rng.uniform(0.05, 0.2, 3)
    link = Uplink(rng.uniform(0.2, 1, 7) * 1e6, noise, caps, 0.7 * float(caps.sum()))
    demand = random_demand(rng, 3)
    _, window = improve_owners(link, demand, greedy_owners(link, demand))
    bound = demand.deadline(best_cut(link, demand, window).window(demand))
    relaxed = relaxed_deadline(link, demand)
    assert bound <= relaxed * (1 + 1e-6)
    assert bound >= relaxed * (1 - 1e-3)


@given(seed=st.integers(0, 10**6))
def test_a_cut_is_valid_at_any_prices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    link = random_link(rng, 3, 5)
    prices = 10 ** rng.uniform(-3, 3, (2, 3))
    cut = cut_at(link, prices[0], prices[1] * 1e7, float(10 ** rng.uniform(-3, 3)) * 1e7)
    owner = rng.integers(0, 3, 5)
    power = rng.uniform(0, 1, 5)
    caps = np.bincount(owner, power, minlength=3)
    power *= min(np.min(link.power_max_w / np.maximum(caps, 1e-9)), link.power_total_w / caps.sum())
    rate = np.zeros(3)
    for i, k in enumerate(owner):
        width = link.bandwidth_hz[i]
        rate[k] += width * np.log2(1 + power[i] / width / link.noise_to_gain[k, i])
    assert cut.rate_price @ rate <= cut.value * (1 + 1e-12)
    cheap = energy_cut(link)
    assert cheap.rate_price @ rate <= cheap.value * (1 + 1e-12)


def test_a_cut_of_another_demand_still_bounds() -> None:
    link, demand = case(4)
    cut = best_cut(link, demand, float(windows_of_all(link, demand).min()))
    other = Demand(demand.payload_bits[::-1] * 3, demand.fixed_delay_s[::-1] * 0.1)
    assert 0 < cut.window(other) <= windows_of_all(link, other).min()


@pytest.mark.parametrize("seed", range(10))
def test_looking_at_all_that_is_left_finds_the_optimum(seed: int) -> None:
    link, demand = case(seed)
    windows = windows_of_all(link, demand)
    start = float(np.median(windows))
    cut = best_cut(link, demand, start)
    found = best_of_all(link, demand, cut, start)
    assert found is not None
    owner, window = found
    assert owner is not None
    assert window == pytest.approx(windows.min(), rel=1e-11)
    assert window == pytest.approx(window_of(link, demand, owner), rel=1e-11)
    assert best_of_all(link, demand, cut, window) == (None, window)


def test_too_many_assignments_are_not_looked_at() -> None:
    rng = np.random.default_rng(0)
    link, demand = random_link(rng, 6, 40), random_demand(rng, 6)
    _, window = improve_owners(link, demand, greedy_owners(link, demand))
    cut = best_cut(link, demand, window)
    assert best_of_all(link, demand, cut, 3 * window) is None
    assert np.all(cut.regret(link) >= 0)
    assert np.all(cut.regret(link).min(axis=0) == 0)


def test_root_of_a_cut() -> None:
    """Two clients, prices 1: 6 / x + 8 / (x + 2) = 5 has the root 2."""
    cut = PriceCut(np.ones(2), np.ones(2), 5.0)
    demand = Demand(np.array([6.0, 8.0]), np.array([2.0, 0.0]))
    assert cut.window(demand) == pytest.approx(2.0, rel=1e-9)
    assert PriceCut(np.ones(2), np.ones(2), np.inf).window(demand) == 0
    assert cut.window(Demand(np.zeros(2), np.ones(2))) == 0


def test_matching_finds_the_client_that_is_left_out() -> None:
    noise = np.full((3, 4), np.inf)
    noise[0, :2] = noise[1, :2] = 1e-9
    noise[2] = 1e-9
    demand = Demand(np.ones(3), np.zeros(3))
    link = Uplink(np.full(4, 1e5), noise, np.ones(3), 3.0)
    assert unreachable_client(link, demand) is None
    assert set(greedy_owners(link, demand).tolist()) >= {0, 1, 2}
    noise[0, 1] = noise[1, 1] = np.inf
    assert unreachable_client(Uplink(np.full(4, 1e5), noise, np.ones(3), 3.0), demand) == 1
    few = Uplink(np.full(2, 1e5), np.full((3, 2), 1e-9), np.ones(3), 3.0)
    assert unreachable_client(few, demand) == 2


def test_matching_moves_an_earlier_client() -> None:
    """Client 0 likes subchannel 0 best, but client 1 hears nothing else."""
    noise = np.array([[1e-10, 1e-9], [1e-9, np.inf]])
    link = Uplink(np.full(2, 1e5), noise, np.ones(2), 2.0)
    demand = Demand(np.array([9.0, 1.0]), np.zeros(2))
    assert greedy_owners(link, demand).tolist() == [1, 0]


def test_clients_without_payload_get_nothing() -> None:
    link, _ = case(7)
    bits = np.full(link.clients, 1e5)
    bits[0] = 0
    demand = Demand(bits, np.zeros(link.clients))
    for owner in (greedy_owners(link, demand), even_owners(link, demand)):
        assert 0 not in owner.tolist()
        _, window = improve_owners(link, demand, owner)
        bound = best_cut(link, demand, window).window(demand)
        assert 0 < bound <= window
    no_demand = Demand(np.zeros(link.clients), np.zeros(link.clients))
    assert set(greedy_owners(link, no_demand).tolist()) == {UNUSED}
    assert set(even_owners(link, no_demand).tolist()) == {UNUSED}


def test_brute_force_counts_surjections() -> None:
    """The oracle itself: 3 clients on 4 subchannels make 36 assignments."""
    assert len(all_assignments(3, 4)) == 36


@pytest.mark.parametrize("flat", [True, False])
def test_weak_signals(flat: bool) -> None:
    """At a signal-to-noise ratio of 1e-14 rates are linear in power; the energy bound is tight."""
    rng = np.random.default_rng(0)
    link = random_link(rng, 3, 6, flat)
    weak = Uplink(link.bandwidth_hz, link.noise_to_gain * 1e16, link.power_max_w, 0.1)
    demand = Demand(np.full(3, 1e5), np.zeros(3))
    best = float(windows_of_all(weak, demand).min())
    bound = max(energy_cut(weak).window(demand), best_cut(weak, demand, best).window(demand))
    assert 0 < bound <= best * (1 + 1e-12)
    _, window = improve_owners(weak, demand, greedy_owners(weak, demand))
    assert window <= best * 1.001


def test_counts_where_few_subchannels_need_infinite_power() -> None:
    """One subchannel would need 2^2000 noise powers; 37 of them need less than 1 W."""
    link = Uplink(np.full(40, 1e3), np.full((2, 40), 1e-21), np.ones(2), 1.5)
    demand = Demand(np.array([4e6, 1e3]), np.zeros(2))
    counts = counts_within(link, demand, 2.0)
    assert counts is not None
    assert counts[0] >= 37
    assert counts[1] >= 1
