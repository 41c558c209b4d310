"""The exact solver of TSFA against brute force over kept ranks, and its bound against both."""

import numpy as np
import pytest

from airtune.allocation.solve import Status
from airtune.allocation.sparsity.problem import SparsityProblem
from airtune.allocation.sparsity.solvers import exact
from airtune.wireless.rate import FixedEfficiencyLinks, Links, ShannonLinks
from tests.allocation.tsfa_twin import brute_force

MOST_RANKS = {1: 8, 2: 7, 3: 6, 4: 4, 5: 3}


def small_problem(seed: int, unequal: bool = False) -> SparsityProblem:
    """One to five clients; payloads, delays, weights and trade-offs over orders of magnitude."""
    draw = np.random.default_rng(seed)
    clients = int(draw.integers(1, 6))
    ranks = int(draw.integers(1, MOST_RANKS[clients] + 1 - 2 * unequal + (clients > 3) * unequal))
    energy = draw.random((clients, ranks)) ** draw.uniform(0.5, 4)
    for client in range(clients):
        energy[client, draw.integers(1, ranks + 1) :] = np.nan
    links: Links = ShannonLinks(10 ** draw.uniform(4.5, 8, clients))
    if seed % 5 == 0:
        links = FixedEfficiencyLinks(draw.uniform(0.2, 6, clients))
    payload = draw.uniform(1e4, 1e5, (clients, ranks if unequal else 1))
    band, scale, queue = 10 ** draw.uniform(5, 6.5), 10 ** draw.uniform(-3, 3), draw.uniform(0.1, 9)
    # All ranks one after another over the whole band: the latency that is at stake.
    sent = (payload * np.ones((clients, ranks))).sum(axis=1)
    seconds = float((sent / links.rate(np.full(clients, band))).sum())
    return SparsityProblem(
        links,
        bandwidth_hz=band,
        compute_delay_s=draw.random(clients) * draw.choice([0.0, 0.3, 3.0]),
        rank_energy=scale * energy / np.nansum(energy),
        rank_payload_bits=payload,
        latency_target_s=draw.uniform(0.1, 3),
        v=queue * seconds * clients / scale * 10 ** draw.uniform(-0.8, 0.8),
        virtual_queue=queue,
        fixed_payload_bits=draw.random(clients) * 2e4 * (seed % 3),
        weight=draw.random(clients) + 0.1,
    )


@pytest.mark.parametrize("block", range(10))
def test_equals_brute_force_over_kept_ranks(block: int) -> None:
    for seed in range(20 * block, 20 * block + 20):
        agrees_with_brute_force(small_problem(seed))


def test_equals_brute_force_over_subsets_of_unequal_ranks() -> None:
    for seed in range(60):
        agrees_with_brute_force(small_problem(seed, unequal=True))


def agrees_with_brute_force(problem: SparsityProblem) -> None:
    solution = exact(problem)
    if solution.status is Status.INFEASIBLE:
        assert problem.in_outage().all()
        return
    assert solution.objective is not None
    assert solution.lower_bound is not None
    best = brute_force(problem, below=solution.objective)
    assert solution.objective == pytest.approx(best, rel=1e-9)
    assert solution.lower_bound <= best * (1 + 1e-12)
    assert solution.status is Status.OPTIMAL
    assert solution.check is not None
    assert solution.check.passed


def test_the_cases_are_not_trivial() -> None:
    """Most of them keep some ranks and drop others, and some have clients in outage."""
    mixed, outages, unequal_delays = 0, 0, 0
    for seed in range(200):
        problem = small_problem(seed)
        plan = exact(problem, gap=1e-2).plan
        outages += bool(problem.in_outage().any())
        unequal_delays += bool(np.ptp(problem.compute_delay_s) > 0)
        if plan is not None:
            owned = ~np.isnan(problem.rank_energy)
            least = plan.kept.sum() > len(plan.kept) - plan.skipped.sum()
            mixed += bool(least and (plan.kept.sum() < owned[~plan.skipped].sum()))
    assert mixed > 60
    assert outages > 10
    assert unequal_delays > 90
