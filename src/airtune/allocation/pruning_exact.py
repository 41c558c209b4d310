"""The global optimum of joint pruning and bandwidth, with a certificate.

For a deadline tau let D(tau) be the least bandwidth with which all clients finish and the pruning
budget holds. It is convex and separable: one price lambda on pruning splits the budget, and

    g(tau, lambda) = sum_n min_rho [ b_n(rho) + lambda w_n rho ] - lambda Gamma  <=  D(tau)

for every lambda, with equality at the clearing price. D falls with tau, so the optimum is the
smallest tau with D(tau) <= B, and any tau with g(tau, lambda) > B is proven impossible: that is the
certificate (divide by lambda to read it as a lower bound on the weighted pruning that exceeds
Gamma). Of several optimal plans the one with the least weighted pruning is returned.
"""

import math

import numpy as np

from airtune.allocation.pruning import (
    PruningPlan,
    PruningProblem,
    best_pruning,
    conclude,
    refuse_impossible,
)
from airtune.allocation.pruning_price import AtDeadline, Response
from airtune.allocation.solve import (
    PRICE_STEP,
    Evaluation,
    Solution,
    Stopwatch,
    clearing_price,
    smallest_deadline,
)
from airtune.quantities import FloatArray

_ATTEMPTS = 40
_SAMPLE = 1_000
_SAMPLED_FROM = 20_000


class PricedDeadlines:
    """D(tau) of a problem, each evaluation started from the one before.

    Attributes:
        log_price: ln(lambda) at the last deadline; -inf where the budget is not short.
    """

    def __init__(self, problem: PruningProblem) -> None:
        self.problem = problem
        count = len(problem)
        band = problem.bandwidth_hz
        self.whole_band_bps = problem.links.rate(np.full(count, band))
        self.log_price = math.nan
        self._guess_hz = np.full(count, band / count)

    @property
    def price_hz(self) -> float:
        """lambda; inf if no deadline so far left the budget a chance."""
        return math.inf if math.isnan(self.log_price) else math.exp(self.log_price)

    def at(self, deadline_s: float) -> AtDeadline:
        """The clients at a deadline."""
        return AtDeadline(self.problem, deadline_s, self.whole_band_bps, self._guess_hz)

    def __call__(self, deadline_s: float) -> Evaluation:
        """A lower bound on D, exact to second order in the price, and its derivative."""
        clients = self.at(deadline_s)
        problem = self.problem
        if problem.pruned(clients.least) > problem.budget_limit:
            return math.inf, math.nan
        response = self._least_bandwidth(clients)
        value = float(response.bandwidth_hz.sum())
        if self.log_price > -math.inf:
            over = problem.pruned(response.pruning_rate) - problem.pruning_budget
            value += math.exp(self.log_price) * over
        return value, -clients.fall_hz_s(response)

    def _least_bandwidth(self, clients: AtDeadline) -> Response:
        """The clients' choices where the pruning budget clears."""
        budget = self.problem.pruning_budget
        low, high = _price_range(clients)
        if self.problem.pruned(clients.most) <= budget or low == math.inf:
            self.log_price = -math.inf
            return clients.respond(-math.inf)
        if self.problem.pruned(clients.least) >= budget:
            self.log_price = high
            return clients.respond(high)

        def over(log_price: float) -> Evaluation:
            response = clients.respond(log_price)
            pruned = self.problem.pruned(response.pruning_rate)
            # At a client's own optimum w d(rho) = -d(b) / lambda.
            return pruned - budget, -response.bandwidth_slope_hz * math.exp(-log_price)

        price = clearing_price(over, low, high, self._start(low, high))
        self.log_price = price.point
        return clients.respond(price.point)

    def keep_most(self, deadline_s: float) -> tuple[FloatArray, FloatArray]:
        """The least weighted pruning at a deadline within the band: pruning rates, bandwidths."""
        clients = self.at(deadline_s)
        band = self.problem.bandwidth_hz
        low, high = _price_range(clients)
        if clients.full_hz.sum() <= band:
            return clients.least, clients.full_hz
        if clients.floor_hz.sum() >= band or low == math.inf:
            return clients.most, clients.floor_hz

        def spare(log_price: float) -> Evaluation:
            response = clients.respond(log_price)
            return band - float(response.bandwidth_hz.sum()), -response.bandwidth_slope_hz

        price = clearing_price(spare, low, high, self._start(low, high))
        fewer = clients.respond(price.low).bandwidth_hz
        more = clients.respond(price.high).bandwidth_hz
        # Both ends are optimal for (nearly) the same price, hence so is every mixture.
        extra = float((more - fewer).sum())
        part = (band - float(fewer.sum())) / extra if extra > 0 else 0.0
        bandwidth = fewer + min(max(part, 0.0), 1.0) * (more - fewer)
        bandwidth *= min(1.0, band / float(bandwidth.sum()))
        pruning_rate = clients.choose(bandwidth)
        # 1 - rho of an almost wholly pruned client is rounded coarsely: give it what that needs.
        late = self.problem.finish_s(pruning_rate, bandwidth) > deadline_s * (1.0 + 1e-13)
        return pruning_rate, np.where(late, clients.bandwidth_for(pruning_rate), bandwidth)

    def _start(self, low: float, high: float) -> float:
        return self.log_price if math.isfinite(self.log_price) else 0.5 * (low + high)


def _price_range(clients: AtDeadline) -> tuple[float, float]:
    """ln(price) below which every client is pruned most, and from which every one least."""
    free = clients.most > clients.least
    leave = clients.leave_log_price[free & np.isfinite(clients.leave_log_price)]
    full = clients.full_log_price[free & np.isfinite(clients.full_log_price)]
    if not len(full):
        return math.inf, math.inf
    # At the very price at which a straight curve leaves its end it may be at the other one.
    return float(leave.min()) - PRICE_STEP, float(full.max())


def exact_pruning(problem: PruningProblem, start_s: float | None = None) -> Solution[PruningPlan]:
    """The smallest latency over all pruning rates and bandwidths, and the least pruning at it.

    `start_s` is a guess of the latency, such as that of the channel draw before.
    """
    watch = Stopwatch()
    refusal = refuse_impossible(problem, "exact")
    if refusal is not None:
        return refusal
    need = PricedDeadlines(problem)
    band = problem.bandwidth_hz
    # Nothing is faster than every client alone in the band; equal shares are a plan.
    alone, _ = best_pruning(problem, need.whole_band_bps)
    shares = np.full(len(problem), band / len(problem))
    together, _ = best_pruning(problem, problem.links.rate(shares))
    if start_s is None and len(problem) >= _SAMPLED_FROM:
        start_s, need.log_price = _sampled_start(problem)
    bracket = smallest_deadline(need, band, alone, max(alone, together), start_s)
    pruning_rate, bandwidth = _decide(problem, need, bracket.high)
    # Where every client alone in the band is no faster, the bound is theirs: no price proves it.
    price_hz = need.price_hz if bracket.low < bracket.high else math.inf
    return conclude(problem, "exact", pruning_rate, bandwidth, bracket, watch.seconds, price_hz)


def _sampled_start(problem: PruningProblem) -> tuple[float, float]:
    """Latency and ln(price) of a thousand of the clients with their share of the band.

    Only where the search begins: with many clients it saves most of the evaluations.
    """
    stride = len(problem) // _SAMPLE
    sample = problem.select(slice(0, None, stride))
    need = PricedDeadlines(sample)
    rates = problem.links.rate(np.full(len(problem), problem.bandwidth_hz / len(problem)))
    alone, _ = best_pruning(sample, need.whole_band_bps)
    together, _ = best_pruning(sample, rates[::stride])
    bracket = smallest_deadline(
        need, sample.bandwidth_hz, alone, max(alone, together), relative_width=1e-3
    )
    # Weights of the sample are `stride` times as large, so its price is that much smaller.
    return bracket.high, need.log_price + math.log(len(problem) / len(sample))


def _decide(
    problem: PruningProblem, need: PricedDeadlines, deadline_s: float
) -> tuple[FloatArray, FloatArray]:
    """Pruning rates and bandwidths at the deadline, or just above it where rounding asks so."""
    margin = 1e-12
    pruning_rate, bandwidth = need.keep_most(deadline_s)
    for _ in range(_ATTEMPTS):
        if problem.pruned(pruning_rate) <= problem.budget_limit:
            break
        deadline_s *= 1.0 + margin
        margin *= 2.0
        pruning_rate, bandwidth = need.keep_most(deadline_s)
    return pruning_rate, bandwidth
