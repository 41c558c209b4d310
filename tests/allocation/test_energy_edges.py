"""Latency and energy at the edges: kinks, budgets that hardly suffice, and bounds that are none."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from airtune.allocation.energy.curves import Clients
from airtune.allocation.energy.dual import Multipliers, dual_value
from airtune.allocation.energy.exact import EnergySolution, exact_energy
from airtune.allocation.energy.problem import (
    LONGEST_S,
    EnergyPlan,
    EnergyProblem,
    least_energies,
)
from airtune.allocation.solve import Status
from airtune.errors import InputError
from airtune.wireless.rate import FixedEfficiencyLinks, ShannonLinks, mixed_links
from tests.allocation.energy_cases import plain, scaled


def solve(problem: EnergyProblem) -> tuple[EnergySolution, EnergyPlan]:
    solution = exact_energy(problem)
    assert solution.plan is not None, solution.message
    assert solution.status is Status.OPTIMAL
    assert solution.check is not None
    assert solution.check.passed
    return solution, solution.plan


@pytest.mark.parametrize("seed", range(6))
def test_an_optimum_where_a_clients_budget_begins_to_bind_is_proven(seed: int) -> None:
    """At full speed and power the energy depends on the time alone, so V has a kink there."""
    problem = plain(seed, 4, energy_weight=0.02)
    problem = replace(problem, compute_s=np.where(np.arange(4) == 0, 9.0, problem.compute_s))
    free, soonest = solve(problem)[1], solve(replace(problem, energy_weight=0.0))[1]
    assert free.speed[0] == pytest.approx(1.0)
    assert free.power_share[0] == pytest.approx(1.0)
    kink_s = free.latency_s - 0.01 * (free.latency_s - soonest.latency_s)
    sending_s = kink_s - problem.fixed_delay_s[0] - 9.0
    spent = 9.0 * problem.full_power_w[0] + problem.sending_power_w[0] * sending_s
    budgets = np.where(np.arange(4) == 0, spent, np.inf)
    assert solve(replace(problem, client_budget_j=budgets))[1].latency_s == pytest.approx(
        kink_s, rel=1e-8
    )


@pytest.mark.parametrize("efficiency", ["all", "one"])
def test_budgets_that_ask_for_more_than_the_band_at_any_latency(efficiency: str) -> None:
    """At a fixed efficiency a client's budget sets a least bandwidth, however long it sends."""
    problem = plain(1, 4, energy_weight=0.01)
    if efficiency == "all":
        problem = replace(problem, links=FixedEfficiencyLinks(np.full(4, 2.0)))
        share, allowed = 0.3, 0.2
    else:
        problem = replace(problem, links=mixed_links([np.nan, 1e8, 1e8, 1e8], [2.0, *3 * [np.nan]]))
        share, allowed = 1.0001, 0.999
    bits_hz = problem.payload_bits * (problem.efficiency > 0) / 2.0
    sending_whole = problem.sending_power_w * bits_hz / problem.bandwidth_hz
    computing = least_energies(problem) - sending_whole

    def with_shares(part: float) -> EnergySolution:
        budget = np.where(problem.efficiency > 0, computing + sending_whole / part, np.inf)
        return exact_energy(replace(problem, client_budget_j=budget))

    if efficiency == "all":
        refused = with_shares(share)
        assert refused.status is Status.INFEASIBLE
        assert "ask for more bandwidth than there is" in refused.message
    assert with_shares(allowed).status is Status.OPTIMAL


def test_a_budget_of_almost_what_the_least_latency_costs() -> None:
    """Between the least deadline and the nearest one told from it: feasible, and said so."""
    rng = np.random.default_rng(0)
    same = EnergyProblem(
        ShannonLinks(np.full(27, 1e7)),
        1.35e6,
        np.zeros(27),
        np.where(rng.uniform(size=27) < 0.9, 0.95, 0.0),
        np.full(27, 6.9e6),
        np.full(27, 0.06),
        np.full(27, 3.06),
        np.full(27, 1.07),
    )
    soonest = solve(same)[1]
    for less in (1e-10, 1e-9, 3e-9, 1e-8, 1e-7):
        budget = float(soonest.energy_j.sum()) * (1.0 - less)
        for weight in (0.0, 0.003):
            bound = replace(same, budget_j=budget, energy_weight=weight)
            _, plan = solve(replace(bound, deadline_s=1.6 * soonest.latency_s))
            assert plan.latency_s <= soonest.latency_s * (1.0 + less)


def test_a_budget_that_a_sender_only_approaches_is_refused() -> None:
    problem = plain(0, 3)
    least = least_energies(problem)
    refused = exact_energy(replace(problem, client_budget_j=least * (1.0 + 1e-9)))
    assert refused.status is Status.INFEASIBLE
    assert "needs more than" in refused.message
    solve(replace(problem, client_budget_j=least * (1.0 + 1e-5)))


@pytest.mark.parametrize("seed", range(4))
def test_a_budget_is_met_as_exactly_as_the_deadline_can_be_told(seed: int) -> None:
    """A long wait before computing leaves few digits to what is decided; no search beyond them."""
    problem = plain(seed, 20)
    problem = replace(problem, fixed_delay_s=problem.fixed_delay_s + 1e6)
    least, spent = least_energies(problem).sum(), solve(problem)[1].energy_j.sum()
    solution, plan = solve(replace(problem, budget_j=0.5 * (least + spent)))
    assert plan.energy_j.sum() == pytest.approx(0.5 * (least + spent), rel=1e-9)
    assert solution.iterations <= 20


def test_the_least_cost_of_an_upload_to_rounding() -> None:
    """The conditions of a minimum, derived again, over all that a link may be."""
    rng = np.random.default_rng(0)
    count, watts, nats = 20_000, 0.57, 5e6
    cn0 = 10.0 ** rng.uniform(5, 9, count)
    price, value = 10.0 ** rng.uniform(-9, -2, count), 10.0 ** rng.uniform(-2, 4, count)
    each = (np.full(count, x) for x in (0.0, watts, 1.0, 1.0, 2.0, np.log(nats)))
    columns = np.full(count, nats), cn0, *each, np.log(cn0 / watts)
    sent = Clients(*columns).upload(np.log(price), np.log(value))
    band, time_s, below = sent.bandwidth_hz, sent.time_s, sent.power_share < 1.0
    u = nats / (band * time_s)
    # Where these neither cancel nor are all of the cost.
    for power in (below, ~below):
        kept = power & (u > 0.5)
        assert kept.sum() > 2000
        # E = G b t (e^u - 1) below full power, t = nats / (b ln(1 + cn0 / b)) at full power.
        falls = watts / cn0 * time_s * (u * np.exp(u) - np.expm1(u))
        if power is not below:
            snr = cn0 / band
            slower = time_s * (1.0 - snr / (1.0 + snr) / np.log1p(snr)) / band
            falls = (watts + value) * slower
        assert falls[kept] == pytest.approx(price[kept], rel=1e-11)


def edged(seed: int) -> EnergyProblem:
    """Budgets from far above to just above what must be spent."""
    problem = scaled(seed)
    rng = np.random.default_rng([seed, 2])
    soonest = exact_energy(replace(problem, energy_weight=0.0))
    assert soonest.plan is not None
    least, spent = least_energies(problem), soonest.plan.energy_j
    share = 10.0 ** rng.uniform(-4, 0.2, len(problem))
    changes: dict[str, Any] = {
        "client_budget_j": least + share * (spent - least) + 1e-6 * spent.max() + 1e-30
    }
    if rng.uniform() < 0.5:
        part = 10.0 ** rng.uniform(-5, 0) if rng.uniform() < 0.5 else 1 - 10.0 ** rng.uniform(-9, 0)
        changes["budget_j"] = (
            least.sum() + part * (spent.sum() - least.sum()) + 1e-9 * spent.sum() + 1e-30
        )
    if rng.uniform() < 0.3:
        changes["deadline_s"] = soonest.plan.latency_s * (1 + 10.0 ** rng.uniform(-6, 1))
    return replace(problem, **changes)


@pytest.mark.parametrize("seed", range(60))
def test_budgets_at_the_edge_end_in_a_proven_plan_or_a_proven_refusal(seed: int) -> None:
    problem = edged(seed)
    solution = exact_energy(problem)
    if solution.plan is not None:
        assert solution.check is not None
        assert solution.check.passed
        assert solution.gap is not None
        assert solution.gap <= 1e-9
        return
    if solution.message.startswith("No plan ends"):
        limits: dict[str, Any] = {"energy_weight": 0.0, "budget_j": np.inf, "deadline_s": np.inf}
        bound = exact_energy(replace(problem, **limits)).lower_bound
        assert bound is not None
        assert bound > problem.deadline_s * (1 - 1e-9)
    elif solution.message.startswith("The energy budget of") and problem.deadline_s < np.inf:
        frugal = replace(problem, time_weight=0.0, energy_weight=1.0, budget_j=np.inf)
        bound = exact_energy(frugal).lower_bound
        assert bound is not None
        assert bound > problem.budget_j * (1 - 1e-9)
    else:
        assert "at any latency" in solution.message


@pytest.mark.slow
def test_of_many_more_budgets_at_the_edge_nearly_all_are_proven() -> None:
    """Where a client's own budget allows hardly any choice, rounding may keep a bound apart."""
    solutions = [exact_energy(edged(seed)) for seed in range(60, 200)]
    plans = [solution for solution in solutions if solution.plan is not None]
    assert all(solution.check is not None and solution.check.passed for solution in plans)
    assert len(plans) > 30
    unproven = [solution for solution in plans if solution.status is not Status.OPTIMAL]
    assert len(unproven) <= 1
    for solution in unproven:
        assert solution.status is Status.FEASIBLE
        assert solution.gap is not None
        assert 0.0 < solution.gap < 1e-7


def test_multipliers_beyond_all_measure_prove_nothing_rather_than_too_much() -> None:
    """A minimum that is not where its conditions hold is not taken for one."""
    problem = plain(3, 5, energy_weight=0.05)
    best, _ = solve(problem)
    assert best.objective is not None
    for price in (0.0, 1e-250, 1e-60, 1e-6, 1e60, 1e250):
        for weight in (0.05, 1e30, 1e200):
            chosen = Multipliers(price, np.full(5, 0.2), np.full(5, weight), 0.05)
            assert dual_value(problem, chosen) <= best.objective


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_units_of_power_do_not_matter(factor: float) -> None:
    for seed in range(20):
        problem = edged(seed)
        watts = {
            name: factor * getattr(problem, name)
            for name in (
                "idle_power_w",
                "full_power_w",
                "sending_power_w",
                "budget_j",
                "client_budget_j",
            )
        }
        other = replace(problem, **watts, energy_weight=problem.energy_weight / factor)
        first, second = exact_energy(problem), exact_energy(other)
        assert first.status is second.status
        if first.objective is not None:
            assert second.objective == pytest.approx(first.objective, rel=2e-9)


@pytest.mark.parametrize("factor", [1e-4, 1e4])
@pytest.mark.parametrize("name", ["payload_bits", "compute_s", "energy_weight"])
def test_much_or_little_work_is_solved_as_well(name: str, factor: float) -> None:
    for seed in range(20):
        problem = plain(seed, 1 + seed, energy_weight=0.01)
        solve(replace(problem, **{name: factor * getattr(problem, name)}))


@pytest.mark.parametrize("delay_s", [1e3, 1e6, LONGEST_S])
@pytest.mark.parametrize("bits", [1e-3, 1.0, 1e6])
def test_what_is_sent_beside_a_long_delay(delay_s: float, bits: float) -> None:
    """A deadline's last bit may be longer than an upload, whose energy is charged all the same."""
    problem = plain(2, 4, energy_weight=0.1)
    fixed, payload = problem.fixed_delay_s.copy(), problem.payload_bits.copy()
    fixed[2], payload[2] = delay_s, bits
    plan = exact_energy(replace(problem, fixed_delay_s=fixed, payload_bits=payload)).plan
    assert plan is not None
    assert delay_s <= plan.latency_s < delay_s * (1.0 + 1e-3) + 1e3
    assert np.isfinite(plan.energy_j).all()
    assert (plan.energy_j > 0).all()


@pytest.mark.parametrize("name", ["fixed_delay_s", "compute_s"])
def test_a_delay_beside_which_seconds_are_lost_is_refused(name: str) -> None:
    problem = plain(2, 4)
    values = getattr(problem, name).copy()
    values[1] = np.nextafter(LONGEST_S, np.inf)
    with pytest.raises(InputError, match=rf"{name} of client 1 .* at most 1e\+09 s"):
        replace(problem, **{name: values})
