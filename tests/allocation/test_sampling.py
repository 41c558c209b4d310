"""Independent sampling against SLSQP, brute force and its limits."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy.optimize import minimize

from airtune.allocation.sampling.price import clear, clipped
from airtune.allocation.sampling.problem import SamplingProblem, expected_time
from airtune.allocation.sampling.solvers import SOLVERS, planned, uniform
from airtune.allocation.solve import Status
from airtune.errors import InputError
from airtune.wireless.budget import power_links
from airtune.wireless.rate import FixedEfficiencyLinks, ShannonLinks


def cell(seed: int, clients: int = 6, options: int = 1, band_hz: float = 3e5) -> SamplingProblem:
    """Clients of very different links, delays and worth; option j has 1 / (j + 1) of the ranks."""
    rng = np.random.default_rng(seed)
    parts = 1.0 / np.arange(1, options + 1)
    return SamplingProblem(
        ShannonLinks(10 ** rng.uniform(5.5, 8.5, clients)),
        band_hz * clients,
        rng.uniform(0.5e6, 3e6, clients)[:, None] * parts,
        np.repeat(rng.uniform(0.1, 1.5, clients)[:, None], options, axis=1),
        (rng.uniform(0.05, 2.0, clients) ** 2 / clients)[:, None] / parts,
        0.3,
    )


def slsqp(problem: SamplingProblem) -> float:
    """The least expected time over log q and log tau, from several starts."""
    clients = len(problem)
    least = float(np.log(problem.alone_s().max()))
    variance = problem.variance[:, 0]

    def time(x: np.ndarray) -> float:
        return float(x[-1] + np.log(problem.floor + (variance * np.exp(-x[:-1])).sum()))

    def left(x: np.ndarray) -> float:
        # An independent inverse of the rate, by bisection.
        tau = np.exp(x[-1])
        needed = problem.payload_bits[:, 0] / (tau - problem.fixed_delay_s[:, 0])
        low, high = np.zeros(clients), np.full(clients, 1e12)
        for _ in range(200):
            middle = 0.5 * (low + high)
            enough = problem.links.rate(middle) >= needed
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        return float(1.0 - (np.exp(x[:-1]) * high).sum() / problem.bandwidth_hz)

    best = np.inf
    for later in (0.05, 0.3, 1.0):
        found = minimize(
            time,
            np.concatenate([np.full(clients, -1.0), [least + later]]),
            constraints=[{"type": "ineq", "fun": left}],
            bounds=[(-8.0, 0.0)] * clients + [(least + 1e-6, least + 5.0)],
            options={"ftol": 1e-14, "maxiter": 500},
            method="SLSQP",
        )
        if found.success and left(found.x) > -1e-8:
            best = min(best, float(np.exp(found.fun)))
    return best


@pytest.mark.parametrize("seed", range(6))
def test_slsqp_of_six_clients(seed: int) -> None:
    problem = cell(seed, band_hz=(3e5, 6e4)[seed % 2])
    solution = planned(problem)
    assert solution.status is Status.OPTIMAL
    assert solution.plan is not None
    assert solution.plan.inclusion.min() < 1.0 or seed not in (1, 3, 5)
    assert solution.objective is not None
    # SLSQP stops up to 1e-6 above the optimum.
    assert solution.objective == pytest.approx(slsqp(problem), rel=2e-6)
    assert solution.objective <= slsqp(problem) * (1 + 1e-9)
    assert solution.objective == expected_time(problem, solution.plan)


def test_alike_clients_have_one_probability_and_a_large_band_takes_all() -> None:
    same = SamplingProblem(
        ShannonLinks(np.full(5, 1e6)), 3e5, np.full(5, 1e6), np.full(5, 0.2), np.full(5, 0.2), 0.1
    )
    found = planned(same).plan
    assert found is not None
    assert np.ptp(found.inclusion) < 1e-12
    for seed in range(5):
        wide = planned(cell(seed, band_hz=1e12)).plan
        assert wide is not None
        np.testing.assert_array_equal(wide.inclusion, 1.0)
        assert wide.price == 0.0


def test_the_price_clears_the_band() -> None:
    """`q = min(1, sqrt(v / (mu b)))` at one mu, and the expected band is the whole band."""
    problem = cell(2, 40)
    solution = planned(problem)
    plan = solution.plan
    assert plan is not None
    assert plan.expected_band_hz == pytest.approx(problem.bandwidth_hz, rel=1e-9)
    wanted = np.sqrt(problem.variance[:, 0] / (plan.price * plan.bandwidth_hz))
    np.testing.assert_allclose(plan.inclusion, np.minimum(wanted, 1.0), rtol=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_prices_and_options_at_one_deadline_against_brute_force(seed: int) -> None:
    problem = cell(seed, 4, 3)
    tau = float(problem.alone_s().min(axis=1).max()) * 1.3
    band, _ = problem.needs(tau)
    found = clear(band, problem.variance, problem.bandwidth_hz)
    assert found is not None
    values = []
    for options in product(range(3), repeat=4):
        rows = (np.arange(4), np.array(options))
        if not np.isfinite(band[rows]).all():
            continue
        inclusion, _ = clipped(band[rows], problem.variance[rows], problem.bandwidth_hz)
        values.append(float((problem.variance[rows] / inclusion).sum()))
    assert found.bound <= min(values) * (1 + 1e-9)
    assert min(values) * (1 - 1e-9) <= found.variance <= min(values) * 1.05


@pytest.mark.parametrize("seed", range(4))
def test_ranks_are_at_most_a_gap_from_the_best_of_all_choices(seed: int) -> None:
    problem = cell(seed, 4, 2)
    solution = planned(problem)
    best = min(
        planned(problem.of_options(np.array(options))).objective or np.inf
        for options in product(range(2), repeat=4)
    )
    assert solution.objective is not None
    assert solution.lower_bound is not None
    assert solution.lower_bound <= best * (1 + 1e-9)
    assert best * (1 - 1e-9) <= solution.objective <= best * 1.02
    assert solution.objective <= solution.lower_bound * 1.03


def test_more_freedom_is_never_worse() -> None:
    for seed in range(6):
        problem = cell(seed, 12, 3)
        times = {name: solve(problem).objective or np.inf for name, solve in SOLVERS.items()}
        assert times["planned"] <= times["uniform"] * (1 + 1e-9) <= times["all"] * (1 + 2e-9)
        fixed = planned(problem.of_options(np.zeros(12, dtype=int))).objective
        assert fixed is not None
        assert times["planned"] <= fixed * (1 + 1e-6)


def test_fixed_efficiencies_and_a_client_that_counts_nothing() -> None:
    problem = SamplingProblem(
        FixedEfficiencyLinks(np.array([1.0, 2.0, 0.5])),
        1e6,
        np.full(3, 1e6),
        np.full(3, 0.1),
        np.array([1.0, 0.5, 0.0]),
    )
    plan = planned(problem).plan
    assert plan is not None
    assert plan.inclusion[2] == 0.0
    assert plan.expected_band_hz <= 1e6 * (1 + 1e-9)


def test_refusals() -> None:
    silent = SamplingProblem(
        ShannonLinks(np.array([1e6, 0.0])), 1e6, np.ones(2), np.zeros(2), np.ones(2)
    )
    for solve in SOLVERS.values():
        solution = solve(silent)
        assert solution.status is Status.INFEASIBLE
        assert "client 1 has an update but no signal" in solution.message
    links = ShannonLinks(np.full(2, 1e6))
    ones = np.ones(2)
    for arguments, words in (
        ((0.0, ones, ones, ones), "bandwidth_hz"),
        ((1e6, np.array([1.0, 0.0]), ones, ones), "payload_bits of client 1"),
        ((1e6, ones, -ones, ones), "fixed_delay_s of client 0"),
        ((1e6, ones, ones, np.zeros(2)), "variance"),
        ((1e6, ones, ones, ones, -1.0), "floor"),
    ):
        with pytest.raises(InputError, match=words):
            SamplingProblem(links, *arguments)


def test_uniform_has_one_probability() -> None:
    plan = uniform(cell(1)).plan
    assert plan is not None
    assert np.ptp(plan.inclusion) == 0.0


def test_a_table_of_rates_is_planned_without_a_claim_of_convexity() -> None:
    rng = np.random.default_rng(4)
    problem = SamplingProblem(
        power_links("cqi", 10 ** rng.uniform(6, 8.5, 8)),
        1e6,
        rng.uniform(0.5e6, 2e6, 8),
        rng.uniform(0.1, 1.0, 8),
        rng.uniform(0.01, 0.5, 8),
        0.1,
    )
    solution = planned(problem)
    assert solution.objective is not None
    assert solution.lower_bound is not None
    assert solution.lower_bound <= solution.objective <= solution.lower_bound * 1.05
    for tau in np.linspace(0.5, 8.0, 60):
        cleared = clear(problem.needs(float(tau))[0], problem.variance, problem.bandwidth_hz)
        if cleared is not None:
            assert solution.lower_bound <= tau * (problem.floor + cleared.variance) * (1 + 1e-9)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", [1, 3])
@pytest.mark.parametrize("name", list(SOLVERS))
def test_extremes(name: str, options: int) -> None:
    base = cell(0, 6, options)
    for changes in (
        {"bandwidth_hz": 1e-40},
        {"bandwidth_hz": 1e40},
        {"payload_bits": base.payload_bits * 1e-40},
        {"payload_bits": base.payload_bits * 1e40},
        {"fixed_delay_s": base.fixed_delay_s + 1e40},
        {"fixed_delay_s": base.fixed_delay_s * 0.0},
        {"variance": base.variance * np.array([[1e-30]] + [[1.0]] * 5)},
        {"links": ShannonLinks(np.full(6, 1e-20))},
    ):
        solution = SOLVERS[name](replace(base, **changes))
        assert solution.plan is not None
        assert solution.gap is not None
        assert solution.gap > -1e-9
