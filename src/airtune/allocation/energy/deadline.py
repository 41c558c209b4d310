"""The least energy at a fixed deadline, by one price on bandwidth.

    V(tau) = min sum_n E_n   s.t.  t_n <= tau,  sum_n b_n <= B,  E_n <= budget_n

is convex and falls with tau, by the sum of the clients' values of time: `V'(tau) = -sum_n w_n`. A
client that would exceed its energy budget at the price m is charged a lower price m_n, at which it
keeps it; the multiplier of its budget is `m / m_n - 1`, and its value of time counts `m / m_n`
times.
"""

import math
from dataclasses import dataclass

import numpy as np

from airtune.allocation.bandwidth import bandwidth_within
from airtune.allocation.energy.balance import (
    EXACT,
    PRICE_EDGE,
    ROUGH,
    Balanced,
    balance,
    most_energy,
    price_of_budget,
)
from airtune.allocation.energy.curves import Clients, psi
from airtune.allocation.energy.problem import EnergyProblem
from airtune.allocation.energy.root import falling_root
from airtune.allocation.solve import Evaluation
from airtune.quantities import FloatArray
from airtune.wireless.rate import LN2, Index

_ROUGHLY = 1e-3
# Of the band: where it is filled no better, neither need clients' times be.
_FAR = 3.0
# In logarithms: no tangent is followed beyond.
_PART = 3.0
# At first, clients are thought to send for the time left over this.
_DEAR = 40.0
# In ln(price): energy then hardly counts beside bandwidth.
_CHEAPEST = 600.0
# In ln(price): of a client's own price to the band's, so that it never rounds to 0.
FULL = 1e-12
"""What may be left of the band, relative; a plan's shares are scaled to fill it."""


@dataclass(frozen=True)
class Response:
    """What clients choose at a deadline and a price m; arrays have the axis [client].

    `value_w` is w; `own` is m_n / m, 1 where no budget binds. `used` is ln of the bandwidth used
    over the band; `priced_j` the energy and what is used beyond the band, at its price: V but for
    the square of that. `used_by_*` and `worth_by_*` are derivatives in ln m and in the deadline.
    `moved` is the longest last step of a client's search: sums err by its square.
    """

    deadline_s: float
    log_price: float
    compute_s: FloatArray
    bandwidth_hz: FloatArray
    value_w: FloatArray
    own: FloatArray
    energy_j: float
    priced_j: float
    used: float
    used_by_price: float
    used_by_time: float
    worth_by_price: float
    worth_by_time: float
    moved: float

    @property
    def worth_w(self) -> float:
        """`-V'`: what all clients together save with one more second, W."""
        return float((self.value_w / self.own).sum())

    @property
    def drift(self) -> float:
        """d ln m / d tau along V, where the band stays filled."""
        return -self.used_by_time / self.used_by_price if self.used_by_price < 0 else 0.0

    @property
    def fill(self) -> float:
        """How far in ln m the band is filled, at this deadline; far where no price changes it."""
        if self.used_by_price < 0:
            return -self.used / self.used_by_price
        return math.copysign(_FAR, self.used) if self.used else 0.0


@dataclass(frozen=True)
class _Rest:
    """Clients without a payload, at a deadline; arrays have the axis [client without a payload]."""

    compute_s: FloatArray
    value_w: FloatArray
    energy_j: float
    worth_by_time: float


_NOBODY = _Rest(np.zeros(0), np.zeros(0), 0.0, 0.0)


class LeastEnergy:
    """V of a problem at one deadline after another, each search started from the last one."""

    def __init__(self, problem: EnergyProblem) -> None:
        self.problem = problem
        self.clients = Clients.of(problem)
        self.sending = np.flatnonzero(problem.payload_bits > 0)
        self._quiet = np.flatnonzero(~(problem.payload_bits > 0))
        self._senders = self.clients.select(self.sending) if len(self._quiet) else self.clients
        self._start_s = problem.fixed_delay_s[self.sending]
        self._budget_j = problem.client_budget_j[self.sending]
        self._limited = np.flatnonzero(np.isfinite(self._budget_j))
        self._resting = self.clients.select(self._quiet)
        self._slowest_s = self._resting.slowest_s()
        self._found: Balanced | None = None
        self._prices = np.zeros(0)
        self._price, self._deadline_s = math.nan, math.nan
        self._fill, self._drift = 0.0, 0.0
        self._arrived = EXACT
        self._log_caps, self._caps_at_s = np.full(len(self._limited), np.nan), math.nan
        self._at_caps: Balanced = None  # type: ignore[assignment]

    def at(self, deadline_s: float, accuracy: float = FULL) -> Response:
        """V's plan at a deadline whose needs fit the band, used but for this share of it."""
        caps, band = self._caps(deadline_s), self.problem.bandwidth_hz
        self._arrived = ROUGH if accuracy > _ROUGHLY else EXACT
        kept: list[Balanced] = []

        def excess(log_price: float) -> Evaluation:
            kept[:] = [self._balanced(deadline_s, log_price, caps)]
            used = float(kept[0].bandwidth_hz.sum())
            slope = float(kept[0].band_by_price[self._free(log_price, caps)].sum()) / used
            return math.log(used / band), slope

        if not len(self.sending):
            return self._response(deadline_s, -math.inf, caps, None)
        start = self.first_price(deadline_s)
        falling_root(excess, start, (-PRICE_EDGE, PRICE_EDGE), accuracy)
        return self._response(deadline_s, self._price, caps, kept[0])

    def at_floors(self, deadline_s: float) -> Response:
        """The choice at a price at which clients have the least bandwidth that they need."""
        if not len(self.sending):
            return self.respond(deadline_s, -math.inf)
        response = self.respond(deadline_s, self.first_price(deadline_s) + _DEAR)
        # Nothing near that price is of use to a search.
        self._found = None
        return response

    def respond(self, deadline_s: float, log_price: float, arrived: float = EXACT) -> Response:
        """Every client's choice at a price."""
        self._arrived = arrived
        caps = self._caps(deadline_s)
        found = self._balanced(deadline_s, log_price, caps) if len(self.sending) else None
        return self._response(deadline_s, log_price, caps, found)

    def _response(
        self, deadline_s: float, log_price: float, caps: FloatArray, found: Balanced | None
    ) -> Response:
        band, rest = self.problem.bandwidth_hz, self._rest(deadline_s)
        if found is None:
            unused, own = np.zeros(len(self._quiet)), np.ones(len(self._quiet))
            arrays = rest.compute_s, unused, rest.value_w, own
            free = (0.0, 0.0, 0.0, 0.0, rest.worth_by_time, 0.0)
            return Response(deadline_s, log_price, *arrays, rest.energy_j, rest.energy_j, *free)
        value, own = found.value_w, np.ones(len(self.sending))
        own[self._limited] = np.exp(np.clip(caps - log_price, -_CHEAPEST, 0.0))
        used, charged = float(found.bandwidth_hz.sum()), value / own
        energy_j = float(found.energy_j.sum()) + rest.energy_j
        response = Response(
            deadline_s,
            log_price,
            self._all(found.compute_s, rest.compute_s),
            self._all(found.bandwidth_hz, 0.0),
            self._all(value, rest.value_w),
            self._all(own, 1.0),
            energy_j,
            energy_j + math.exp(log_price) * (used - band),
            math.log(used / band),
            float(found.band_by_price[self._free(log_price, caps)].sum()) / used,
            float(found.band_by_time.sum()) / used,
            float((charged * found.value_by_price).sum()),
            float((charged * found.value_by_time).sum()) + rest.worth_by_time,
            float(np.abs(found.moved).max()),
        )
        self._drift, self._fill = response.drift, response.fill
        return response

    def _rest(self, deadline_s: float) -> "_Rest":
        """The clients that only compute: as slowly as the deadline allows and pays."""
        quiet, clients = self._quiet, self._resting
        if not len(quiet):
            return _NOBODY
        time_s = deadline_s - self.problem.fixed_delay_s[quiet]
        compute_s = np.minimum(time_s, self._slowest_s)
        value_w = clients.value_of_time_w(compute_s)
        with np.errstate(divide="ignore", invalid="ignore"):
            by_time = -3.0 * (value_w + clients.idle_w) / compute_s
        return _Rest(
            compute_s,
            value_w,
            float(clients.computing_j(compute_s).sum()),
            float(by_time[value_w > 0].sum()),
        )

    def _all(self, sending: FloatArray, quiet: FloatArray | float) -> FloatArray:
        """Values of clients that send and of those that do not, as [client]."""
        if not len(self._quiet):
            return sending
        values = np.empty(len(self.problem))
        values[self.sending], values[self._quiet] = sending, quiet
        return values

    def floor_hz(self, deadline_s: float) -> tuple[FloatArray, FloatArray]:
        """The least bandwidths for a deadline and the clients' budgets [client]; d/dtau [Hz/s].

        inf where a client's budget cannot be kept.
        """
        problem = self.problem
        left_s = deadline_s - problem.fixed_delay_s - problem.compute_s
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            rate = np.where(problem.payload_bits > 0, problem.payload_bits / left_s, 0.0)
            alone_bps = problem.links.rate(np.full(len(problem), problem.bandwidth_hz))
            least = bandwidth_within(problem.links, rate, alone_bps, problem.bandwidth_hz)
            slope = np.where(rate > 0, -rate / left_s / problem.links.slope(least), 0.0)
        caps = self._caps(deadline_s)
        held = np.flatnonzero(caps < PRICE_EDGE)
        if len(held):
            index, found = self.sending[self._limited[held]], self._at_caps
            kept = np.isfinite(caps[held])
            tight = np.where(kept, found.bandwidth_hz, np.inf)
            # Along a budget 0 = dE = -m db - w dT.
            along = -found.value_w / np.exp(np.where(kept, caps[held], 0.0))
            more = tight > least[index]
            slope[index] = np.where(more, along, slope[index])
            least[index] = np.maximum(least[index], tight)
        quiet = self._quiet
        compute_s = np.minimum(deadline_s - problem.fixed_delay_s[quiet], self._slowest_s)
        over = self._resting.computing_j(compute_s) > problem.client_budget_j[quiet]
        least[quiet[over]] = np.inf
        return least, slope

    def _balanced(self, deadline_s: float, log_price: float, caps: FloatArray) -> Balanced:
        prices = np.full(len(self.sending), log_price)
        prices[self._limited] = np.minimum(log_price, caps)
        time_s = deadline_s - self._start_s
        guess = np.full(len(prices), np.nan)
        if self._found is not None:
            # Along the tangent of the last answer.
            with np.errstate(invalid="ignore"):
                by_price = self._found.value_by_price * (prices - self._prices)
                by_time = self._found.value_by_time * (deadline_s - self._deadline_s)
                along = np.minimum(np.maximum(by_price + by_time, -_FAR), _FAR)
                guess = self._found.log_value + along
        self._found = balance(self._senders, time_s, prices, guess, self._arrived)
        self._price, self._prices, self._deadline_s = log_price, prices, deadline_s
        return self._found

    def _free(self, log_price: float, caps: FloatArray) -> Index:
        """Senders that pay the band's own price."""
        if not len(self._limited):
            return slice(None)
        free = np.ones(len(self.sending), dtype=np.bool_)
        free[self._limited] = caps >= log_price
        return free

    def _caps(self, deadline_s: float) -> FloatArray:
        """ln of the prices at which clients would exceed their budgets; -inf where none keeps it.

        `PRICE_EDGE` where any price keeps it. `_at_caps` are the others, there.
        """
        limited = self._limited
        if not len(limited) or deadline_s == self._caps_at_s:
            return self._log_caps
        time_s = deadline_s - self._start_s[limited]
        part = self._senders.select(limited)
        held = np.flatnonzero(most_energy(part, time_s) > self._budget_j[limited])
        known = np.abs(self._log_caps) < PRICE_EDGE
        guess = np.where(known, self._log_caps, self.first_price(deadline_s))
        caps = np.full(len(limited), PRICE_EDGE)
        if len(held):
            caps[held], self._at_caps = price_of_budget(
                part.select(held),
                time_s[held],
                self._budget_j[limited[held]],
                (guess[held], np.full(len(held), np.nan)),
                self.problem.bandwidth_hz,
            )
        self._caps_at_s, self._log_caps = deadline_s, caps
        return caps

    def first_price(self, deadline_s: float) -> float:
        """Where the tangent of the last answer fills the band at this deadline.

        At first, the price of equal shares, roughly.
        """
        if self._found is not None:
            moved = self._fill + self._drift * (deadline_s - self._deadline_s)
            return self._price + max(-_FAR, min(_FAR, moved))
        senders, share = self._senders, self.problem.bandwidth_hz / len(self.sending)
        left_s = deadline_s - self._start_s - senders.compute_s
        upload_s = np.maximum(left_s / _PART, 1e-9 * deadline_s)
        with np.errstate(divide="ignore", invalid="ignore"):
            most = np.log1p(senders.cn0_hz / share)
            u = np.minimum(senders.nats / (share * upload_s), most)
            # -dE/d(ln b), as in `curves.py`; at a price b is about its root over that of the price.
            saved_j = psi(u, np.expm1(u)) / u * senders.nats * np.exp(-senders.log_gain)
            fixed_j = senders.sending_w * senders.nats / (LN2 * senders.efficiency * share)
        worth_j = np.where(senders.efficiency > 0, fixed_j, saved_j)
        return 2.0 * math.log(np.sqrt(worth_j).mean()) - math.log(share)
