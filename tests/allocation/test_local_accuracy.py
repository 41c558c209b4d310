"""Local accuracy and bandwidth: against a plain grid, a convex solver, and in closed form."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airtune.allocation.bandwidth import minmax_bandwidth
from airtune.allocation.local_accuracy import (
    LocalAccuracyPlan,
    LocalTraining,
    check_local_accuracy,
    solve_equal_bandwidth,
    solve_local_accuracy,
)
from airtune.allocation.solve import Status
from airtune.errors import InputError
from airtune.wireless.rate import FixedEfficiencyLinks, ShannonLinks


def random_problem(seed: int, clients: int | None = None, compute: float = 1.0) -> LocalTraining:
    rng = np.random.default_rng(seed)
    count = clients or int(rng.integers(1, 12))
    return LocalTraining(
        ShannonLinks(10 ** rng.uniform(5, 9, count)),
        compute * rng.uniform(0, 1, count),
        10 ** rng.uniform(4, 7, count),
        bandwidth_hz=1e7,
        a=10.0,
        v=2.0,
    )


def total_at(problem: LocalTraining, eta: float) -> float:
    """The objective at one local accuracy, from the formula, bandwidths by the min-max solver."""
    delay = problem.v * math.log2(1 / eta) * problem.compute_delay_s
    if problem.fixed_delay_s is not None:
        delay = delay + problem.fixed_delay_s
    found = minmax_bandwidth(problem.links, problem.payload_bits, delay, problem.bandwidth_hz)
    assert found.objective is not None
    return problem.a / (1 - eta) * found.objective


@pytest.mark.parametrize("seed", range(7))
@pytest.mark.parametrize("compute", [1e-3, 1.0, 100.0])
def test_no_local_accuracy_on_a_grid_is_better(seed: int, compute: float) -> None:
    problem = random_problem(seed, compute=compute)
    answer = solve_local_accuracy(problem)
    assert answer.status is Status.OPTIMAL
    assert answer.plan is not None
    assert answer.objective is not None
    assert answer.lower_bound is not None
    assert answer.lower_bound <= answer.objective <= answer.lower_bound * (1 + 1e-9)
    grid = 1 / (1 + np.exp(np.linspace(-9, 30, 60)))
    assert min(total_at(problem, eta) for eta in grid) >= answer.objective * (1 - 1e-9)
    assert total_at(problem, answer.plan.local_accuracy) == pytest.approx(
        answer.objective, rel=1e-9
    )


@pytest.mark.parametrize("seed", range(7))
@pytest.mark.parametrize("solve", [solve_local_accuracy, solve_equal_bandwidth])
def test_what_every_round_takes_is_weighed_against_local_work(seed: int, solve: Any) -> None:
    """A fixed delay a round: fewer and longer rounds, proven, and checked by plain loops."""
    plain = random_problem(seed)
    rng = np.random.default_rng(seed)
    problem = replace(plain, fixed_delay_s=rng.uniform(0, 3, len(plain.links)))
    answer = solve(problem)
    assert answer.plan is not None
    assert answer.check is not None
    assert answer.check.passed
    assert answer.lower_bound <= answer.objective
    grid = 1 / (1 + np.exp(np.linspace(-9, 30, 60)))
    best = min(total_at(problem, eta) for eta in grid)
    assert answer.lower_bound <= best * (1 + 1e-9)
    if solve is solve_local_accuracy:
        assert answer.status is Status.OPTIMAL
        assert best >= answer.objective * (1 - 1e-9)
    late = replace(plain, fixed_delay_s=np.full(len(plain.links), 30.0))
    before, after = solve(plain).plan, solve(late).plan
    assert after.local_accuracy < before.local_accuracy


@pytest.mark.parametrize("seed", range(5))
def test_certificate_holds_on_intervals(seed: int) -> None:
    """On [eta1, eta2] both factors are monotone: their worst ends bound the total from below."""
    problem = random_problem(seed, compute=0.3)
    answer = solve_local_accuracy(problem)
    assert answer.objective is not None
    edges = np.exp(-np.geomspace(1e-3, 40, 200))[::-1]
    worst = min(
        total_at(problem, high) * (1 - high) / (1 - low) for low, high in itertools.pairwise(edges)
    )
    assert answer.objective * 0.92 <= worst <= answer.objective


def test_one_client_in_closed_form() -> None:
    """At fixed efficiency the round lasts c u + d, and `e^u - 1 - u = d / c` at the optimum."""
    links = FixedEfficiencyLinks(np.array([2.0]))
    problem = LocalTraining(links, np.array([0.5]), np.array([6e6]), 1e6, a=7.0, v=3.0)
    per_depth, upload = 3.0 * 0.5 / math.log(2), 3.0
    low, high, u = 0.0, 50.0, 0.0
    for _ in range(100):
        u = 0.5 * (low + high)
        low, high = (u, high) if math.expm1(u) - u < upload / per_depth else (low, u)
    answer = solve_local_accuracy(problem)
    assert answer.plan is not None
    assert answer.plan.local_accuracy == pytest.approx(math.exp(-u), rel=1e-4)
    expected = 7.0 * (per_depth * u + upload) / (1 - math.exp(-u))
    assert answer.objective == pytest.approx(expected, rel=1e-10)


def test_equal_clients_share_equally() -> None:
    problem = LocalTraining(
        ShannonLinks(np.full(4, 1e7)), np.full(4, 0.2), np.full(4, 1e6), 4e6, 5.0, 2.0
    )
    answer = solve_local_accuracy(problem)
    assert answer.plan is not None
    assert answer.plan.bandwidth_hz == pytest.approx(np.full(4, 1e6), rel=1e-9)
    equal = solve_equal_bandwidth(problem)
    assert equal.objective == pytest.approx(answer.objective, rel=1e-9)
    assert equal.status is Status.OPTIMAL


@pytest.mark.parametrize("seed", range(10))
def test_equal_bandwidth_is_never_better_and_is_best_of_its_kind(seed: int) -> None:
    problem = random_problem(seed, clients=6)
    exact, equal = solve_local_accuracy(problem), solve_equal_bandwidth(problem)
    assert exact.objective is not None
    assert equal.objective is not None
    assert equal.objective >= exact.objective * (1 - 1e-12)
    assert equal.lower_bound == exact.lower_bound
    rate = problem.links.rate(np.full(6, problem.bandwidth_hz / 6))
    for eta in 1 / (1 + np.exp(np.linspace(-9, 30, 200))):
        delay = -2.0 * np.log2(eta) * problem.compute_delay_s + problem.payload_bits / rate
        assert 10.0 / (1 - eta) * delay.max() >= equal.objective * (1 - 1e-9)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-6, 1e6))
def test_time_and_bits_scale_together(seed: int, scale: float) -> None:
    problem = random_problem(seed, clients=4)
    scaled = replace(
        problem,
        compute_delay_s=problem.compute_delay_s * scale,
        payload_bits=problem.payload_bits * scale,
    )
    once, answer = solve_local_accuracy(problem), solve_local_accuracy(scaled)
    assert once.objective is not None
    assert answer.objective == pytest.approx(once.objective * scale, rel=1e-8)


def test_order_of_clients_does_not_matter() -> None:
    problem = random_problem(3, clients=7)
    order = np.random.default_rng(1).permutation(7)
    turned = replace(
        problem,
        links=problem.links.select(order),
        compute_delay_s=problem.compute_delay_s[order],
        payload_bits=problem.payload_bits[order],
    )
    once, answer = solve_local_accuracy(problem), solve_local_accuracy(turned)
    assert once.plan is not None
    assert answer.plan is not None
    assert answer.objective == pytest.approx(once.objective, rel=1e-9)
    assert answer.plan.bandwidth_hz == pytest.approx(once.plan.bandwidth_hz[order], rel=1e-4)


def test_without_computing_perfect_local_training_is_best() -> None:
    problem = replace(random_problem(2, clients=3), compute_delay_s=np.zeros(3))
    answer = solve_local_accuracy(problem)
    assert answer.plan is not None
    assert answer.plan.local_accuracy < 1e-15
    upload = minmax_bandwidth(problem.links, problem.payload_bits, np.zeros(3), 1e7).objective
    assert upload is not None
    assert answer.objective == pytest.approx(10.0 * upload, rel=1e-9)


def test_without_payload_the_least_local_training_is_best() -> None:
    """`u / (1 - e^-u)` falls to 1 as u -> 0, so the total falls to `a v max compute / ln 2`."""
    problem = replace(random_problem(2, clients=3), payload_bits=np.zeros(3))
    answer = solve_local_accuracy(problem)
    assert answer.status is Status.OPTIMAL
    assert answer.plan is not None
    assert 0.999 < answer.plan.local_accuracy < 1
    least = 10.0 * 2.0 * float(problem.compute_delay_s.max()) / math.log(2)
    assert answer.objective == pytest.approx(least, rel=1e-8)
    assert answer.lower_bound == pytest.approx(least, rel=1e-9)


def test_client_without_payload_can_be_the_slowest() -> None:
    problem = random_problem(4, clients=3)
    bits = problem.payload_bits.copy()
    bits[0] = 0.0
    delay = np.array([5.0, 1e-3, 1e-3])
    answer = solve_local_accuracy(replace(problem, payload_bits=bits, compute_delay_s=delay))
    assert answer.status is Status.OPTIMAL
    assert answer.plan is not None
    assert answer.plan.bandwidth_hz[0] == 0


@pytest.mark.parametrize("cn0_hz", [1e-2, 1e30])
def test_extreme_signals(cn0_hz: float) -> None:
    problem = replace(random_problem(1, clients=3), links=ShannonLinks(np.full(3, cn0_hz)))
    answer = solve_local_accuracy(problem)
    assert answer.objective is not None
    assert math.isfinite(answer.objective)
    assert answer.gap is not None
    assert answer.gap < 1e-6


def test_no_signal_is_infeasible_and_named() -> None:
    links = ShannonLinks(np.array([1e7, 0.0]))
    problem = LocalTraining(links, np.ones(2), np.ones(2), 1e6, 1.0, 1.0, names=("a", "b"))
    answer = solve_local_accuracy(problem)
    assert answer.status is Status.INFEASIBLE
    assert answer.plan is None
    assert "client b" in answer.message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a": 0.0}, "a is 0.0"),
        ({"v": math.nan}, "v is nan"),
        ({"bandwidth_hz": 0.0}, "bandwidth_hz is 0.0"),
        ({"payload_bits": np.array([-1.0])}, "payload_bits of client 0 is -1.0"),
        ({"compute_delay_s": np.array([math.nan])}, "client 0 is nan"),
    ],
)
def test_refusals(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as caught:
        replace(random_problem(0, clients=1), **change)  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_check_sees_a_broken_plan() -> None:
    problem = random_problem(5, clients=3)
    answer = solve_local_accuracy(problem)
    assert answer.plan is not None
    assert answer.check is not None
    assert answer.check.passed
    plan = answer.plan
    broken = {
        "bandwidth": replace(plan, bandwidth_hz=plan.bandwidth_hz * 1.01),
        "local accuracy": replace(plan, local_accuracy=1.5),
        "total delay": replace(plan, total_delay_s=plan.total_delay_s * 0.99),
    }
    for constraint, bad in broken.items():
        assert isinstance(bad, LocalAccuracyPlan)
        verdict = check_local_accuracy(problem, bad)
        assert not verdict.passed
        assert verdict.excess[constraint] > 0
