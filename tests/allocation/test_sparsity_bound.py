"""Large rounds of TSFA against the convex relaxation at every deadline of a fine grid."""

import numpy as np
import pytest

from airtune.allocation.solve import Solution
from airtune.allocation.sparsity import deadline_search
from airtune.allocation.sparsity.problem import SparsityPlan, SparsityProblem
from airtune.allocation.sparsity.solvers import exact
from airtune.quantities import FloatArray
from airtune.wireless.cqi import CqiLinks
from airtune.wireless.rate import ShannonLinks
from tests.allocation.tsfa_twin import lambert_bandwidth


def large_problem(seed: int, clients: int, ranks: int, unequal: bool = False) -> SparsityProblem:
    """A cell of many clients whose band and queue keep about half of the ranks."""
    draw = np.random.default_rng(seed)
    energy = draw.random((clients, ranks)) * 0.9 ** np.arange(ranks)
    payload = draw.uniform(0.5, 2.0, (clients, ranks if unequal else 1)) * 3e6 / ranks
    return SparsityProblem(
        ShannonLinks(10 ** draw.uniform(5.5, 8, clients)),
        bandwidth_hz=1e5 * clients,
        compute_delay_s=draw.random(clients),
        rank_energy=energy / energy.sum(axis=1, keepdims=True),
        rank_payload_bits=payload,
        latency_target_s=2.0,
        v=10.0,
        virtual_queue=1.5,
        weight=draw.random(clients) + 0.2,
    )


def relaxed(problem: SparsityProblem, deadline_s: float) -> float:
    """Least cost at this deadline if the last rank may be sent in part: the fractional knapsack.

    Each rank more costs a client more bandwidth than the one before and holds less energy, so the
    best relaxed plan takes ranks by energy per hertz until the band is full.
    """
    assert isinstance(problem.links, ShannonLinks)
    ranks = problem.rank_energy.shape[1]
    falling = -np.sort(-problem.rank_energy, axis=1) * problem.weight[:, None] * problem.v
    bits = problem.rank_payload_bits[:, :1] * np.arange(1, ranks + 1)
    rate = bits / (deadline_s - problem.compute_delay_s)[:, None]
    band = lambert_bandwidth(problem.links.cn0_hz[:, None], rate)
    spare = problem.bandwidth_hz - band[:, 0].sum()
    if spare < 0:
        return np.inf
    with np.errstate(invalid="ignore"):
        steps = np.diff(band, axis=1)
    usable = np.isfinite(steps)
    steps, gains = steps[usable], falling[:, 1:][usable]
    order = np.argsort(-gains / steps)
    used = np.cumsum(steps[order])
    full = int(np.searchsorted(used, spare, side="right"))
    gained = gains[order][:full].sum()
    if full < len(order):
        before = used[full - 1] if full else 0.0
        gained += gains[order][full] * (spare - before) / steps[order][full]
    return float(falling[:, 1:].sum() - gained + problem.virtual_queue * deadline_s)


def bounds(solution: Solution[SparsityPlan]) -> tuple[float, float]:
    assert solution.objective is not None
    assert solution.lower_bound is not None
    return solution.lower_bound, solution.objective


@pytest.mark.parametrize(
    ("seed", "clients", "ranks", "points"),
    [
        (0, 60, 8, 300),
        (1, 200, 16, 60),
        (2, 1000, 64, 6),
        pytest.param(3, 1000, 64, 150, marks=pytest.mark.slow),
        pytest.param(4, 4000, 16, 150, marks=pytest.mark.slow),
    ],
)
def test_stays_within_the_gap_of_the_relaxation_at_every_deadline(
    seed: int, clients: int, ranks: int, points: int
) -> None:
    """From 60,000 (client, rank) pairs on, a window of options is costed instead of all."""
    problem = large_problem(seed, clients, ranks)
    solution = exact(problem)
    bound, objective = bounds(solution)
    assert solution.plan is not None
    best = solution.plan.latency_s
    wide = np.geomspace(best / 8, best * 8, points)
    grid = np.concatenate([wide, np.linspace(best * 0.98, best * 1.02, points)])
    least = min(relaxed(problem, deadline) for deadline in grid[grid > 1.0])
    assert bound <= least * (1 + 1e-12)
    assert objective <= least * (1 + solution.gap) if solution.gap is not None else False
    assert solution.gap is not None
    assert solution.gap <= 1e-6


def test_the_relaxation_is_that_of_a_linear_program() -> None:
    """A third opinion: cvxpy on the same deadline, with shares of options."""
    cvxpy = pytest.importorskip("cvxpy")
    problem = large_problem(7, 12, 6)
    assert isinstance(problem.links, ShannonLinks)
    for deadline in (1.6, 2.2, 3.5):
        bits = problem.rank_payload_bits * np.arange(1, 7)
        rate = bits / (deadline - problem.compute_delay_s)[:, None]
        band = lambert_bandwidth(problem.links.cn0_hz[:, None], rate)
        falling = -np.sort(-problem.rank_energy, axis=1)
        loss = 1.0 - np.cumsum(falling, axis=1)
        share = cvxpy.Variable((12, 6), nonneg=True)
        fits = np.isfinite(band)
        band = np.where(fits, band, 0.0)
        cost = problem.v * cvxpy.sum(cvxpy.multiply(problem.weight[:, None] * loss, share))
        scaled = cvxpy.sum(cvxpy.multiply(band / problem.bandwidth_hz, share)) <= 1
        rows = [cvxpy.sum(share, axis=1) == 1, share <= fits.astype(float), scaled]
        value = cvxpy.Problem(cvxpy.Minimize(cost), rows).solve(solver="CLARABEL")
        expected = relaxed(problem, deadline) - problem.virtual_queue * deadline
        assert value == pytest.approx(expected, rel=1e-6)


def test_a_sample_of_the_clients_leads_to_the_same_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = large_problem(4, 900, 16)
    bound, objective = bounds(exact(problem, gap=1e-4))
    monkeypatch.setattr(deadline_search, "SAMPLE_FROM", 500)
    monkeypatch.setattr(deadline_search, "_SAMPLE", 60)
    sampled_bound, sampled_objective = bounds(exact(problem, gap=1e-4))
    assert sampled_objective == pytest.approx(objective, rel=1e-4)
    assert sampled_bound <= objective
    assert sampled_objective <= sampled_bound * (1 + 1.01e-4)
    assert bound <= sampled_objective


def test_unequal_ranks_of_many_clients_come_with_their_gap() -> None:
    """Too many subsets to list: prefixes by energy per bit, and a bound for every subset."""
    solution = exact(large_problem(5, 300, 24, unequal=True))
    assert solution.gap is not None
    assert 0 < solution.gap < 5e-3
    fewer = exact(large_problem(5, 4, 10, unequal=True))
    assert fewer.gap is not None
    assert fewer.gap <= 1e-6


def test_rates_from_a_table_are_bounded_by_their_envelope() -> None:
    problem = large_problem(6, 40, 8)
    links = problem.links
    assert isinstance(links, ShannonLinks)
    table = CqiLinks(links.cn0_hz)
    arguments = {name: getattr(problem, name) for name in problem.__dataclass_fields__}
    by_table = exact(SparsityProblem(**{**arguments, "links": table}))
    by_envelope = exact(SparsityProblem(**{**arguments, "links": table.envelope()}))
    assert by_table.lower_bound == pytest.approx(by_envelope.lower_bound, rel=1e-6)
    assert by_table.gap is not None
    assert 0 <= by_table.gap < 0.1


def test_the_trace_never_rises() -> None:
    for seed in range(5):
        trace: FloatArray = np.array(exact(large_problem(seed, 30, 8)).trace)
        assert len(trace) > 1
        assert (np.diff(trace) < 0).all()
