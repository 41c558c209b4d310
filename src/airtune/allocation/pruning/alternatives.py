"""Simpler solvers of joint pruning and bandwidth, to compare with the global optimum.

Each is named by what it does; their lower bound is the exact solver's. The steps of the published
block coordinate descent are not known to us: `bcd` is our own alternation.
"""

import numpy as np

from airtune.allocation.bandwidth import Uploads, minmax_shares
from airtune.allocation.pruning.exact import exact_pruning
from airtune.allocation.pruning.problem import (
    PruningPlan,
    PruningProblem,
    best_pruning,
    conclude,
    refuse_impossible,
)
from airtune.allocation.solve import Bracket, Solution, Status, Stopwatch
from airtune.quantities import FloatArray

_LEAST_DECLINE = 1e-9
_MAX_ROUNDS = 1_000


def alternating_pruning(problem: PruningProblem) -> Solution[PruningPlan]:
    """`bcd`: from equal shares, pruning for fixed bandwidth and bandwidth for fixed pruning.

    Ends when a round lowers the latency by less than 1e-9 of it. The trace holds the latency after
    every half round; it never rises. The limit depends on the start and need not be an optimum.
    """
    watch = Stopwatch()
    refusal = refuse_impossible(problem, "bcd")
    if refusal is not None:
        return refusal
    bandwidth = _equal_shares(problem)
    pruning_rate = np.zeros(len(problem))
    latency = np.inf
    trace: list[float] = []
    for _ in range(_MAX_ROUNDS):
        pruned_s, pruning_rate = best_pruning(problem, problem.links.rate(bandwidth))
        shared_s, bandwidth = _minmax(problem, pruning_rate)
        trace += [pruned_s, shared_s]
        if latency - shared_s < _LEAST_DECLINE * shared_s:
            break
        latency = shared_s
    return _bounded(problem, "bcd", pruning_rate, bandwidth, watch.seconds, trace)


def equal_shares_pruning(problem: PruningProblem) -> Solution[PruningPlan]:
    """`equal`: b = B / N, with the best pruning for it."""
    watch = Stopwatch()
    refusal = refuse_impossible(problem, "equal")
    if refusal is not None:
        return refusal
    bandwidth = _equal_shares(problem)
    _, pruning_rate = best_pruning(problem, problem.links.rate(bandwidth))
    return _bounded(problem, "equal", pruning_rate, bandwidth, watch.seconds)


def uniform_pruning(problem: PruningProblem) -> Solution[PruningPlan]:
    """`uniform-pruning`: rho = min(Gamma, rho_max) for all, with the best bandwidth for it."""
    rate = min(problem.pruning_budget, problem.pruning_rate_max)
    return _fixed(problem, "uniform-pruning", rate, equal=False)


def without_pruning(problem: PruningProblem) -> Solution[PruningPlan]:
    """`no-pruning`: rho = 0, with the best bandwidth for it."""
    return _fixed(problem, "no-pruning", 0.0, equal=False)


def without_anything(problem: PruningProblem) -> Solution[PruningPlan]:
    """`none`: rho = 0 and b = B / N."""
    return _fixed(problem, "none", 0.0, equal=True)


def _fixed(problem: PruningProblem, solver: str, rate: float, equal: bool) -> Solution[PruningPlan]:
    """The same pruning rate for every client; infeasible where a floor is above it."""
    watch = Stopwatch()
    short = problem.pruning_rate_min > rate
    if short.any():
        client = int(np.argmax(short))
        message = (
            f"{problem.name(client)} must be pruned by at least "
            f"{problem.pruning_rate_min[client]:.4g} to fit its memory, and solver {solver} "
            f"prunes every client by {rate:.4g}."
        )
        return Solution(Status.INFEASIBLE, message, solver)
    pruning_rate = np.full(len(problem), rate)
    dead = (problem.links.limit_bps() <= 0) & (problem.payload_bits(pruning_rate) > 0)
    if dead.any():
        name = problem.name(int(np.argmax(dead)))
        message = f"{name} has a payload but no signal: its link carries nothing at any bandwidth."
        return Solution(Status.INFEASIBLE, message, solver)
    bandwidth = _equal_shares(problem) if equal else _minmax(problem, pruning_rate)[1]
    return _bounded(problem, solver, pruning_rate, bandwidth, watch.seconds)


def _equal_shares(problem: PruningProblem) -> FloatArray:
    return np.full(len(problem), problem.bandwidth_hz / len(problem))


def _minmax(problem: PruningProblem, pruning_rate: FloatArray) -> tuple[float, FloatArray]:
    """The least latency at these pruning rates, and the bandwidths that reach it."""
    uploads = Uploads(
        problem.links,
        problem.payload_bits(pruning_rate),
        problem.start_s(pruning_rate),
        problem.bandwidth_hz,
    )
    bandwidth, _ = minmax_shares(uploads)
    return float(uploads.finish_s(bandwidth).max()), bandwidth


def _bounded(
    problem: PruningProblem,
    solver: str,
    pruning_rate: FloatArray,
    bandwidth_hz: FloatArray,
    seconds: float,
    trace: list[float] | None = None,
) -> Solution[PruningPlan]:
    """The solution with the exact solver's lower bound, which `seconds` does not count."""
    bound = exact_pruning(problem).lower_bound
    assert bound is not None, "where this plan is feasible the exact solver has one as well"
    steps = len(trace) // 2 if trace else 1
    bracket = Bracket(bound, bound, steps, tuple(trace or ()))
    return conclude(problem, solver, pruning_rate, bandwidth_hz, bracket, seconds)
