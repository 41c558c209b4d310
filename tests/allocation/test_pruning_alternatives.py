"""The simpler JCPBA solvers: what each is defined to do, and never better than the optimum."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airtune.allocation.bandwidth import minmax_bandwidth
from airtune.allocation.pruning.exact import (
    alternating_pruning,
    equal_shares_pruning,
    exact_pruning,
    uniform_pruning,
    without_anything,
    without_pruning,
)
from airtune.allocation.pruning.problem import PruningPlan, PruningProblem
from airtune.allocation.solve import Solution, Status
from airtune.wireless.rate import ShannonLinks
from tests.allocation.pruning_oracle import odd_problem, random_problem

Solver = Callable[[PruningProblem], Solution[PruningPlan]]
ALL: list[Solver] = [
    alternating_pruning,
    equal_shares_pruning,
    uniform_pruning,
    without_pruning,
    without_anything,
]


@pytest.mark.parametrize("solve", ALL)
@given(st.integers(0, 10_000), st.integers(1, 15))
@settings(max_examples=20)
def test_never_better_than_the_optimum(solve: Solver, seed: int, clients: int) -> None:
    rng = np.random.default_rng(seed)
    problem = (odd_problem if seed % 2 else random_problem)(rng, clients)
    solution = solve(problem)
    best = exact_pruning(problem)
    assert best.objective is not None
    if solution.status is Status.INFEASIBLE:
        # Only a floor above what the solver prunes everybody by.
        assert solve in (uniform_pruning, without_pruning, without_anything)
        assert "to fit its memory" in solution.message
        return
    assert solution.check is not None
    assert solution.check.passed
    assert solution.objective is not None
    assert solution.objective >= best.objective * (1 - 1e-11)
    assert solution.lower_bound == pytest.approx(best.objective, rel=1e-9)
    assert solution.gap == pytest.approx(
        solution.objective / best.objective - 1 if best.objective else 0.0, abs=1e-8
    )


def plan_of(solve: Solver, problem: PruningProblem) -> PruningPlan:
    plan = solve(problem).plan
    assert plan is not None
    return plan


class TestDefinitions:
    problem = random_problem(np.random.default_rng(1), 9, pruning_budget=0.3, pruning_rate_max=0.8)

    def test_equal(self) -> None:
        plan = plan_of(equal_shares_pruning, self.problem)
        np.testing.assert_array_equal(plan.bandwidth_hz, self.problem.bandwidth_hz / 9)

    def test_uniform(self) -> None:
        plan = plan_of(uniform_pruning, self.problem)
        np.testing.assert_array_equal(plan.pruning_rate, 0.3)
        plan = plan_of(uniform_pruning, replace(self.problem, pruning_budget=0.9))
        np.testing.assert_array_equal(plan.pruning_rate, 0.8)

    @pytest.mark.parametrize(("solve", "rate"), [(uniform_pruning, 0.3), (without_pruning, 0.0)])
    def test_bandwidth_is_minmax(self, solve: Solver, rate: float) -> None:
        rates = np.full(9, rate)
        best = minmax_bandwidth(
            self.problem.links,
            self.problem.payload_bits(rates),
            self.problem.start_s(rates),
            self.problem.bandwidth_hz,
        )
        assert plan_of(solve, self.problem).latency_s == pytest.approx(best.objective, rel=1e-12)

    def test_none(self) -> None:
        plan = plan_of(without_anything, self.problem)
        np.testing.assert_array_equal(plan.pruning_rate, 0.0)
        np.testing.assert_array_equal(plan.bandwidth_hz, self.problem.bandwidth_hz / 9)


class TestAlternation:
    @given(st.integers(0, 10_000))
    @settings(max_examples=30)
    def test_trace_never_rises_and_starts_at_equal_shares(self, seed: int) -> None:
        problem = random_problem(np.random.default_rng(seed), 12)
        solution = alternating_pruning(problem)
        trace = np.array(solution.trace)
        assert len(trace) == 2 * solution.iterations
        assert (np.diff(trace) <= 1e-11 * trace[1:]).all()
        assert trace[0] == pytest.approx(plan_of(equal_shares_pruning, problem).latency_s)
        assert solution.objective == pytest.approx(trace[-1], rel=1e-11)

    def test_ends_where_a_round_changes_nothing(self) -> None:
        problem = random_problem(np.random.default_rng(3), 12)
        trace = alternating_pruning(problem).trace
        rounds = trace[1::2]
        assert rounds[-2] - rounds[-1] < 1e-9 * rounds[-1]
        assert all(a - b >= 1e-9 * b for a, b in pairwise(rounds[:-1]))

    def test_is_no_optimum(self) -> None:
        """Two clients whose trade-off an alternation cannot see: it stops clearly above."""
        gaps = []
        for seed in range(10):
            problem = random_problem(np.random.default_rng(seed), 8, pruning_budget=0.3)
            gap = alternating_pruning(problem).gap
            assert gap is not None
            gaps.append(gap)
        assert max(gaps) > 0.01


class TestInfeasible:
    @pytest.mark.parametrize("solve", ALL)
    def test_no_signal(self, solve: Solver) -> None:
        problem = random_problem(
            np.random.default_rng(5),
            2,
            links=ShannonLinks(np.array([1e6, 0.0])),
            pruning_rate_max=0.9,
            names=("near", "tunnel"),
        )
        solution = solve(problem)
        assert solution.status is Status.INFEASIBLE
        assert "client tunnel" in solution.message
        assert solution.plan is None

    @pytest.mark.parametrize("solve", [uniform_pruning, without_pruning, without_anything])
    def test_floor_above_the_rate_of_all(self, solve: Solver) -> None:
        problem = random_problem(
            np.random.default_rng(6),
            3,
            pruning_budget=0.2,
            names=("a", "b", "c"),
            pruning_rate_min=np.array([0.0, 0.4, 0.0]),
            weight=np.array([1.0, 0.1, 1.0]),
        )
        solution = solve(problem)
        assert solution.status is Status.INFEASIBLE
        assert "client b must be pruned by at least 0.4" in solution.message
        assert exact_pruning(problem).status is Status.OPTIMAL
