"""TSFA with a queue per client, against a convex solver for every choice of ranks."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from airtune.allocation.solve import Solution, Status
from airtune.allocation.sparsity.client_queues import FLOOR_SHARE, ClientQueues, per_client_queues
from airtune.allocation.sparsity.problem import SparsityPlan, SparsityProblem, finish_s
from airtune.errors import InputError
from airtune.quantities import FloatArray
from airtune.wireless.cqi import CqiLinks
from airtune.wireless.rate import FixedEfficiencyLinks, ShannonLinks


def cell(seed: int, clients: int = 3, ranks: int = 3, **changes: Any) -> SparsityProblem:
    draw = np.random.default_rng(seed)
    energy = draw.random((clients, ranks))
    values: dict[str, Any] = {
        "links": ShannonLinks(10 ** draw.uniform(5.5, 7.5, clients)),
        "bandwidth_hz": 1e5 * clients,
        "compute_delay_s": draw.random(clients) * 0.3,
        "rank_energy": energy / energy.sum(axis=1, keepdims=True),
        "rank_payload_bits": np.full(clients, 6e5 / ranks),
        "latency_target_s": 1.0,
        "v": 10 ** draw.uniform(0, 1.5),
    }
    return SparsityProblem(**{**values, **changes})


def queue_of(seed: int, clients: int = 3) -> FloatArray:
    draw = np.random.default_rng(seed + 1000)
    return draw.random(clients) * (draw.random(clients) < 0.8)


def solved(problem: SparsityProblem, queues: ClientQueues) -> tuple[float, float, SparsityPlan]:
    solution = per_client_queues(problem, queues)
    assert solution.objective is not None
    assert solution.lower_bound is not None
    assert solution.plan is not None
    assert solution.check is not None
    assert solution.check.passed
    return solution.objective, solution.lower_bound, solution.plan


def best_by_enumeration(problem: SparsityProblem, queue: FloatArray, floor_hz: float) -> float:
    """For every choice of ranks, SLSQP on the bandwidths (the problem is convex in them)."""
    from scipy.optimize import minimize

    clients, ranks = problem.rank_energy.shape
    falling = -np.sort(-problem.rank_energy, axis=1)
    best = np.inf
    for kept in itertools.product(range(1, ranks + 1), repeat=clients):
        bits = problem.rank_payload_bits[:, 0] * np.array(kept)
        lost = sum(falling[n, kept[n] :].sum() * problem.weight[n] for n in range(clients))
        base = problem.v * lost + queue @ problem.compute_delay_s

        def waiting(share: FloatArray, bits: FloatArray = bits) -> float:
            band = share * problem.bandwidth_hz
            return float(queue @ (bits / problem.links.rate(band)))

        start = np.full(clients, 1.0 / clients)
        if base + waiting(np.ones(clients)) > best:
            continue
        result = minimize(
            waiting,
            start,
            bounds=[(floor_hz / problem.bandwidth_hz, 1.0)] * clients,
            constraints={"type": "eq", "fun": lambda share: share.sum() - 1.0},
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 200},
        )
        best = min(best, base + float(result.fun))
    return best


@pytest.mark.parametrize("seed", range(12))
def test_stays_within_its_gap_of_the_best_of_all_choices(seed: int) -> None:
    clients = 2 + seed % 2
    problem, queue = cell(seed, clients), queue_of(seed, clients)
    objective, bound, _ = solved(problem, ClientQueues(queue))
    best = best_by_enumeration(problem, queue, FLOOR_SHARE * 1e5)
    assert bound <= best * (1 + 1e-7)
    assert objective >= best * (1 - 1e-6)
    assert objective <= best * 1.01 + 1e-12


def test_gaps_are_small_for_many_clients() -> None:
    gaps = []
    for seed in range(6):
        objective, bound, _ = solved(cell(seed, 20, 8), ClientQueues(queue_of(seed, 20)))
        gaps.append(objective / bound - 1.0)
    assert max(gaps) < 1e-3


def test_an_empty_queue_keeps_the_floor_and_everything_it_has() -> None:
    problem = cell(1)
    _, _, plan = solved(problem, ClientQueues(np.array([0.0, 5.0, 1.0])))
    assert plan.bandwidth_hz[0] == pytest.approx(FLOOR_SHARE * 1e5)
    assert plan.kept[0].all()
    _, _, plan = solved(problem, ClientQueues(np.array([0.0, 5.0, 1.0]), floor_hz=5e4))
    assert plan.bandwidth_hz[0] == pytest.approx(5e4)


def test_without_any_queue_nobody_drops_anything() -> None:
    objective, bound, plan = solved(cell(2), ClientQueues(np.zeros(3)))
    assert objective == bound == 0.0
    assert plan.kept.all()
    assert plan.bandwidth_hz == pytest.approx(1e5)


def test_equal_hurry_at_fixed_efficiency_splits_by_the_square_root() -> None:
    """`min sum Q s / (eta b)` gives b in proportion to sqrt(Q s / eta)."""
    eta, queue = np.array([1.0, 4.0, 2.0]), np.array([2.0, 1.0, 3.0])
    problem = cell(3, links=FixedEfficiencyLinks(eta), v=1e9)
    _, _, plan = solved(problem, ClientQueues(queue))
    root = np.sqrt(queue / eta)
    assert plan.kept.all()
    assert plan.bandwidth_hz == pytest.approx(3e5 * root / root.sum(), rel=1e-9)


def test_the_queues_follow_each_clients_own_latency() -> None:
    problem, queue = cell(4), np.array([0.2, 0.0, 3.0])
    _, _, plan = solved(problem, ClientQueues(queue))
    expected = np.maximum(queue + finish_s(problem, plan) - 1.0, 0.0)
    assert plan.virtual_queue_next == pytest.approx(expected)


@pytest.mark.parametrize(("seed", "factor"), [(0, 1e-3), (1, 60.0), (2, 7.0), (3, 1e6)])
def test_scales_and_permutes(seed: int, factor: float) -> None:
    problem, queue = cell(seed), queue_of(seed)
    one, _, plan = solved(problem, ClientQueues(queue))
    scaled = replace(
        problem,
        compute_delay_s=problem.compute_delay_s * factor,
        rank_payload_bits=problem.rank_payload_bits * factor,
        latency_target_s=factor,
    )
    assert solved(scaled, ClientQueues(queue / factor))[0] == pytest.approx(one, rel=1e-6)
    order = np.array([2, 0, 1])
    permuted = replace(
        problem,
        links=problem.links.select(order),
        compute_delay_s=problem.compute_delay_s[order],
        rank_energy=problem.rank_energy[order],
    )
    other, _, permuted_plan = solved(permuted, ClientQueues(queue[order]))
    assert other == pytest.approx(one, rel=1e-9)
    if queue.any():
        assert (permuted_plan.kept == plan.kept[order]).all()


def test_outages_are_skipped_and_keep_their_queue() -> None:
    problem = cell(5, links=ShannonLinks(np.array([1e7, 0.0, 1e6])))
    queue = np.array([1.0, 2.5, 0.0])
    objective, bound, plan = solved(problem, ClientQueues(queue))
    assert plan.skipped.tolist() == [False, True, False]
    assert isinstance(plan.virtual_queue_next, np.ndarray)
    assert plan.virtual_queue_next[1] == 2.5
    assert bound <= objective
    unreachable = per_client_queues(cell(5, links=ShannonLinks(np.zeros(3))), ClientQueues(queue))
    assert unreachable.status is Status.INFEASIBLE


def test_rates_from_a_table_and_unequal_ranks() -> None:
    problem = cell(6, links=CqiLinks(np.array([1e7, 3e6, 1e6])))
    solution: Solution[SparsityPlan] = per_client_queues(problem, ClientQueues(np.ones(3)))
    assert solution.check is not None
    assert solution.check.passed
    unequal = cell(6, rank_payload_bits=np.random.default_rng(0).uniform(1e5, 3e5, (3, 3)))
    objective, bound, _ = solved(unequal, ClientQueues(np.ones(3)))
    assert bound <= objective


@pytest.mark.parametrize(
    ("queue", "floor", "words"),
    [
        ([1.0, -1.0, 0.0], np.nan, "virtual_queue"),
        ([1.0, 1.0], np.nan, "virtual_queue"),
        ([1.0, 1.0, np.nan], np.nan, "virtual_queue"),
        ([1.0, 1.0, 1.0], 1.1e5, "bandwidth_floor_hz"),
        ([1.0, 1.0, 1.0], 0.0, "bandwidth_floor_hz"),
    ],
)
def test_refuses(queue: list[float], floor: float, words: str) -> None:
    with pytest.raises(InputError, match=words):
        per_client_queues(cell(0), ClientQueues(np.array(queue), floor))
