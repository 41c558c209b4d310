"""Joint pruning and bandwidth: the global optimum with a certificate, and simpler solvers.

The bandwidth D(tau) that a deadline needs (see `dual`) falls with the deadline, so the optimum is
the smallest tau with D(tau) <= B. Any tau with g(tau, lambda) > B is proven impossible: that is the
certificate. Divided by lambda it reads as a lower bound on the weighted pruning that exceeds Gamma.
Of several optimal plans the one with the least weighted pruning is returned.

The simpler solvers are named by what they do; their lower bound is the exact solver's. The steps of
the published block coordinate descent are not known to us: `bcd` is an alternation of our own.
"""

import math

import numpy as np

from airtune.allocation.bandwidth import Uploads, airtime_s, minmax_shares
from airtune.allocation.pruning.dual import PricedDeadlines
from airtune.allocation.pruning.problem import (
    PruningPlan,
    PruningProblem,
    best_pruning,
    conclude,
    refuse_impossible,
)
from airtune.allocation.solve import Bracket, Solution, SolveTimer, Status, smallest_deadline
from airtune.quantities import FloatArray

_WIDTH = 1e-12
_ATTEMPTS = 40
_SURE = 1e-11
# A bracket that misses the deadline by more than this is searched again, with `careful`.
_SAMPLE = 1_000
_SAMPLED_FROM = 20_000


def exact_pruning(problem: PruningProblem, start_s: float | None = None) -> Solution[PruningPlan]:
    """The smallest latency over all pruning rates and bandwidths, and the least pruning at it.

    `start_s` is a guess of the latency, such as that of the channel draw before.
    """
    watch = SolveTimer()
    refusal = refuse_impossible(problem, "exact")
    if refusal is not None:
        return refusal
    need = PricedDeadlines(problem)
    if start_s is None and len(problem) >= _SAMPLED_FROM:
        start_s = _sampled_start(problem, need)
    bracket = _search(need, start_s, _WIDTH)
    deadline_s, pruning_rate, bandwidth = _decide(problem, need, bracket.high)
    if deadline_s > bracket.high * (1.0 + _SURE):
        need = PricedDeadlines(problem, careful=True)
        bracket = smallest_deadline(
            need, problem.bandwidth_hz, bracket.low, deadline_s, bracket.high, _WIDTH
        )
        _, pruning_rate, bandwidth = _decide(problem, need, bracket.high)
    if problem.teeth is not None:
        pruning_rate, bandwidth = _on_teeth(problem, pruning_rate)
    # Where every client alone in the band is no faster, the bound is theirs: no price proves it.
    proven_by_price = bracket.low > need.alone_s * (1.0 + _WIDTH)
    price_hz = need.price_hz if proven_by_price else math.inf
    return conclude(problem, "exact", pruning_rate, bandwidth, bracket, watch.seconds, price_hz)


def _on_teeth(problem: PruningProblem, pruning_rate: FloatArray) -> tuple[FloatArray, FloatArray]:
    """A plan of the envelope, divided again at the table's own rates until that gains nothing.

    Each pass prunes for the bandwidths at hand and divides the band for what is left; both are
    optimal for the other, and the best pair is returned.
    """
    latency, bandwidth = _minmax(problem, pruning_rate)
    for _ in range(_MAX_ROUNDS):
        _, pruned = best_pruning(problem, problem.sending.rate(bandwidth))
        shorter, divided = _minmax(problem, pruned)
        if latency - shorter < _LEAST_DECLINE * shorter:
            break
        latency, pruning_rate, bandwidth = shorter, pruned, divided
    return pruning_rate, bandwidth


def _search(need: PricedDeadlines, start_s: float | None, relative_width: float) -> Bracket:
    """The smallest deadline whose need fits the band, from that of equal shares by default."""
    problem = need.problem
    shares = np.full(len(problem), problem.bandwidth_hz / len(problem))
    together, _ = best_pruning(problem, problem.links.rate(shares))
    together = max(need.alone_s, together)
    start_s = together if start_s is None else start_s
    return smallest_deadline(
        need, problem.bandwidth_hz, need.alone_s, together, start_s, relative_width
    )


def _sampled_start(problem: PruningProblem, need: PricedDeadlines) -> float:
    """The latency of a thousand of the clients with their share of the band; sets the price too.

    Only where the search begins: with many clients it saves most of the evaluations.
    """
    sampled = PricedDeadlines(problem.select(slice(0, None, len(problem) // _SAMPLE)))
    latency = _search(sampled, None, 1e-3).high
    # The sample's weights are larger, so its price per weighted pruning is smaller.
    need.expect(latency, sampled.log_price + math.log(len(problem) / len(sampled.problem)))
    return latency


def _decide(
    problem: PruningProblem, need: PricedDeadlines, deadline_s: float
) -> tuple[float, FloatArray, FloatArray]:
    """A deadline, pruning rates and bandwidths [client] that hold it, the budget and the band.

    Where rounding requires it, the deadline is a little longer.
    """
    margin = 1e-12
    kept, bandwidth = need.keep_most(deadline_s)
    for _ in range(_ATTEMPTS):
        if problem.keeps_budget(kept) and _in_time(problem, kept, bandwidth, deadline_s):
            break
        deadline_s *= 1.0 + margin
        margin *= 2.0
        kept, bandwidth = need.keep_most(deadline_s)
    return deadline_s, problem.rate_that_keeps(kept), bandwidth


def _in_time(
    problem: PruningProblem, kept: FloatArray, bandwidth_hz: FloatArray, deadline_s: float
) -> bool:
    rate = problem.rate_that_keeps(kept)
    upload_s = airtime_s(problem.payload_bits(rate), problem.links.rate(bandwidth_hz))
    finish = problem.start_s(rate) + upload_s
    return bool(finish.max() <= deadline_s * (1.0 + 2.0 * _WIDTH))


_LEAST_DECLINE = 1e-9
_MAX_ROUNDS = 1_000


def alternating_pruning(problem: PruningProblem) -> Solution[PruningPlan]:
    """`bcd`: from equal shares, pruning for fixed bandwidth and bandwidth for fixed pruning.

    Ends when a round lowers the latency by less than 1e-9 of it. The trace holds the latency after
    every half round; it never rises. The limit depends on the start and need not be an optimum.
    """
    watch = SolveTimer()
    refusal = refuse_impossible(problem, "bcd")
    if refusal is not None:
        return refusal
    bandwidth = _equal_shares(problem)
    pruning_rate = np.zeros(len(problem))
    latency = np.inf
    trace: list[float] = []
    for _ in range(_MAX_ROUNDS):
        pruned_s, pruning_rate = best_pruning(problem, problem.sending.rate(bandwidth))
        shared_s, bandwidth = _minmax(problem, pruning_rate)
        trace += [pruned_s, shared_s]
        if latency - shared_s < _LEAST_DECLINE * shared_s:
            break
        latency = shared_s
    return _bounded(problem, "bcd", pruning_rate, bandwidth, watch.seconds, trace)


def equal_shares_pruning(problem: PruningProblem) -> Solution[PruningPlan]:
    """`equal`: b = B / N, with the best pruning for it."""
    watch = SolveTimer()
    refusal = refuse_impossible(problem, "equal")
    if refusal is not None:
        return refusal
    bandwidth = _equal_shares(problem)
    _, pruning_rate = best_pruning(problem, problem.sending.rate(bandwidth))
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
    watch = SolveTimer()
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
        problem.sending,
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
