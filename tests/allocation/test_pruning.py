"""The pruning problem: what it must refuse, the polygon of fixed rates, the check of a plan."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from airtune.allocation.pruning.exact import exact_pruning
from airtune.allocation.pruning.price import AtDeadline
from airtune.allocation.pruning.problem import PruningPlan, best_pruning, check_pruning
from airtune.errors import InputError
from tests.allocation.pruning_oracle import odd_problem, plain_clients, random_problem


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"bandwidth_hz": 0.0}, "bandwidth_hz is 0.0"),
            ({"bandwidth_hz": math.nan}, "bandwidth_hz is nan"),
            ({"pruning_budget": -0.1}, "pruning_budget is -0.1"),
            ({"pruning_budget": math.nan}, "pruning_budget is nan"),
            ({"pruning_rate_max": 1.1}, "pruning_rate_max is 1.1"),
            ({"weight": np.zeros(2)}, "weight is 0.0"),
            ({"weight": np.array([1.0, -1.0])}, "weight of client b is -1.0"),
            ({"weight": np.array([1.0, math.nan])}, "weight of client b is nan"),
            ({"prunable_bits": np.array([1.0, -1.0])}, "prunable_bits of client b is -1.0"),
            ({"fixed_delay_s": np.array([math.inf, 0])}, "fixed_delay_s of client a is inf"),
            (
                {"pruning_rate_min": np.array([0.0, 0.95]), "pruning_rate_max": 0.9},
                r"pruning_rate_min of client b is 0.95, .* from 0 to pruning_rate_max \(0.9\)",
            ),
        ],
    )
    def test_one_sentence_each(self, change: dict[str, object], words: str) -> None:
        with pytest.raises(InputError, match=words):
            random_problem(np.random.default_rng(0), 2, names=("a", "b"), **change)

    def test_weights_are_divided_by_their_sum(self) -> None:
        problem = random_problem(np.random.default_rng(0), 2, weight=np.array([3e200, 1e200]))
        np.testing.assert_allclose(problem.weight, [0.75, 0.25], rtol=1e-15)


class TestBestPruning:
    @given(st.integers(0, 10_000), st.integers(1, 9))
    @settings(max_examples=60)
    def test_against_a_linear_program(self, seed: int, clients: int) -> None:
        """At fixed rates the whole problem is linear in rho and tau."""
        rng = np.random.default_rng(seed)
        problem = odd_problem(rng, clients)
        shares = np.full(clients, problem.bandwidth_hz / clients)
        deadline, pruning_rate = best_pruning(problem, problem.links.rate(shares))
        plain = plain_clients(problem)
        full = np.array([one.finish(0.0, b) for one, b in zip(plain, shares, strict=True)])
        empty = np.array([one.finish(1.0, b) for one, b in zip(plain, shares, strict=True)])
        unit = float(full.max()) or 1.0
        # full - rho (full - empty) <= tau;  sum w rho <= Gamma
        late = np.hstack([-np.diag((full - empty) / unit), -np.ones((clients, 1))])
        budget = np.append(problem.weight, 0.0)
        result = linprog(
            np.append(np.zeros(clients), 1.0),
            A_ub=np.vstack([late, budget]),
            b_ub=np.append(-full / unit, problem.pruning_budget),
            bounds=[(low, problem.pruning_rate_max) for low in problem.pruning_rate_min]
            + [(None, None)],
            method="highs",
        )
        assert result.status == 0
        assert deadline == pytest.approx(result.fun * unit, rel=1e-6)
        assert problem.pruned(pruning_rate) <= problem.pruning_budget * (1 + 1e-12) + 1e-15
        finish = problem.finish_s(pruning_rate, shares)
        assert finish.max() <= deadline * (1 + 1e-14)

    def test_no_client_is_pruned_more_than_the_deadline_asks(self) -> None:
        problem = random_problem(np.random.default_rng(2), 20)
        shares = np.full(20, problem.bandwidth_hz / 20)
        deadline, pruning_rate = best_pruning(problem, problem.links.rate(shares))
        finish = problem.finish_s(pruning_rate, shares)
        early = finish < deadline * (1 - 1e-12)
        np.testing.assert_array_equal(pruning_rate[early], problem.pruning_rate_min[early])
        assert not early.all()

    def test_a_silent_client_is_pruned_away(self) -> None:
        problem = random_problem(
            np.random.default_rng(3),
            2,
            pruning_rate_max=1.0,
            fixed_bits=np.zeros(2),
            pruning_budget=0.9,
        )
        rate = problem.links.rate(np.array([0.0, problem.bandwidth_hz]))
        deadline, pruning_rate = best_pruning(problem, rate)
        assert pruning_rate[0] == 1.0
        assert math.isfinite(deadline)


class TestCheck:
    def test_sees_every_violation(self) -> None:
        problem = random_problem(np.random.default_rng(4), 5, pruning_budget=0.3)
        plan = exact_pruning(problem).plan
        assert plan is not None
        assert check_pruning(problem, plan).passed
        more = plan.pruning_rate.copy()
        more[0] += 0.2
        less = plan.pruning_rate.copy()
        less[int(np.argmax(less))] -= 0.1
        broken = {
            "bandwidth": replace(plan, bandwidth_hz=1.001 * plan.bandwidth_hz),
            "bandwidth of each client": replace(
                plan, bandwidth_hz=plan.bandwidth_hz - 0.5 * problem.bandwidth_hz
            ),
            "pruning budget": replace(plan, pruning_rate=more),
            "latency": replace(plan, pruning_rate=less),
        }
        for name, wrong in broken.items():
            verdict = check_pruning(problem, wrong)
            assert not verdict.passed
            assert verdict.excess[name] > 1e-6
        outside = PruningPlan(np.full(5, -0.1), plan.bandwidth_hz, math.inf)
        assert check_pruning(problem, outside).excess["pruning_rate_min"] > 0.05
        outside = PruningPlan(np.full(5, 1.0), plan.bandwidth_hz, math.inf)
        assert check_pruning(problem, outside).excess["pruning_rate_max"] > 0

    def test_a_nan_never_passes(self) -> None:
        problem = random_problem(np.random.default_rng(4), 2)
        plan = PruningPlan(np.full(2, math.nan), np.full(2, 1.0), 1.0)
        assert not check_pruning(problem, plan).passed


class TestResponse:
    """The vectorised choice at a price against golden section, client by client."""

    @pytest.mark.parametrize("seed", range(12))
    def test_cost_is_the_least(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        problem = (odd_problem if seed % 2 else random_problem)(rng, 6)
        solution = exact_pruning(problem)
        assert solution.plan is not None
        deadline = solution.plan.latency_s * 1.05
        band = np.full(6, problem.bandwidth_hz)
        clients = AtDeadline(problem, deadline, problem.links.rate(band), band / 6)
        plain = plain_clients(problem)
        for log_price in np.linspace(-10, 40, 11) + math.log(problem.bandwidth_hz) - 14:
            answer = clients.respond(float(log_price))
            price = math.exp(log_price)
            cost = answer.bandwidth_hz + price * problem.weight * (1.0 - answer.kept)
            want = [one.least_cost(deadline, price) for one in plain]
            # A rounding of rho costs that much of the price.
            rounding = 1e-9 * problem.bandwidth_hz + 1e-12 * price
            np.testing.assert_allclose(cost, want, rtol=1e-7, atol=rounding)

    def test_slopes_are_derivatives(self) -> None:
        problem = random_problem(np.random.default_rng(20), 8, pruning_budget=0.3)
        solution = exact_pruning(problem)
        assert solution.plan is not None
        band = np.full(8, problem.bandwidth_hz)
        whole = problem.links.rate(band)
        log_price, step = math.log(solution.plan.price_hz), 1e-4
        deadline = solution.plan.latency_s * 1.01

        def total(shift_price: float) -> float:
            clients = AtDeadline(problem, deadline, whole, band / 8)
            return float(clients.respond(log_price + shift_price).bandwidth_hz.sum())

        clients = AtDeadline(problem, deadline, whole, band / 8)
        answer = clients.respond(log_price)
        numeric = (total(step) - total(-step)) / (2 * step)
        assert answer.bandwidth_slope_hz == pytest.approx(numeric, rel=1e-3)

        def at(shift: float) -> float:
            later = AtDeadline(problem, deadline * (1 + shift), whole, band / 8)
            return float(later.bandwidth_for(answer.kept).sum())

        numeric = (at(1e-6) - at(-1e-6)) / (2e-6 * deadline)
        assert -clients.fall_hz_s(answer) == pytest.approx(numeric, rel=1e-4)
