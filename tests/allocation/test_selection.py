"""Client selection against all subsets, limits, refusals, and problems of any kind."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from airtune.allocation.bandwidth import minmax_bandwidth
from airtune.allocation.selection.problem import (
    SelectionPlan,
    SelectionProblem,
    check_selection,
)
from airtune.allocation.selection.solvers import (
    SelectionSolution,
    exact_selection,
    greedy_selection,
    random_selection,
)
from airtune.allocation.solve import Status
from airtune.errors import InputError
from airtune.wireless.rate import FixedEfficiencyLinks, ShannonLinks, mixed_links

SOLVERS = (exact_selection, greedy_selection, random_selection)


def cell(seed: int, clients: int, equal: bool = True, **keys: Any) -> SelectionProblem:
    """Phones in a cell; a deadline at which about half of them are in time by default."""
    rng = np.random.default_rng([seed, clients])
    keys = keys or {"deadline_s": 8.0}
    return SelectionProblem(
        links=ShannonLinks(10 ** rng.uniform(5.5, 8, clients)),
        bandwidth_hz=2e5 * clients,
        fixed_delay_s=rng.uniform(1, 12, clients),
        payload_bits=rng.uniform(1e6, 9e6, clients),
        weight=np.ones(clients) if equal else rng.uniform(0.2, 5, clients),
        **keys,
    )


def odd(seed: int) -> SelectionProblem:
    """Anything goes: fixed efficiencies, no payload, no signal, no weight, odd units, ties."""
    rng = np.random.default_rng([seed, 7])
    count = int(rng.integers(1, 9))
    time, hertz = 10 ** rng.uniform(-4, 4, 2)
    fixed = rng.uniform(size=count) < 0.3
    snr = hertz * 10 ** rng.uniform(5, 8, count) * (rng.uniform(size=count) < 0.9)
    kinds = np.ones(count), rng.integers(1, 4, count), rng.uniform(0, 1, count)
    weight = np.asarray(kinds[seed % 3], dtype=np.float64) * (rng.uniform(size=count) < 0.9)
    weight[0] = 1.0
    tied = rng.uniform() < 0.3
    keys: dict[str, Any] = {"weight_share": float(rng.choice([0.1, 0.5, 0.8, 1.0]))}
    if seed % 2:
        keys = {"deadline_s": time * rng.uniform(0.5, 15)}
    payload = time * hertz * rng.uniform(1e5, 1e7, count) * (rng.uniform(size=count) < 0.8)
    return SelectionProblem(
        links=mixed_links(
            np.where(fixed, np.nan, snr), np.where(fixed, rng.uniform(0.5, 6, count), np.nan)
        ),
        bandwidth_hz=hertz * 3e5 * count,
        fixed_delay_s=time * (np.full(count, 3.0) if tied else rng.uniform(0, 9, count)),
        payload_bits=np.full(count, payload[0]) if tied else payload,
        weight=weight * 10 ** rng.uniform(-9, 9),
        **keys,
    )


def least_s(problem: SelectionProblem, chosen: np.ndarray) -> float:
    """The least latency of these clients, by the planner of bandwidth; inf without a signal."""
    answer = minmax_bandwidth(
        problem.links.select(chosen),
        problem.payload_bits[chosen],
        problem.fixed_delay_s[chosen],
        problem.bandwidth_hz,
    )
    return math.inf if answer.plan is None else answer.plan.latency_s


def by_all_subsets(problem: SelectionProblem) -> float:
    """The most weight at the deadline, or the least latency of the share; over all subsets."""
    share = problem.weight_share
    best = 0.0 if share is None else math.inf
    for picked in itertools.product((False, True), repeat=len(problem)):
        chosen = np.array(picked)
        weight = float(problem.weight[chosen].sum())
        if not chosen.any() or (weight <= best if share is None else weight < share * (1 - 1e-12)):
            continue
        latency_s = least_s(problem, chosen)
        if problem.deadline_s is None:
            best = min(best, latency_s)
        elif latency_s <= problem.deadline_s * (1 + 1e-10):
            best = weight
    return best


def solve(problem: SelectionProblem) -> tuple[SelectionSolution, SelectionPlan]:
    solution = exact_selection(problem)
    assert solution.plan is not None, solution.message
    assert solution.status is Status.OPTIMAL
    assert solution.check is not None
    assert solution.check.passed
    return solution, solution.plan


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_all_subsets_agree_on_the_most_weight(seed: int, equal: bool) -> None:
    problem = cell(seed, 8, equal, deadline_s=(5.0, 7.0, 9.0, 11.0, 14.0)[seed])
    solution, plan = solve(problem)
    assert plan.weight_share == pytest.approx(by_all_subsets(problem), rel=1e-12)
    assert solution.most_share == pytest.approx(plan.weight_share, rel=1e-9)


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.75, 0.97, 1.0])
def test_all_subsets_agree_on_the_least_deadline(share: float, equal: bool) -> None:
    problem = cell(3, 8, equal, weight_share=share)
    solution, plan = solve(problem)
    assert plan.latency_s == pytest.approx(by_all_subsets(problem), rel=1e-9)
    assert solution.lower_bound is not None
    assert solution.lower_bound <= plan.latency_s
    assert plan.weight_share >= share * (1 - 1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_all_subsets_agree_on_problems_of_any_kind(seed: int) -> None:
    problem = odd(seed)
    best, solution = by_all_subsets(problem), exact_selection(problem)
    if solution.plan is None:
        assert best == (0.0 if problem.weight_share is None else math.inf)
        return
    assert solution.status is Status.OPTIMAL
    found = solution.plan
    value = found.weight_share if problem.weight_share is None else found.latency_s
    assert value == pytest.approx(best, rel=1e-9)
    for other in (greedy_selection(problem), random_selection(problem)):
        assert other.plan is not None
        assert other.objective is not None
        assert solution.objective is not None
        assert other.objective >= solution.objective - 1e-9 * max(solution.objective, 1.0)
        assert other.lower_bound is not None
        assert other.lower_bound <= solution.objective + 1e-9 * max(solution.objective, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40, 400))
def test_all_subsets_agree_on_more_problems(seed: int) -> None:
    test_all_subsets_agree_on_problems_of_any_kind(seed)


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("keys", [{"deadline_s": 1e4}, {"weight_share": 1.0}])
def test_where_all_take_part_it_is_the_least_latency_of_all(
    keys: dict[str, float], equal: bool
) -> None:
    problem = cell(1, 30, equal, **keys)
    _, plan = solve(problem)
    assert plan.chosen.all()
    assert plan.weight_share == pytest.approx(1.0, rel=1e-12)
    assert plan.latency_s == pytest.approx(least_s(problem, np.full(30, True)), rel=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_deadline_that_no_client_meets_names_the_least_that_one_does(solver: Any) -> None:
    problem = cell(2, 12, deadline_s=0.5)
    refused = solver(problem)
    assert refused.status is Status.INFEASIBLE
    assert refused.plan is None
    first = int(np.argmin(problem.alone_s))
    assert f"client {first}'s alone" in refused.message
    assert "the least deadline that one does is" in refused.message
    alone = float(problem.alone_s[first])
    _, plan = solve(replace(problem, deadline_s=alone))
    assert plan.chosen[first]
    assert plan.chosen.sum() == 1
    assert exact_selection(replace(problem, deadline_s=alone * (1 - 1e-9))).plan is None


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_share_beyond_who_has_a_signal_is_refused(solver: Any) -> None:
    problem = cell(0, 4, weight_share=0.8)
    lost = replace(problem, links=ShannonLinks(np.array([1e7, 0.0, 1e7, 1e7])))
    refused = solver(lost)
    assert refused.status is Status.INFEASIBLE
    assert "weight_share 0.8 is more than all clients with a signal have together" in (
        refused.message
    )
    assert solver(replace(lost, weight_share=0.75)).plan.chosen.tolist() == [
        True,
        False,
        True,
        True,
    ]
    silent = replace(problem, links=ShannonLinks(np.zeros(4)))
    assert "none can take part" in solver(silent).message


def test_the_two_problems_are_each_others_inverse() -> None:
    """At the least deadline of a share that share can take part, and just before less can."""
    for seed in range(6):
        for equal in (True, False):
            problem = cell(seed, 40, equal, weight_share=0.6)
            solution = exact_selection(problem)
            assert solution.plan is not None
            at_s = solution.plan.latency_s
            within = replace(problem, weight_share=None, deadline_s=at_s * (1 + 1e-12))
            found = exact_selection(within)
            assert found.plan is not None
            assert found.plan.weight_share >= 0.6 * (1 - 1e-9)
            assert solution.lower_bound is not None
            before = exact_selection(replace(within, deadline_s=solution.lower_bound))
            assert before.plan is not None
            assert before.most_share is not None
            if solution.status is Status.OPTIMAL:
                assert before.plan.weight_share < 0.6


def test_more_time_never_takes_weight_away() -> None:
    shares = []
    for deadline_s in np.linspace(3, 20, 40):
        _, plan = solve(cell(4, 10, equal=False, deadline_s=float(deadline_s)))
        shares.append(plan.weight_share)
    assert (np.diff(shares) >= -1e-12).all()
    assert shares[-1] > shares[0]


@pytest.mark.parametrize("keys", [{"deadline_s": 8.0}, {"weight_share": 0.7}])
@pytest.mark.parametrize("equal", [True, False])
def test_units_and_the_order_of_clients_do_not_matter(keys: dict[str, float], equal: bool) -> None:
    problem = cell(5, 10, equal, **keys)
    _, plan = solve(problem)
    time, hertz = 1e3, 1e-4
    assert isinstance(problem.links, ShannonLinks)
    scaled = replace(
        problem,
        links=ShannonLinks(hertz * problem.links.cn0_hz),
        bandwidth_hz=hertz * problem.bandwidth_hz,
        fixed_delay_s=time * problem.fixed_delay_s,
        payload_bits=time * hertz * problem.payload_bits,
        weight=1e-7 * problem.weight,
        deadline_s=None if problem.deadline_s is None else time * problem.deadline_s,
    )
    _, same = solve(scaled)
    assert same.chosen.tolist() == plan.chosen.tolist()
    assert same.latency_s == pytest.approx(time * plan.latency_s, rel=1e-9)
    order = np.random.default_rng(0).permutation(10)
    mixed = replace(
        problem,
        links=problem.links.select(order),
        fixed_delay_s=problem.fixed_delay_s[order],
        payload_bits=problem.payload_bits[order],
        weight=problem.weight[order],
    )
    assert solve(mixed)[1].chosen.tolist() == plan.chosen[order].tolist()
    shifted = replace(
        problem,
        fixed_delay_s=problem.fixed_delay_s + 100.0,
        deadline_s=None if problem.deadline_s is None else problem.deadline_s + 100.0,
    )
    assert solve(shifted)[1].chosen.tolist() == plan.chosen.tolist()
    assert solve(shifted)[1].latency_s == pytest.approx(plan.latency_s + 100.0, rel=1e-9)


def test_a_thousand_clients_of_many_weights_within_a_small_proven_gap() -> None:
    either: tuple[dict[str, Any], ...] = ({"deadline_s": 9.0}, {"weight_share": 0.7})
    for keys in either:
        solution = exact_selection(cell(6, 1000, equal=False, **keys))
        assert solution.plan is not None
        assert solution.check is not None
        assert solution.check.passed
        assert solution.objective is not None
        assert solution.lower_bound is not None
        assert solution.objective - solution.lower_bound <= 1e-3 * solution.objective
        exact, greedy = solution.objective, greedy_selection(cell(6, 1000, equal=False, **keys))
        assert greedy.objective is not None
        assert exact <= greedy.objective * (1 + 1e-9)
        drawn = random_selection(cell(6, 1000, equal=False, **keys)).objective
        assert drawn is not None
        assert drawn > 1.05 * exact


@pytest.mark.slow
@pytest.mark.parametrize("keys", [{"deadline_s": 9.0}, {"weight_share": 0.7}])
def test_a_hundred_thousand_equal_clients_in_ten_seconds(keys: dict[str, float]) -> None:
    solution, _ = solve(cell(6, 100_000, True, **keys))
    assert solution.solve_time_s < 10.0


def test_the_same_answer_every_time() -> None:
    for solver in SOLVERS:
        first, second = (solver(cell(8, 50, equal=False, weight_share=0.6)) for _ in range(2))
        assert first.plan is not None
        assert second.plan is not None
        assert first.plan.chosen.tolist() == second.plan.chosen.tolist()
        assert first.plan.latency_s == second.plan.latency_s


def test_a_client_without_payload_or_weight() -> None:
    problem = replace(
        cell(0, 4, deadline_s=10.0),
        payload_bits=np.array([0.0, 1e6, 1e6, 1e6]),
        fixed_delay_s=np.array([10.0, 2.0, 2.0, 2.0]),
        weight=np.array([1.0, 0.0, 1.0, 1.0]),
    )
    _, plan = solve(problem)
    assert plan.chosen.tolist() == [True, False, True, True]
    assert plan.bandwidth_hz[0] == 0.0
    assert plan.bandwidth_hz[1] == 0.0
    assert plan.latency_s == 10.0


@pytest.mark.parametrize("solver", SOLVERS)
def test_clients_without_weight_take_no_band(solver: Any) -> None:
    """The deadline leaves room for one client; of six only the last counts."""
    problem = replace(
        cell(0, 6, deadline_s=10.0),
        links=ShannonLinks(np.full(6, 1e7)),
        fixed_delay_s=np.zeros(6),
        payload_bits=np.full(6, 1e6),
    )
    for last in range(6):
        weight = np.zeros(6)
        weight[last] = 1.0
        single = replace(problem, weight=weight, deadline_s=1.5 * float(problem.alone_s.min()))
        assert np.flatnonzero(solver(single).plan.chosen).tolist() == [last]


def test_the_check_finds_what_is_wrong() -> None:
    problem = cell(0, 8, equal=False, weight_share=0.6)
    _, plan = solve(problem)
    last = int(np.flatnonzero(plan.chosen)[0])
    fewer = plan.chosen.copy()
    fewer[last] = False
    spread = np.where(plan.chosen, plan.bandwidth_hz, 1.0)
    for changes, name in (
        ({"bandwidth_hz": 1.1 * plan.bandwidth_hz}, "bandwidth"),
        ({"latency_s": 0.9 * plan.latency_s}, "latency"),
        ({"weight_share": 1.1 * plan.weight_share}, "weight"),
        ({"chosen": fewer}, "weight that takes part"),
        ({"bandwidth_hz": spread}, "bandwidth of who stays out"),
    ):
        found = check_selection(problem, replace(plan, **changes))
        assert not found.passed
        assert found.excess[name] > 1e-7
    timed = replace(problem, weight_share=None, deadline_s=0.9 * plan.latency_s)
    assert check_selection(timed, plan).excess["deadline"] > 0.1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weight": np.array([1.0, -1.0, 1.0])}, "weight of client 1"),
        ({"weight": np.zeros(3)}, "weight is 0 for every client"),
        ({"weight_share": 0.5}, "deadline_s and weight_share is both given"),
        ({"deadline_s": None}, "deadline_s and weight_share is left out"),
        ({"deadline_s": 0.0}, "deadline_s"),
        ({"deadline_s": None, "weight_share": 1.5}, "weight_share is 1.5"),
        ({"payload_bits": np.array([1.0, np.nan, 1.0])}, "payload_bits of client 1"),
        ({"bandwidth_hz": 0.0}, "bandwidth_hz"),
    ],
)
def test_values_that_mean_nothing_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        replace(cell(0, 3), **changes)


def test_a_fixed_efficiency_by_hand() -> None:
    """Needs are S / (e (tau - f)): 1, 0.5 and 0.25 MHz at 5 s; 1.6 MHz carry the first two."""
    problem = SelectionProblem(
        FixedEfficiencyLinks(np.array([1.0, 2.0, 4.0])),
        1.6e6,
        np.full(3, 4.0),
        np.full(3, 1e6),
        np.array([4.0, 3.0, 2.0]),
        deadline_s=5.0,
    )
    _, plan = solve(problem)
    assert plan.chosen.tolist() == [True, True, False]
    assert plan.latency_s == pytest.approx(4.0 + 1.5 / 1.6)
    assert plan.weight_share == pytest.approx(7 / 9)
    _, soonest = solve(replace(problem, deadline_s=None, weight_share=5 / 9))
    assert soonest.chosen.tolist() == [False, True, True]
    assert soonest.latency_s == pytest.approx(4.0 + 0.75 / 1.6)
