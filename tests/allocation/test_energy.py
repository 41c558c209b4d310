"""Latency and energy against a general solver, a convex program, limits and its own dual."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from airtune.allocation.bandwidth import minmax_bandwidth
from airtune.allocation.energy.alternatives import equal_shares, full_power, harmony
from airtune.allocation.energy.curves import Clients
from airtune.allocation.energy.dual import Multipliers, dual_value
from airtune.allocation.energy.exact import EnergySolution, exact_energy
from airtune.allocation.energy.problem import (
    EnergyPlan,
    EnergyProblem,
    check_energy,
    computing_power_w,
    frugal_speed,
    least_energies,
    plan_of,
)
from airtune.allocation.solve import Status
from airtune.errors import InputError
from airtune.wireless.rate import FixedEfficiencyLinks, ShannonLinks
from tests.allocation.energy_cases import by_slsqp, limited, plain, scaled


def solve(problem: EnergyProblem) -> tuple[EnergySolution, EnergyPlan]:
    solution = exact_energy(problem)
    assert solution.plan is not None, solution.message
    assert solution.status is Status.OPTIMAL
    assert solution.check is not None
    assert solution.check.passed
    assert solution.gap is not None
    assert 0 <= solution.gap <= 1e-9
    return solution, solution.plan


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("weight", [1e-3, 0.03, 1.0, 50.0])
def test_slsqp_agrees_on_five_clients(seed: int, weight: float) -> None:
    problem = plain(seed, 5, energy_weight=weight)
    solution, _ = solve(problem)
    assert solution.objective == pytest.approx(by_slsqp(problem), rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["deadline", "budget", "own budgets", "all"])
def test_slsqp_agrees_on_five_clients_with_limits(seed: int, kind: str) -> None:
    problem = plain(seed, 5, energy_weight=0.1)
    _, free = solve(problem)
    _, soonest = solve(replace(problem, energy_weight=0.0))
    budgets = least_energies(problem) + 0.6 * (free.energy_j - least_energies(problem))
    limits: dict[str, dict[str, Any]] = {
        "deadline": {"deadline_s": 0.5 * (free.latency_s + soonest.latency_s)},
        "budget": {"budget_j": 0.9 * free.energy_j.sum()},
        "own budgets": {"client_budget_j": budgets},
        "all": {
            "client_budget_j": budgets,
            "budget_j": 0.98 * budgets.sum(),
            "deadline_s": 3 * free.latency_s,
        },
    }
    bound = replace(problem, **limits[kind])
    solution, _ = solve(bound)
    assert solution.objective == pytest.approx(by_slsqp(bound), rel=2e-6)


@pytest.mark.parametrize("clients", [1, 5, 60])
def test_weight_0_gives_the_numbers_of_minmax(clients: int) -> None:
    problem = plain(clients, clients)
    start_s = problem.fixed_delay_s + problem.compute_s
    best = minmax_bandwidth(problem.links, problem.payload_bits, start_s, problem.bandwidth_hz)
    assert best.plan is not None
    _, plan = solve(problem)
    assert plan.latency_s == pytest.approx(best.plan.latency_s, rel=1e-11)
    assert plan.bandwidth_hz == pytest.approx(best.plan.bandwidth_hz, rel=1e-6)
    assert plan.speed == pytest.approx(np.ones(clients), rel=1e-9)
    assert plan.power_share == pytest.approx(np.ones(clients), rel=1e-6)


def test_of_all_plans_of_least_latency_the_one_of_least_energy() -> None:
    """A client that has nothing to send is the limit; the others take their time."""
    problem = plain(3, 6)
    late = problem.compute_s.copy()
    bits = problem.payload_bits.copy()
    late[2], bits[2] = 40.0, 0.0
    problem = replace(problem, compute_s=late, payload_bits=bits)
    _, plan = solve(problem)
    assert plan.latency_s == pytest.approx(problem.fixed_delay_s[2] + 40.0, rel=1e-12)
    dear = solve(replace(problem, energy_weight=1e-9))[1]
    assert plan.energy_j.sum() == pytest.approx(dear.energy_j.sum(), rel=1e-9)
    others = np.arange(6) != 2
    assert plan.speed[2] == 1.0
    assert (plan.speed[others] < 0.9).all()


def test_much_weight_with_a_deadline_gives_the_least_energy() -> None:
    problem = plain(1, 5)
    _, soonest = solve(problem)
    deadline_s = 1.5 * soonest.latency_s
    _, frugal = solve(replace(problem, time_weight=0.0, energy_weight=1.0, deadline_s=deadline_s))
    _, heavy = solve(replace(problem, energy_weight=1e6, deadline_s=deadline_s))
    assert heavy.energy_j.sum() == pytest.approx(frugal.energy_j.sum(), rel=1e-9)
    rng, kept = np.random.default_rng(0), 0
    for _ in range(3000):
        band = problem.bandwidth_hz * rng.dirichlet(np.ones(5) * rng.uniform(1, 30))
        speed = rng.uniform(0.4, 1.0, 5)
        left_s = deadline_s - problem.fixed_delay_s - problem.compute_s / speed
        if left_s.min() <= 0:
            continue
        nats = problem.payload_bits * math.log(2) / (band * left_s)
        with np.errstate(over="ignore"):
            share = band / problem.cn0_hz * np.expm1(nats)
        if share.max() > 1:
            continue
        kept += 1
        other = plan_of(problem, band, speed, share)
        assert other.latency_s <= deadline_s * (1 + 1e-9)
        assert frugal.energy_j.sum() <= other.energy_j.sum()
    assert kept > 100


def test_the_front_is_monotone_and_convex() -> None:
    problem = plain(4, 12)
    points = [solve(replace(problem, energy_weight=w))[1] for w in np.geomspace(1e-5, 1e3, 30)]
    latency = np.array([plan.latency_s for plan in points])
    energy = np.array([plan.energy_j.sum() for plan in points])
    assert (np.diff(latency) >= -1e-9 * latency[1:]).all()
    assert (np.diff(energy) <= 1e-9 * energy[1:]).all()
    moved = np.diff(latency) > 1e-6 * latency[1:]
    slopes = np.diff(energy)[moved] / np.diff(latency)[moved]
    assert (np.diff(slopes) >= -1e-6 * np.abs(slopes[1:])).all()


def test_the_price_of_a_budget_is_the_weight_with_the_same_plan() -> None:
    for seed in range(6):
        problem = plain(seed, 8)
        spent = solve(problem)[1].energy_j.sum()
        least = float(least_energies(problem).sum())
        budget = least + 0.4 * (spent - least)
        dual, within = solve(replace(problem, budget_j=budget))
        assert within.energy_j.sum() == pytest.approx(budget, rel=1e-9)
        assert dual.energy_price is not None
        _, weighted = solve(replace(problem, energy_weight=dual.energy_price))
        assert weighted.latency_s == pytest.approx(within.latency_s, rel=1e-6)
        assert weighted.energy_j == pytest.approx(within.energy_j, rel=1e-5)
        assert weighted.bandwidth_hz == pytest.approx(within.bandwidth_hz, rel=1e-5)


def test_the_speed_of_least_energy() -> None:
    """(idle / (2 (full - idle)))^(1/3), found again by trying speeds; 1 where idling is dear."""
    speeds = np.linspace(0.01, 1, 100_000)
    for idle, full in ((1.0, 4.0), (0.2, 7.0), (3.0, 3.5), (2.0, 2.0), (0.5, 0.6)):
        power = computing_power_w(np.array(idle), np.array(full), speeds)
        best = speeds[np.argmin(power / speeds)]
        found = float(frugal_speed(np.array(idle), np.array(full)))
        assert found == pytest.approx(best, abs=2e-5)
    assert float(frugal_speed(np.array(1.0), np.array(4.0))) == pytest.approx(0.5503, abs=5e-5)


def test_no_client_computes_slower_than_that() -> None:
    problem = plain(2, 4, energy_weight=1e7)
    _, plan = solve(problem)
    slowest = frugal_speed(problem.idle_power_w, problem.full_power_w)
    assert plan.speed == pytest.approx(slowest, rel=1e-2)
    assert (plan.speed >= slowest * (1 - 1e-12)).all()
    slower = plan_of(problem, plan.bandwidth_hz, 0.9 * slowest, plan.power_share)
    assert (slower.energy_j > plan.energy_j).all()


def test_without_idle_power_and_much_time_energy_tends_to_sending_alone() -> None:
    problem = replace(plain(0, 3, energy_weight=1e14), idle_power_w=np.zeros(3))
    _, plan = solve(problem)
    least = problem.sending_power_w * problem.payload_bits * math.log(2) / problem.cn0_hz
    assert plan.energy_j == pytest.approx(least, rel=0.05)


@pytest.mark.parametrize("seed", range(60))
def test_random_problems_are_solved_to_proven_optimality(seed: int) -> None:
    problem = limited(seed)
    solution = exact_energy(problem)
    if solution.plan is None:
        assert "least" in solution.message
        return
    solve(problem)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60, 400))
def test_more_random_problems_are_solved_to_proven_optimality(seed: int) -> None:
    test_random_problems_are_solved_to_proven_optimality(seed)


def test_the_dual_function_never_exceeds_the_optimum() -> None:
    rng = np.random.default_rng(7)
    for seed in range(8):
        problem = replace(plain(seed, 5, energy_weight=0.05), deadline_s=30.0, budget_j=200.0)
        problem = replace(problem, client_budget_j=np.full(5, 60.0))
        best, _ = solve(problem)
        assert best.objective is not None
        for _ in range(200):
            value = rng.dirichlet(np.ones(5)) * (1 + rng.exponential(0.1))
            whole = 0.05 * (1 + rng.exponential(0.1))
            weight = whole * (1 + rng.exponential(0.1, 5))
            price = 10 ** rng.uniform(-9, -4)
            bound = dual_value(problem, Multipliers(price, value, weight, whole))
            assert bound <= best.objective * (1 + 1e-12)


def test_the_dual_function_is_the_minimum_of_the_lagrangian() -> None:
    """The closed form of a client's least cost, against a search over bandwidth and time."""
    from scipy.optimize import minimize

    rng = np.random.default_rng(0)
    for _ in range(40):
        nats, cn0, watts = rng.uniform(1e5, 1e7), 10 ** rng.uniform(5, 9), rng.uniform(0.1, 2)
        price, value = 10 ** rng.uniform(-10, -3), 10 ** rng.uniform(-3, 3)
        logs = math.log(nats), math.log(cn0 / watts)
        one = (np.array([x]) for x in (nats, cn0, 0.0, watts, 1.0, 1.0, 2.0, *logs))
        sent = Clients(*one).upload(np.log([price]), np.log([value]))
        ours = price * sent.bandwidth_hz + (watts * sent.power_share + value) * sent.time_s
        assert sent.power_share[0] <= 1 + 1e-12
        carried = sent.bandwidth_hz * np.log1p(sent.power_share * cn0 / sent.bandwidth_hz)
        assert carried * sent.time_s == pytest.approx(nats, rel=1e-9)

        def cost(x: Any, data: tuple[float, ...] = (nats, cn0, watts, price, value)) -> float:
            nats, cn0, watts, price, value = data
            band, share = math.exp(x[0]), min(math.exp(x[1]), 1.0)
            time_s = nats / (band * math.log1p(share * cn0 / band))
            return price * band + (watts * share + value) * time_s

        first = np.log([sent.bandwidth_hz[0], sent.power_share[0]])
        options = {"xatol": 1e-10, "fatol": 1e-13, "maxiter": 4000}
        starts = (first + np.array(move) for move in ((0.4, -0.3), (-0.5, -0.1), (0.0, 0.0)))
        theirs = min(
            minimize(cost, start, method="Nelder-Mead", options=options).fun for start in starts
        )
        assert ours[0] == pytest.approx(theirs, rel=1e-8)


def test_units_of_time_band_and_energy_do_not_matter() -> None:
    problem = plain(5, 9, energy_weight=0.02)
    _, plan = solve(problem)
    time, hertz, watts = 1e3, 1e-4, 37.0
    assert isinstance(problem.links, ShannonLinks)
    other = EnergyProblem(
        ShannonLinks(hertz * problem.links.cn0_hz),
        hertz * problem.bandwidth_hz,
        time * problem.fixed_delay_s,
        time * problem.compute_s,
        time * hertz * problem.payload_bits,
        watts * problem.idle_power_w,
        watts * problem.full_power_w,
        watts * problem.sending_power_w,
        energy_weight=problem.energy_weight / watts,
    )
    _, same = solve(other)
    assert same.latency_s == pytest.approx(time * plan.latency_s, rel=1e-7)
    assert same.speed == pytest.approx(plan.speed, rel=1e-5)
    assert same.power_share == pytest.approx(plan.power_share, rel=1e-5)


def test_a_fixed_efficiency_sends_at_full_power_and_no_longer_than_needed() -> None:
    problem = replace(
        plain(1, 4, energy_weight=100.0),
        links=FixedEfficiencyLinks(np.array([1.0, 2.0, 3.0, 4.0])),
    )
    _, plan = solve(problem)
    assert (plan.power_share == 1.0).all()
    upload_s = problem.payload_bits / (problem.efficiency * plan.bandwidth_hz)
    finish = problem.fixed_delay_s + problem.compute_s / plan.speed + upload_s
    # Sending longer costs power; so a client with time left ends before the others.
    assert finish.min() < 0.999 * plan.latency_s


@pytest.mark.parametrize("solver", [full_power, equal_shares, harmony])
def test_no_other_way_costs_less(solver: Any) -> None:
    for weight in (0.0, 0.01, 1.0):
        problem = plain(6, 6, energy_weight=weight)
        best, other = exact_energy(problem), solver(problem)
        assert best.objective is not None
        assert other.objective >= best.objective * (1 - 1e-9)
        assert other.lower_bound == pytest.approx(best.lower_bound)
        assert other.check.passed


def test_the_harmony_search_is_better_than_no_search() -> None:
    problem = plain(6, 6, energy_weight=1.0)
    found, start = harmony(problem), equal_shares(problem)
    assert found.objective is not None
    assert start.objective is not None
    assert found.objective < 0.9 * start.objective
    assert harmony(problem).objective == found.objective


def test_a_restricted_solver_says_which_limit_its_plan_exceeds() -> None:
    problem = plain(6, 6)
    spent = full_power(problem).plan
    assert spent is not None
    refused = full_power(replace(problem, budget_j=0.9 * spent.energy_j.sum()))
    assert refused.status is Status.INFEASIBLE
    assert "exceeds the energy budget" in refused.message


def test_what_cannot_be_is_said_in_one_sentence() -> None:
    problem = plain(0, 3)
    least = least_energies(problem)
    for changes, words in (
        ({"deadline_s": 0.5}, "No plan ends within 0.5 s: the least latency is"),
        ({"budget_j": 0.9 * least.sum()}, "at any latency"),
        ({"client_budget_j": 0.9 * least}, "client 0 has an energy budget of"),
        ({"budget_j": 1.01 * least.sum(), "deadline_s": 9.0}, "within 9 s"),
        ({"links": ShannonLinks(np.array([1e7, 0.0, 1e7]))}, "client 1 has a payload but no"),
    ):
        solution = exact_energy(replace(problem, **changes))
        assert solution.status is Status.INFEASIBLE
        assert words in solution.message
        assert solution.plan is None


def test_values_that_mean_nothing_are_refused() -> None:
    problem = plain(0, 3)
    for changes, words in (
        ({"full_power_w": np.array([3.0, 0.1, 3.0])}, "full_power_w of client 1"),
        ({"energy_weight": -1.0}, "energy_weight"),
        ({"deadline_s": 0.0}, "deadline_s"),
        ({"budget_j": 0.0}, "budget_j"),
        ({"client_budget_j": np.array([1.0, 0.0, 1.0])}, "client_budget_j of client 1"),
        ({"time_weight": 0.0, "energy_weight": 1.0}, "deadline"),
        ({"compute_s": np.array([1.0, np.nan, 1.0])}, "compute_s of client 1"),
    ):
        with pytest.raises(InputError, match=words):
            replace(problem, **changes)


def test_the_check_finds_what_is_wrong() -> None:
    problem = plain(0, 3, energy_weight=0.1, deadline_s=20.0)
    _, plan = solve(problem)
    for changes, name in (
        ({"bandwidth_hz": 1.1 * plan.bandwidth_hz}, "bandwidth"),
        ({"speed": 1.1 * np.ones(3)}, "speed"),
        ({"power_share": 1.2 * np.ones(3)}, "transmit power"),
        ({"latency_s": 0.9 * plan.latency_s}, "latency"),
        ({"energy_j": 0.9 * plan.energy_j}, "energy"),
        ({"speed": 0.2 * plan.speed}, "deadline"),
    ):
        found = check_energy(problem, replace(plan, **changes))
        assert not found.passed
        assert found.excess[name] > 1e-3


def test_one_client_with_nothing_to_send() -> None:
    problem = replace(plain(0, 1, energy_weight=0.3), payload_bits=np.zeros(1))
    solution, plan = solve(problem)
    speeds = np.linspace(0.2, 1, 200_001)
    power = computing_power_w(problem.idle_power_w, problem.full_power_w, speeds)
    times = problem.compute_s / speeds
    cost = problem.fixed_delay_s + times + 0.3 * power * times
    assert solution.objective == pytest.approx(cost.min(), rel=1e-9)
    assert plan.speed[0] == pytest.approx(speeds[np.argmin(cost)], abs=1e-4)


def test_a_deadline_that_is_the_least_latency_itself() -> None:
    problem = plain(3, 5)
    soonest, _ = solve(problem)
    assert soonest.objective is not None
    tight = replace(problem, deadline_s=soonest.objective * (1 + 1e-13), energy_weight=1.0)
    assert solve(tight)[1].latency_s == pytest.approx(soonest.objective)
    frugal = replace(tight, time_weight=0.0)
    assert solve(frugal)[1].latency_s == pytest.approx(soonest.objective)


def test_scaled_problems_without_limits() -> None:
    for seed in range(400, 420):
        solve(scaled(seed))
