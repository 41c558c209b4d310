"""How much bandwidth a deadline needs if the pruning budget is to hold, by one price on pruning.

For a deadline tau let D(tau) be the least bandwidth with which all clients finish and the weighted
pruning stays within Gamma. It is a convex separable problem with the dual function

    g(tau, lambda) = sum_n min_rho [ b_n(rho) + lambda w_n rho ] - lambda Gamma  <=  D(tau)

for every price lambda >= 0 (hertz per unit of weighted pruning), with equality at the price that
clears the budget; near it g falls short by the square of the price's error only.
"""

import math
from dataclasses import dataclass

import numpy as np

from airtune.allocation.bandwidth import fill_band
from airtune.allocation.pruning import PruningProblem, best_pruning
from airtune.allocation.pruning_price import AtDeadline, Response
from airtune.allocation.solve import PRICE_STEP, Evaluation, clearing_price
from airtune.quantities import FloatArray

_PART = 1e-3
# How exactly the distance from D to the band must be known for Newton's step on the deadline.
_FULL = 1e-12


@dataclass(frozen=True)
class Bound:
    """g at one price: the clients' choices, and their weighted pruning above the budget."""

    log_price: float
    response: Response
    over: float
    value_hz: float


class PricedDeadlines:
    """D of a problem at one deadline after another, each search started from the ones before.

    Attributes:
        alone_s: the smallest deadline if every client had the whole band to itself; D is infinite
            below.
    """

    def __init__(self, problem: PruningProblem) -> None:
        self.problem = problem
        count, band = len(problem), problem.bandwidth_hz
        self.whole_band_bps = problem.links.rate(np.full(count, band))
        self.alone_s, _ = best_pruning(problem, self.whole_band_bps)
        self._guess_hz = np.full(count, band / count)
        self._seen: list[tuple[float, float]] = []

    @property
    def log_price(self) -> float:
        """ln(lambda) at the last deadline; NaN before, -inf where the budget is not short."""
        return self._seen[-1][1] if self._seen else math.nan

    @property
    def price_hz(self) -> float:
        """lambda; inf if no deadline so far left the budget a chance."""
        return math.inf if math.isnan(self.log_price) else math.exp(self.log_price)

    def expect(self, deadline_s: float, log_price: float) -> None:
        """Start the next search from a price that is known to be near."""
        self._seen = [(deadline_s, log_price)]

    def __call__(self, deadline_s: float) -> Evaluation:
        """A lower bound on D, as exact as its distance to the band asks for, and its slope."""
        clients = self._at(deadline_s)
        problem, budget = self.problem, self.problem.pruning_budget
        if problem.pruned(clients.least) > problem.budget_limit:
            return math.inf, math.nan
        low, high = _price_range(clients)
        if problem.pruned(clients.most) <= budget or low == math.inf:
            bound = self._bound(clients, -math.inf)
        elif problem.pruned(clients.least) >= budget:
            bound = self._bound(clients, high)
        else:
            bound = self._best_bound(clients, low, high, self._start(clients, deadline_s))
        self._seen = [*self._seen[-1:], (deadline_s, bound.log_price)]
        return bound.value_hz, -clients.fall_hz_s(bound.response)

    def keep_most(self, deadline_s: float) -> tuple[FloatArray, FloatArray]:
        """The least weighted pruning at a deadline within the band: pruning rates, bandwidths."""
        clients = self._at(deadline_s)
        band = self.problem.bandwidth_hz
        low, high = _price_range(clients)
        if clients.full_hz.sum() <= band:
            return clients.least, fill_band(clients.full_hz, band)
        if clients.floor_hz.sum() >= band or low == math.inf:
            return clients.most, fill_band(clients.floor_hz, band)

        bandwidth = self._clear_band(clients, low, high, self._start(clients, deadline_s))
        pruning_rate = clients.choose(bandwidth)
        # 1 - rho of an almost wholly pruned client is rounded coarsely: give it what that needs.
        late = self.problem.finish_s(pruning_rate, bandwidth) > deadline_s * (1.0 + 1e-13)
        return pruning_rate, np.where(late, clients.bandwidth_for(pruning_rate), bandwidth)

    def _clear_band(self, clients: AtDeadline, low: float, high: float, start: float) -> FloatArray:
        """Bandwidths at the price at which they fill the band [client]."""
        band = self.problem.bandwidth_hz
        shares: list[FloatArray] = []

        def spare(log_price: float) -> Evaluation:
            response = clients.respond(log_price)
            shares[:] = [response.bandwidth_hz]
            return band - float(response.bandwidth_hz.sum()), -response.bandwidth_slope_hz

        def enough(_: float) -> bool:
            return abs(float(shares[0].sum()) - band) <= _FULL * band

        price = clearing_price(spare, low, high, start, enough)
        if enough(0.0):
            return fill_band(shares[0], band)
        fewer = clients.respond(price.low).bandwidth_hz
        more = clients.respond(price.high).bandwidth_hz
        # Both ends are optimal for (nearly) the same price, hence so is every mixture.
        extra = float((more - fewer).sum())
        part = (band - float(fewer.sum())) / extra if extra > 0 else 0.0
        return fill_band(fewer + min(max(part, 0.0), 1.0) * (more - fewer), band)

    def _at(self, deadline_s: float) -> AtDeadline:
        return AtDeadline(self.problem, deadline_s, self.whole_band_bps, self._guess_hz)

    def _start(self, clients: AtDeadline, deadline_s: float) -> float:
        """The log price on the line through the last two deadlines, or the best there is."""
        known = [(when, price) for when, price in self._seen if math.isfinite(price)]
        if not known:
            return clients.typical_log_price()
        (before, old), (now, new) = known[0], known[-1]
        ahead = (deadline_s - now) / (now - before) if now != before else 0.0
        # Far from a line it would mislead.
        return new + (new - old) * ahead if abs(ahead) < 1.0 else new

    def _bound(self, clients: AtDeadline, log_price: float) -> Bound:
        """g at this price."""
        response = clients.respond(log_price)
        over = self.problem.pruned(response.pruning_rate) - self.problem.pruning_budget
        value = float(response.bandwidth_hz.sum())
        if log_price > -math.inf:
            value += math.exp(log_price) * over
        return Bound(log_price, response, over, value)

    def _best_bound(self, clients: AtDeadline, low: float, high: float, start: float) -> Bound:
        """g at the price that clears the pruning budget, where it is greatest."""
        band = self.problem.bandwidth_hz
        bounds: list[Bound] = []

        def over(log_price: float) -> Evaluation:
            bounds[:] = [self._bound(clients, log_price)]
            # At a client's own optimum w d(rho) = -d(b) / lambda.
            slope = bounds[0].response.bandwidth_slope_hz * math.exp(-log_price)
            return bounds[0].over, -slope

        def enough(step: float) -> bool:
            """Whether it is proven on which side of the band D is, and g is near enough to it.

            Above the band g itself is the proof, below it these bandwidths are: they keep the
            deadline and the budget. How much g still misses must not matter to Newton's next step.
            """
            here = bounds[0]
            fits = here.over <= 0 and float(here.response.bandwidth_hz.sum()) <= band
            missing = 0.5 * math.exp(here.log_price) * abs(here.over) * step
            small = missing <= _PART * abs(here.value_hz - band)
            return small and (fits or here.value_hz > band)

        price = clearing_price(over, low, high, start, enough)
        return (
            bounds[0] if price.point == bounds[0].log_price else self._bound(clients, price.point)
        )


def _price_range(clients: AtDeadline) -> tuple[float, float]:
    """ln(price) below which every client is pruned most, and from which every one least."""
    free = clients.most > clients.least
    leave = clients.leave_log_price[free & np.isfinite(clients.leave_log_price)]
    full = clients.full_log_price[free & np.isfinite(clients.full_log_price)]
    if not len(full):
        return math.inf, math.inf
    # At the very price at which a straight curve leaves its end it may be at the other one.
    return float(leave.min()) - PRICE_STEP, float(full.max())
