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
from airtune.allocation.pruning.price import AtDeadline, Response
from airtune.allocation.pruning.problem import PruningProblem, best_pruning
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

    Args:
        careful: search every price until D is known to lie on one side of the band or the other,
            where otherwise a short step of Newton's iteration is taken for its end. Slower; needed
            where the price has a kink just there.

    Attributes:
        alone_s: the smallest deadline if every client had the whole band to itself; D is infinite
            below.
    """

    def __init__(self, problem: PruningProblem, careful: bool = False) -> None:
        self.problem, self._careful = problem, careful
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
        """lambda; inf if the budget was out of reach at every deadline so far."""
        return math.inf if math.isnan(self.log_price) else math.exp(self.log_price)

    def expect(self, deadline_s: float, log_price: float) -> None:
        """Start the next search from a price that is known to be near."""
        self._seen = [(deadline_s, log_price)]

    def __call__(self, deadline_s: float) -> Evaluation:
        """A lower bound on D, as exact as its distance to the band requires, and its slope."""
        clients = self._at(deadline_s)
        problem = self.problem
        if not problem.keeps_budget(clients.kept_most):
            return math.inf, math.nan
        low, high = _price_range(clients)
        if problem.lacking(clients.kept_least) <= 0 or low == math.inf:
            bound = self._bound(clients, -math.inf)
        elif problem.lacking(clients.kept_most) >= 0:
            bound = self._bound(clients, high)
        else:
            bound = self._best_bound(clients, low, high, self._start(clients, deadline_s))
        self._seen = [*self._seen[-1:], (deadline_s, bound.log_price)]
        return bound.value_hz, -clients.fall_hz_s(bound.response)

    def keep_most(self, deadline_s: float) -> tuple[FloatArray, FloatArray]:
        """The least weighted pruning at a deadline within the band: kept shares, bandwidths."""
        clients = self._at(deadline_s)
        band = self.problem.bandwidth_hz
        low, high = _price_range(clients)
        if clients.full_hz.sum() <= band:
            return clients.kept_most, fill_band(clients.full_hz, band)
        if clients.floor_hz.sum() >= band or low == math.inf:
            return clients.kept_least, fill_band(clients.floor_hz, band)
        bandwidth = self._clear_band(clients, low, high, self._start(clients, deadline_s))
        return clients.keep(bandwidth), bandwidth

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
        # Both are optimal for (nearly) the same price, hence so is every mixture. Each must lie on
        # its side of the band: to scale all shares down instead would make the others late.
        fewer = _shares_beyond(clients, price.low, -1.0)
        more = _shares_beyond(clients, price.high, 1.0)
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
        # Away from a straight line the extrapolation fails.
        return new + (new - old) * ahead if abs(ahead) < 1.0 else new

    def _bound(self, clients: AtDeadline, log_price: float) -> Bound:
        """g at this price."""
        response = clients.respond(log_price)
        over = self.problem.lacking(response.kept)
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
            if self._careful and here.over > 0 and here.value_hz <= band:
                return False
            fits = here.over <= 0 and float(here.response.bandwidth_hz.sum()) <= band
            missing = 0.5 * math.exp(here.log_price) * abs(here.over) * step
            small = missing <= _PART * abs(here.value_hz - band)
            return small and (fits or here.value_hz > band)

        last_step = 0.0 if self._careful else PRICE_STEP
        price = clearing_price(over, low, high, start, enough, last_step)
        return (
            bounds[0] if price.point == bounds[0].log_price else self._bound(clients, price.point)
        )


def _shares_beyond(clients: AtDeadline, log_price: float, sign: float) -> FloatArray:
    """Bandwidths [client] that exceed the band (sign 1) or fit it (-1), from the nearest price on.

    The caller ensures that the ends of the price range lie on either side of the band.
    """
    band, step = clients.problem.bandwidth_hz, PRICE_STEP**2
    while True:
        share: FloatArray = clients.respond(log_price).bandwidth_hz
        if sign * (float(share.sum()) - band) >= 0:
            return share
        log_price, step = log_price + sign * step, 2.0 * step


def _price_range(clients: AtDeadline) -> tuple[float, float]:
    """ln(price) below which every client is pruned most, and from which every one least."""
    free = clients.kept_most > clients.kept_least
    leave = clients.leave_log_price[free & np.isfinite(clients.leave_log_price)]
    full = clients.full_log_price[free & np.isfinite(clients.full_log_price)]
    if not len(full):
        return math.inf, math.inf
    # At the very price at which a straight curve leaves its end it may be at the other one.
    return float(leave.min()) - PRICE_STEP, float(full.max())
