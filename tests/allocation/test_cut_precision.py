"""Shares and formats at the cut: against a fine grid and SLSQP, and in their limits."""

from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from airtune.allocation.solve import Status
from airtune.allocation.split.cut_precision import (
    CutFormat,
    PrecisionProblem,
    cut_formats,
    least_error,
    solve_alike,
    solve_precision,
)


def drawn(seed: int, window_s: float = 3.0, clients: int = 3) -> PrecisionProblem:
    draws = np.random.default_rng(seed)
    weights = draws.uniform(0.5, 2.0, clients)
    return PrecisionProblem(
        window_s=window_s,
        before_s=draws.uniform(0.05, 0.8, clients),
        after_s=draws.uniform(0.05, 0.8, clients),
        up_bps=draws.uniform(2e6, 3e7, clients),
        down_bps=draws.uniform(2e6, 3e7, clients),
        tokens=np.full(clients, 800.0),
        hidden=512,
        fixed_bits=np.full(clients, 2e4),
        weights=weights / weights.sum(),
        formats=cut_formats(512),
        least_kept=0.05,
    )


def step_s(problem: PrecisionProblem, kept: Any, formats: tuple[int, ...]) -> float:
    """The two maxima by plain loops."""
    up = down = 0.0
    for k, index in enumerate(formats):
        one = problem.formats[index]
        numbers = kept[k] * problem.hidden * one.number_bits + one.token_bits
        bits = problem.fixed_bits[k] + problem.tokens[k] * numbers
        up = max(up, problem.before_s[k] + bits / problem.up_bps[k])
        down = max(down, problem.after_s[k] + bits / problem.down_bps[k])
    return float(up + down)


def error(problem: PrecisionProblem, kept: Any, formats: tuple[int, ...]) -> float:
    terms = [
        problem.weights[k] * ((1 + problem.formats[index].noise) / kept[k] - 1)
        for k, index in enumerate(formats)
    ]
    return float(sum(terms))


@pytest.mark.parametrize("seed", range(6))
def test_against_slsqp_over_all_formats(seed: int) -> None:
    """Every combination of formats, the shares and both windows by a general solver."""
    problem = drawn(seed)
    found = solve_precision(problem)
    assert found.plan is not None
    assert found.objective is not None
    assert found.lower_bound is not None
    assert step_s(problem, found.plan.kept, found.plan.formats) <= problem.window_s * (1 + 1e-9)
    best = np.inf
    for formats in product(range(3), repeat=3):
        ones = [problem.formats[index] for index in formats]
        each = 512.0 * np.array([one.number_bits for one in ones])
        token = np.array([one.token_bits for one in ones])

        def stages(x: Any, each: Any = each, token: Any = token) -> Any:
            bits = problem.fixed_bits + problem.tokens * (x[:3] * each + token)
            up = x[3] - problem.before_s - bits / problem.up_bps
            down = problem.window_s - x[3] - problem.after_s - bits / problem.down_bps
            return np.concatenate([up, down])

        answer = minimize(
            lambda x, formats=formats: error(problem, x[:3], formats),
            np.array([0.06, 0.06, 0.06, problem.window_s / 2]),
            method="SLSQP",
            bounds=[(0.05, 1.0)] * 3 + [(0.0, problem.window_s)],
            constraints={"type": "ineq", "fun": stages},
            options={"maxiter": 300, "ftol": 1e-12},
        )
        if answer.success and stages(answer.x).min() > -1e-9:
            best = min(best, float(answer.fun))
    assert found.lower_bound <= best + 1e-9
    assert found.objective <= best * (1 + 1e-3) + 1e-6
    assert found.lower_bound >= 0.9 * found.objective - 1e-6


def test_long_windows_drop_nothing_and_the_error_never_rises() -> None:
    values, found = [], solve_precision(drawn(1))
    for window_s in (1.7, 1.8, 2.0, 2.5, 3.0, 4.0, 40.0):
        found = solve_precision(drawn(1, window_s))
        assert found.plan is not None
        assert found.objective is not None
        values.append(found.objective)
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(values))
    assert values[0] > 0.05
    plan = found.plan
    assert plan is not None
    assert plan.kept.tolist() == [1.0] * 3
    assert plan.formats == (0, 0, 0)
    assert found.objective == 0.0
    assert found.status == Status.OPTIMAL


def test_one_share_for_all_is_no_better() -> None:
    for seed in range(8):
        problem = drawn(seed)
        own, alike = solve_precision(problem), solve_alike(problem)
        assert own.objective is not None
        if alike.objective is not None:
            assert own.objective <= alike.objective + 1e-9
            assert alike.plan is not None
            assert step_s(problem, alike.plan.kept, alike.plan.formats) <= problem.window_s


def test_too_short_a_window_is_refused_in_a_sentence() -> None:
    problem = drawn(2, 0.4)
    for solve in (solve_precision, solve_alike):
        found = solve(problem)
        assert found.status == Status.INFEASIBLE
        assert "are allowed" in found.message
    assert least_error(drawn(2, 3.0)) >= 0.0


@pytest.mark.parametrize("seed", range(20))
def test_the_shortest_window_that_any_plan_keeps_has_one(seed: int) -> None:
    """Between two splits of the scan as well; below it there is none."""
    problem = drawn(seed, clients=2)
    least = [0.05] * 2, (2, 2)
    shortest_s = step_s(problem, *least)
    found = solve_precision(replace(problem, window_s=shortest_s))
    assert found.plan is not None
    assert 2 in found.plan.formats
    assert found.plan.kept.min() == pytest.approx(0.05, rel=1e-9)
    assert step_s(problem, found.plan.kept, found.plan.formats) <= shortest_s * (1 + 1e-9)
    for longer in (1 + 1e-7, 1 + 1e-4, 1.02):
        assert solve_precision(replace(problem, window_s=longer * shortest_s)).plan is not None
    assert solve_precision(replace(problem, window_s=0.9999 * shortest_s)).plan is None


def test_few_numbers_are_smallest_as_bf16() -> None:
    """Of 16 numbers 2 travel: 32 bits as bf16, and 48 as int8 with its scale."""
    problem = replace(drawn(0), hidden=16, least_kept=0.125, formats=cut_formats(16))
    assert problem.smallest.name == "bf16"
    short = solve_precision(replace(problem, window_s=0.3))
    assert short.plan is None
    assert "With 12.5 % of a token as bf16" in short.message


def test_other_bits_on_the_way_down() -> None:
    """As many as on the way up change nothing; with fewer more of a token comes through, and what
    is proven without any holds for all."""
    for seed in range(6):
        problem = drawn(seed, window_s=2.0)
        alike = replace(problem, fixed_down_bits=problem.fixed_bits)
        less = replace(problem, fixed_down_bits=0.0 * problem.fixed_bits)
        one, same, better = (solve_precision(each) for each in (problem, alike, less))
        assert one.objective == same.objective
        assert one.lower_bound == same.lower_bound
        assert better.objective is not None
        assert one.objective is not None
        assert better.lower_bound is not None
        assert better.lower_bound <= better.objective <= one.objective
        assert better.lower_bound >= 0.9 * better.objective
        assert better.plan is not None
        saved_s = (problem.fixed_bits / problem.down_bps).max()
        taken_s = step_s(problem, better.plan.kept, better.plan.formats)
        assert taken_s <= problem.window_s + saved_s + 1e-9


def test_the_error_of_a_format_is_what_rounding_does() -> None:
    """Monte Carlo of `(1 + v) / k - 1` for dropping and for both formats, on Gaussian tokens."""
    draws = np.random.default_rng(0)
    hidden, share = 512, 0.5
    x = draws.normal(size=(4000, hidden))
    kept = np.argsort(draws.random(x.shape), axis=1) < hidden * share
    dropped = x * kept / share
    for one, tolerance in zip(cut_formats(hidden), (0.02, 0.02, 0.02), strict=True):
        sent = dropped
        if one.name == "int8":
            step = np.abs(dropped).max(axis=1, keepdims=True) / 127
            sent = np.floor(dropped / step + draws.random(x.shape)) * step * kept
        if one.name == "bf16":
            exponent = np.floor(np.log2(np.abs(dropped) + 1e-30))
            step = 2.0 ** (exponent - 7)
            sent = np.round(dropped / step) * step
        measured = ((sent - x) ** 2).mean() / (x**2).mean()
        assert measured == pytest.approx((1 + one.noise) / share - 1, rel=tolerance)
    bf16: CutFormat = cut_formats(hidden)[1]
    rounded = torch.from_numpy(x).to(torch.bfloat16).double().numpy()
    rounding = ((rounded - x) ** 2).mean() / (x**2).mean()
    assert 0.3 * bf16.noise < rounding < bf16.noise
    int8: CutFormat = cut_formats(hidden)[2]
    step = np.abs(x).max(axis=1, keepdims=True) / 127
    rounding = ((np.floor(x / step + draws.random(x.shape)) * step - x) ** 2).mean()
    assert 0.3 * int8.noise < rounding < int8.noise
