"""The global optimum of joint pruning and bandwidth, with a certificate.

The bandwidth D(tau) that a deadline needs (see `pruning_dual`) falls with the deadline, so the
optimum is the smallest tau with D(tau) <= B. Any tau with g(tau, lambda) > B is proven impossible:
that is the certificate. Divided by lambda it reads as a lower bound on the weighted pruning that
exceeds Gamma. Of several optimal plans the one with the least weighted pruning is returned.
"""

import math

import numpy as np

from airtune.allocation.pruning.dual import PricedDeadlines
from airtune.allocation.pruning.problem import (
    PruningPlan,
    PruningProblem,
    best_pruning,
    conclude,
    refuse_impossible,
)
from airtune.allocation.solve import Bracket, Solution, Stopwatch, smallest_deadline
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
    watch = Stopwatch()
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
    # Where every client alone in the band is no faster, the bound is theirs: no price proves it.
    proven_by_price = bracket.low > need.alone_s * (1.0 + _WIDTH)
    price_hz = need.price_hz if proven_by_price else math.inf
    return conclude(problem, "exact", pruning_rate, bandwidth, bracket, watch.seconds, price_hz)


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
    finish = problem.finish_s(problem.rate_that_keeps(kept), bandwidth_hz)
    return bool(finish.max() <= deadline_s * (1.0 + 2.0 * _WIDTH))
