"""The exact JCPBA planner against plain bounds, a convex solver, and its own invariances."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airtune.allocation.pruning.dual import PricedDeadlines
from airtune.allocation.pruning.exact import exact_pruning
from airtune.allocation.pruning.problem import PruningPlan, PruningProblem
from airtune.allocation.solve import Solution, Status
from airtune.wireless.cqi import CqiLinks
from airtune.wireless.rate import ShannonLinks
from tests.allocation.pruning_oracle import (
    convex_least_pruning,
    odd_problem,
    plain_clients,
    proves_impossible,
    random_problem,
)


def solved(problem: PruningProblem) -> tuple[Solution[PruningPlan], PruningPlan]:
    solution = exact_pruning(problem)
    assert solution.status is Status.OPTIMAL, solution.message
    assert solution.plan is not None
    return solution, solution.plan


def assert_feasible(problem: PruningProblem, plan: PruningPlan) -> None:
    """Every constraint once more, client by client."""
    assert math.fsum(plan.bandwidth_hz) <= problem.bandwidth_hz * (1 + 1e-12)
    weighted = math.fsum(w * r for w, r in zip(problem.weight, plan.pruning_rate, strict=True))
    assert weighted <= problem.pruning_budget + 1e-12
    for index, one in enumerate(plain_clients(problem)):
        rho = float(plan.pruning_rate[index])
        assert one.lowest <= rho <= one.highest
        finish = one.finish(rho, float(plan.bandwidth_hz[index]))
        assert finish <= plan.latency_s * (1 + 1e-12)


def assert_certified(problem: PruningProblem) -> None:
    solution, plan = solved(problem)
    assert_feasible(problem, plan)
    assert solution.gap is not None
    assert 0 <= solution.gap < 1e-9
    assert solution.check is not None
    assert solution.check.passed
    if plan.latency_s > 0:
        assert proves_impossible(problem, plan.latency_s * (1 - 1e-6), plan.price_hz)


@pytest.mark.parametrize("seed", [711, 2693])
def test_deadline_just_above_that_of_a_client_alone(seed: int) -> None:
    """There bandwidths far below the band are within 1e-8 of keeping the pruning budget."""
    assert_certified(random_problem(np.random.default_rng(seed), 6))


@pytest.mark.parametrize("seed", range(12))
def test_certificate_by_plain_code(seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert_certified(random_problem(rng, clients=(1, 2, 3, 5, 12, 30)[seed % 6]))


@pytest.mark.parametrize("seed", range(12))
def test_certificate_where_things_are_missing(seed: int) -> None:
    rng = np.random.default_rng(1000 + seed)
    assert_certified(odd_problem(rng, clients=int(rng.integers(1, 8))))


@pytest.mark.slow
def test_certificate_on_500_random_problems() -> None:
    for seed in range(500):
        rng = np.random.default_rng(5000 + seed)
        assert_certified(random_problem(rng, clients=int(rng.integers(1, 201))))


class TestKnownAnswers:
    def test_one_client_prunes_up_to_its_budget(self) -> None:
        problem = random_problem(np.random.default_rng(1), 1, pruning_budget=0.25)
        _, plan = solved(problem)
        one = plain_clients(problem)[0]
        assert plan.pruning_rate[0] == pytest.approx(0.25, rel=1e-12)
        assert plan.bandwidth_hz[0] == pytest.approx(problem.bandwidth_hz, rel=1e-12)
        assert plan.latency_s == pytest.approx(one.finish(0.25, problem.bandwidth_hz), rel=1e-12)

    def test_equal_clients_share_equally(self) -> None:
        problem = random_problem(np.random.default_rng(2), 1)
        columns = ("weight", "fixed_delay_s", "fixed_compute_s", "prunable_compute_s",
                   "fixed_bits", "prunable_bits", "pruning_rate_min")  # fmt: skip
        copies: dict[str, Any] = {name: np.repeat(getattr(problem, name), 7) for name in columns}
        links = ShannonLinks(np.repeat(problem.links.cn0_hz, 7))  # type: ignore[attr-defined]
        _, plan = solved(replace(problem, links=links, **copies))
        np.testing.assert_allclose(plan.bandwidth_hz, problem.bandwidth_hz / 7, rtol=1e-9)
        np.testing.assert_allclose(
            plan.pruning_rate, min(problem.pruning_budget, problem.pruning_rate_max), rtol=1e-9
        )

    def test_no_budget_leaves_everything_unpruned(self) -> None:
        _, plan = solved(random_problem(np.random.default_rng(3), 9, pruning_budget=0.0))
        np.testing.assert_array_equal(plan.pruning_rate, 0.0)

    def test_ample_budget_prunes_everything(self) -> None:
        problem = random_problem(
            np.random.default_rng(4), 9, pruning_budget=1.0, links=ShannonLinks(np.full(9, 1e7)),
            bandwidth_hz=1e6,
        )  # fmt: skip
        _, plan = solved(problem)
        np.testing.assert_allclose(plan.pruning_rate, problem.pruning_rate_max, atol=1e-4)
        assert plan.price_hz == 0

    def test_two_clients_by_brute_force(self) -> None:
        """Grid over one client's pruning and bandwidth; the other takes the rest of both."""
        problem = random_problem(np.random.default_rng(5), 2, pruning_budget=0.3)
        first, second = plain_clients(problem)
        best = math.inf
        for rho in np.linspace(0, min(problem.pruning_rate_max, 0.3 / first.weight), 301):
            rest = (problem.pruning_budget - first.weight * rho) / second.weight
            other = min(rest, problem.pruning_rate_max)
            for share in np.linspace(0.001, 0.999, 999):
                one = first.finish(rho, share * problem.bandwidth_hz)
                two = second.finish(other, (1 - share) * problem.bandwidth_hz)
                best = min(best, max(one, two))
        _, plan = solved(problem)
        assert plan.latency_s <= best
        assert plan.latency_s == pytest.approx(best, rel=5e-3)

    def test_of_several_optima_the_one_with_the_least_pruning(self) -> None:
        """A client without a payload sets the latency; the others need not be pruned for it."""
        problem = random_problem(
            np.random.default_rng(6),
            3,
            links=ShannonLinks(np.full(3, 1e9)),
            bandwidth_hz=1e7,
            weight=np.ones(3),
            pruning_budget=0.5,
            pruning_rate_max=0.9,
            fixed_delay_s=np.array([100.0, 0.0, 0.0]),
            fixed_compute_s=np.zeros(3),
            prunable_compute_s=np.array([0.0, 30.0, 50.0]),
            fixed_bits=np.zeros(3),
            prunable_bits=np.array([0.0, 1e6, 1e6]),
        )
        solution, plan = solved(problem)
        assert plan.latency_s == 100.0
        np.testing.assert_array_equal(plan.pruning_rate, 0.0)
        assert "delay of client 0" in solution.message

    def test_least_pruning_where_the_budget_is_slack_but_the_band_is_short(self) -> None:
        """The same, with a band that forces some pruning: compare with a plain price search."""
        rng = np.random.default_rng(7)
        problem = random_problem(
            rng,
            6,
            links=ShannonLinks(10 ** rng.uniform(5, 7, 6)),
            bandwidth_hz=5e4,
            pruning_budget=0.8,
            pruning_rate_max=0.9,
            fixed_delay_s=np.array([60.0, 0, 0, 0, 0, 0]),
            fixed_compute_s=np.zeros(6),
            prunable_compute_s=np.array([0.0, 3, 4, 5, 6, 7]),
            fixed_bits=np.zeros(6),
            prunable_bits=np.array([0.0, 9e6, 8e6, 7e6, 6e6, 5e6]),
        )
        _, plan = solved(problem)
        assert plan.latency_s == pytest.approx(60.0, rel=1e-12)
        pruned = problem.pruned(plan.pruning_rate)
        assert 0.01 < pruned < 0.79
        clients = plain_clients(problem)
        bounds = []
        for log_price in np.linspace(10, 25, 301):
            price = math.exp(log_price)
            cost = math.fsum(one.least_cost(60.0, price) for one in clients)
            bounds.append((cost - problem.bandwidth_hz) / price)
        assert max(bounds) <= pruned * (1 + 1e-9)
        assert max(bounds) == pytest.approx(pruned, rel=1e-3)


def assert_same_plan(problem: PruningProblem, plan: PruningPlan, other: PruningPlan) -> None:
    """Equal up to what the deadline's last digits decide.

    Where the band hardly buys speed any more, 1e-12 of the latency is worth megahertz; so the
    tolerance is how far the plan of least pruning itself moves over a few times that.
    """
    needs = PricedDeadlines(problem)
    early, late = (needs.keep_most(plan.latency_s * (1 + shift)) for shift in (0.0, 4e-12))
    moved = np.abs(late[0] - early[0]), np.abs(late[1] - early[1])
    assert (np.abs(other.pruning_rate - plan.pruning_rate) <= 1e-7 + 2 * moved[0]).all()
    share = 1e-7 * problem.bandwidth_hz
    assert (np.abs(other.bandwidth_hz - plan.bandwidth_hz) <= share + 2 * moved[1]).all()


class TestInvariances:
    @given(st.integers(0, 10_000), st.integers(1, 20))
    @settings(max_examples=25)
    def test_permutation(self, seed: int, clients: int) -> None:
        rng = np.random.default_rng(seed)
        problem = random_problem(rng, clients)
        order = rng.permutation(clients)
        _, plan = solved(problem)
        permuted = replace(problem.select(order), bandwidth_hz=problem.bandwidth_hz)
        _, other = solved(permuted)
        assert other.latency_s == pytest.approx(plan.latency_s, rel=1e-11)
        assert_same_plan(
            problem,
            plan,
            replace(
                other,
                pruning_rate=other.pruning_rate[np.argsort(order)],
                bandwidth_hz=other.bandwidth_hz[np.argsort(order)],
            ),
        )

    @given(st.integers(0, 10_000), st.floats(-6, 6))
    @settings(max_examples=25)
    def test_time_and_bits_together(self, seed: int, log_scale: float) -> None:
        problem = random_problem(np.random.default_rng(seed), 6)
        scale = 10.0**log_scale
        columns = ("fixed_delay_s", "fixed_compute_s", "prunable_compute_s", "fixed_bits",
                   "prunable_bits")  # fmt: skip
        scaled = replace(problem, **{name: scale * getattr(problem, name) for name in columns})
        _, plan = solved(problem)
        _, other = solved(scaled)
        assert other.latency_s == pytest.approx(scale * plan.latency_s, rel=1e-11)
        assert_same_plan(problem, plan, other)

    @given(st.integers(0, 10_000), st.floats(-6, 6))
    @settings(max_examples=25)
    def test_hertz_and_bits_together(self, seed: int, log_scale: float) -> None:
        problem = random_problem(np.random.default_rng(seed), 6)
        scale = 10.0**log_scale
        links = ShannonLinks(scale * problem.links.cn0_hz)  # type: ignore[attr-defined]
        scaled = replace(
            problem,
            links=links,
            bandwidth_hz=scale * problem.bandwidth_hz,
            fixed_bits=scale * problem.fixed_bits,
            prunable_bits=scale * problem.prunable_bits,
        )
        assert solved(scaled)[1].latency_s == pytest.approx(solved(problem)[1].latency_s, rel=1e-11)

    @given(st.integers(0, 10_000))
    @settings(max_examples=25)
    def test_more_of_anything_never_hurts(self, seed: int) -> None:
        problem = random_problem(np.random.default_rng(seed), 5)
        latency = solved(problem)[1].latency_s * (1 + 1e-11)
        assert solved(replace(problem, bandwidth_hz=1.3 * problem.bandwidth_hz))[1].latency_s <= (
            latency
        )
        wider = replace(problem, pruning_budget=problem.pruning_budget + 0.1)
        assert solved(wider)[1].latency_s <= latency
        freer = replace(problem, pruning_rate_max=0.5 + 0.5 * problem.pruning_rate_max)
        assert solved(freer)[1].latency_s <= latency

    def test_sampled_start_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        problem = random_problem(np.random.default_rng(8), 3000)
        _, plan = solved(problem)
        monkeypatch.setattr("airtune.allocation.pruning.exact._SAMPLED_FROM", 10)
        monkeypatch.setattr("airtune.allocation.pruning.exact._SAMPLE", 100)
        _, other = solved(problem)
        assert other.latency_s == pytest.approx(plan.latency_s, rel=1e-11)
        np.testing.assert_allclose(other.pruning_rate, plan.pruning_rate, atol=1e-7)

    def test_a_guess_of_the_latency_changes_nothing(self) -> None:
        problem = random_problem(np.random.default_rng(9), 20)
        _, plan = solved(problem)
        for guess in (0.0, 0.999 * plan.latency_s, plan.latency_s, 1e9 * plan.latency_s):
            other = exact_pruning(problem, start_s=guess)
            assert other.objective == pytest.approx(plan.latency_s, rel=1e-11)


class TestExtremes:
    @pytest.mark.parametrize("cn0", [1e-30, 1e30])
    def test_all_gains_extreme(self, cn0: float) -> None:
        assert_certified(
            random_problem(np.random.default_rng(10), 4, links=ShannonLinks(np.full(4, cn0)))
        )

    def test_one_gain_extreme(self) -> None:
        for cn0 in (1e-30, 1e30):
            links = ShannonLinks(np.array([1e6, cn0, 1e6]))
            assert_certified(random_problem(np.random.default_rng(11), 3, links=links))

    def test_a_client_without_signal_is_named(self) -> None:
        links = ShannonLinks(np.array([1e6, 0.0]))
        problem = random_problem(np.random.default_rng(12), 2, links=links, pruning_rate_max=0.9)
        solution = exact_pruning(replace(problem, names=("near", "tunnel")))
        assert solution.status is Status.INFEASIBLE
        assert solution.plan is None
        assert solution.gap is None
        assert "client tunnel" in solution.message
        assert "no signal" in solution.message

    def test_a_client_without_signal_may_be_pruned_away(self) -> None:
        problem = random_problem(
            np.random.default_rng(13),
            2,
            links=ShannonLinks(np.array([1e6, 0.0])),
            pruning_rate_max=1.0,
            fixed_bits=np.zeros(2),
            weight=np.array([9.0, 1.0]),
            pruning_budget=0.2,
        )
        _, plan = solved(problem)
        assert plan.pruning_rate[1] == 1.0
        assert plan.bandwidth_hz[1] == 0.0
        assert exact_pruning(replace(problem, pruning_budget=0.05)).status is Status.INFEASIBLE

    def test_floors_above_the_budget(self) -> None:
        problem = random_problem(
            np.random.default_rng(14), 3, pruning_budget=0.1, pruning_rate_min=np.full(3, 0.2)
        )
        solution = exact_pruning(problem)
        assert solution.status is Status.INFEASIBLE
        assert "pruning_rate_min" in solution.message

    def test_nothing_to_do(self) -> None:
        nothing = np.zeros(3)
        problem = random_problem(
            np.random.default_rng(15),
            3,
            fixed_delay_s=nothing,
            fixed_compute_s=nothing,
            prunable_compute_s=nothing,
            fixed_bits=nothing,
            prunable_bits=nothing,
        )
        solution, plan = solved(problem)
        assert plan.latency_s == 0
        assert solution.gap == 0
        np.testing.assert_array_equal(plan.pruning_rate, 0.0)
        np.testing.assert_array_equal(plan.bandwidth_hz, 0.0)

    def test_weightless_clients_may_be_pruned_without_a_budget(self) -> None:
        problem = random_problem(
            np.random.default_rng(16), 3, weight=np.array([1.0, 0, 0]), pruning_budget=0.0
        )
        _, plan = solved(problem)
        assert plan.pruning_rate[0] == 0
        np.testing.assert_allclose(plan.pruning_rate[1:], problem.pruning_rate_max, atol=1e-9)


def test_envelope_of_a_cqi_table() -> None:
    """Piecewise linear rates have kinks, at which bisection must find the choice."""
    for seed in range(6):
        rng = np.random.default_rng(100 + seed)
        links = CqiLinks(10 ** rng.uniform(5, 7, 8)).envelope()
        problem = random_problem(rng, 8, links=links, bandwidth_hz=3e5)
        solution, plan = solved(problem)
        # The concave envelope lies below Shannon's rate, so that bounds it from below.
        shannon = replace(problem, links=ShannonLinks(links.cn0_hz))
        assert solved(shannon)[1].latency_s < plan.latency_s
        assert solution.gap is not None
        assert solution.gap < 1e-9
        assert plan.price_hz < math.inf
        assert PricedDeadlines(problem)(plan.latency_s * (1 - 1e-6))[0] > problem.bandwidth_hz


class TestAgainstAConvexSolver:
    """cvxpy with Clarabel as a third opinion, on problems it can scale."""

    @pytest.mark.parametrize(("seed", "clients"), [(0, 1), (1, 3), (2, 10), (3, 25), (5, 50)])
    def test_a_handful(self, seed: int, clients: int) -> None:
        assert _convex_solver_agrees(np.random.default_rng(seed), clients)

    @pytest.mark.slow
    def test_many(self) -> None:
        agreed = 0
        for seed in range(100):
            rng = np.random.default_rng(9000 + seed)
            agreed += _convex_solver_agrees(rng, int(rng.integers(1, 51)))
        assert agreed >= 90, "where it does not report optimal it has no opinion"


def _convex_solver_agrees(rng: np.random.Generator, clients: int) -> bool:
    """Its least weighted pruning is above Gamma at 1e-4 less than our latency, below at more."""
    problem = random_problem(
        rng,
        clients,
        links=ShannonLinks(10 ** rng.uniform(6, 8, clients)),
        bandwidth_hz=1e6 * clients,
        pruning_budget=rng.uniform(0.05, 0.5),
        fixed_delay_s=rng.uniform(0, 0.5, clients),
        fixed_compute_s=rng.uniform(0, 0.5, clients),
        prunable_compute_s=rng.uniform(1, 5, clients) * rng.integers(0, 2, clients),
        fixed_bits=rng.uniform(0, 1e6, clients),
        prunable_bits=rng.uniform(1e6, 1e7, clients),
    )
    _, plan = solved(problem)
    above = convex_least_pruning(problem, plan.latency_s * (1 + 1e-4))
    below = convex_least_pruning(problem, plan.latency_s * (1 - 1e-4))
    if above is None or below is None:
        return False
    assert above <= problem.pruning_budget <= below
    return True
