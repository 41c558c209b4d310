"""One client at a deadline: how its time is divided between computing and sending.

At a price m on bandwidth the value of time w is the one at which the best computing and upload
times (`curves.py`) together fill the time T that the client has: both fall with w, so there is one
root. Newton's iteration in ln w, inside a bracket, for all clients at once: from the tangent of a
neighbouring answer one pass mostly suffices, and only the clients that it leaves go on.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from airtune.allocation.energy.curves import Clients, put_at
from airtune.quantities import FloatArray
from airtune.wireless.rate import LN2, Index

_MAX_PASSES = 200
EXACT, ROUGH, LOOSE = 1e-7, 3e-3, 0.6
"""Newton's last step in a logarithm: what is left is its square, since choices follow the step."""
_NEAR = 10.0
# Times that: what the function itself must be below, since near an edge its slope is infinite.
_BUDGET_ARRIVED = 1e-11
# The same of the price at which a budget is kept, which is not evaluated again; and of the budget,
# or of what the bandwidth is worth, where that is less: dE = -m db.
_LEAST_WORTH = 1e-3
# Of the budget: the energy is not known to better than 1e-14 of itself.
_FARTHEST = 3.0
# A longer step in a logarithm is cut to this.
_EDGE = 250.0
# ln(value of time [W]) beyond +-250 no client has.
PRICE_EDGE = 300.0
"""ln(price of bandwidth [J/Hz]) beyond +-300 does not occur."""


@dataclass(frozen=True)
class Balanced:
    """Clients that send, at one price each; arrays have the axis [client].

    `band_by_price` is d b / d ln m at a fixed deadline [Hz], `band_by_time` d b / d tau at a fixed
    price [Hz/s]; `value_by_price` and `value_by_time` [1/s] are those of ln w. `moved` is Newton's
    last step in ln w, which all of it contains.
    """

    log_value: FloatArray
    compute_s: FloatArray
    bandwidth_hz: FloatArray
    energy_j: FloatArray
    band_by_price: FloatArray
    band_by_time: FloatArray
    value_by_price: FloatArray
    value_by_time: FloatArray
    moved: FloatArray

    @property
    def value_w(self) -> FloatArray:
        """w, what a second less would cost [client]."""
        return np.exp(self.log_value)

    def without_value(self, index: NDArray[np.bool_]) -> "Balanced":
        """The same where the time of some clients is worth nothing, and stays so."""
        # At a fixed efficiency b falls with the square root of the price.
        moved = -0.5 * self.bandwidth_hz
        return replace(
            self,
            band_by_price=np.where(index, moved, self.band_by_price),
            band_by_time=np.where(index, 0.0, self.band_by_time),
            value_by_price=np.where(index, 0.0, self.value_by_price),
            value_by_time=np.where(index, 0.0, self.value_by_time),
            moved=np.where(index, 0.0, self.moved),
        )


class _Search:
    """Newton's iteration for many roots at once; a value of a lack > 0 lies left of its root."""

    def __init__(
        self, point: FloatArray, low: FloatArray, high: FloatArray, arrived: float = EXACT
    ) -> None:
        self.point, self._low, self._high, self._arrived = point, low, high, arrived
        self._before = np.full_like(point, np.inf)

    def move(
        self, which: Index, lack: FloatArray, step: FloatArray, beside: Callable[[], FloatArray]
    ) -> NDArray[np.bool_]:
        """Move these points; which of them have not arrived yet.

        `lack` is positive left of the root; `beside` are points to try where Newton's iteration
        leaves the bracket.
        """
        short, near = lack > 0, np.abs(lack) <= _NEAR * self._arrived
        point, before = self.point[which], self._before[which]
        low = self._low[which] = np.where(short, point, self._low[which])
        high = self._high[which] = np.where(short, self._high[which], point)
        size = np.abs(step)
        near, far = (size <= self._arrived) & near, size >= _FARTHEST
        proposal = point + np.minimum(np.maximum(step, -_FARTHEST), _FARTHEST)
        # Around a kink Newton's steps may go back and forth without end.
        newton = (proposal > low) & (proposal < high) & (far | (size <= 0.9 * before))
        known = near | (newton & (lack < np.inf))
        if known.all():
            self._before[which], self.point[which] = size, proposal
            return ~near & (high - low > 1e-15 * _EDGE)
        tried = beside()
        other = np.where(newton, proposal, 0.5 * (low + high))
        other = np.where((tried > low) & (tried < high), tried, other)
        self._before[which] = np.where(newton, size, np.inf)
        self.point[which] = np.where(known, proposal, other)
        return ~(near | (high - low <= 1e-15 * _EDGE))


def balance(
    clients: Clients,
    time_s: FloatArray,
    log_price: FloatArray,
    guess: FloatArray,
    arrived: float = EXACT,
) -> Balanced:
    """The best division of each client's time at these prices.

    Args:
        time_s: T [client], more than computing at full speed takes.
        log_price: ln m [client].
        guess: ln w [client]; NaN: none.
        arrived: `EXACT`, or `ROUGH` or `LOOSE` on the way to other prices.
    """
    start = guess
    if np.isnan(guess).any():
        half = np.maximum(clients.value_of_time_w(0.5 * (time_s + clients.compute_s)), 1.0)
        start = np.where(np.isnan(guess), np.log(half), guess)
    start = np.minimum(np.maximum(start, -_EDGE), _EDGE)
    idle = _with_time_left(clients, time_s, log_price)
    if idle is not None:
        start = np.where(idle, -_EDGE, start)
    tried = _divide(clients, time_s, log_price, start, arrived)
    found, active = tried.found, ~(tried.near if idle is None else tried.near | idle)
    if np.count_nonzero(active):
        which = np.flatnonzero(active)
        part, tried = clients.select(which), tried.select(which)
        put_at(found, which, _refined(part, time_s[which], log_price[which], tried, arrived))
    return found if idle is None else found.without_value(idle)


def _refined(
    clients: Clients, time_s: FloatArray, log_price: FloatArray, tried: "_Pass", arrived: float
) -> Balanced:
    """The roots of clients that have not arrived with a first pass."""
    found = tried.found
    # Below this value computing alone would take all the time.
    with np.errstate(divide="ignore"):
        low = np.maximum(np.log(clients.value_of_time_w(time_s)), -_EDGE)
    search = _Search(tried.log_value, low, np.full_like(low, _EDGE), arrived)
    active = search.move(slice(None), tried.lack, tried.step, partial(_beside, clients, tried))
    for _ in range(_MAX_PASSES):
        if not active.any():
            break
        # Most clients arrive long before the last one does.
        which = np.flatnonzero(active)
        part, point = clients.select(which), search.point[which]
        tried = _divide(part, time_s[which], log_price[which], point, arrived)
        put_at(found, which, tried.found)
        beside = partial(_beside, part, tried)
        active[which] = search.move(which, tried.lack, tried.step, beside)
    return found


def _with_time_left(
    clients: Clients, time_s: FloatArray, log_price: FloatArray
) -> NDArray[np.bool_] | None:
    """Clients that do not need all their time: at a fixed efficiency, sending longer costs more.

    None where there are none.
    """
    fixed = clients.efficiency > 0
    if not fixed.any():
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        bits_hz = clients.nats / LN2 / clients.efficiency
        upload_s = np.sqrt(bits_hz * np.exp(log_price) / clients.sending_w)
        left = fixed & (clients.slowest_s() + upload_s <= time_s)
    return left if left.any() else None


@dataclass(frozen=True)
class _Pass:
    """Clients' choices at values of time, and how far those are from their roots [client].

    `found` is moved by Newton's step where that is `near`. `lack` is by how much the time does not
    suffice, as a logarithm; `step` is Newton's in ln w; `spare_s` is what the upload leaves.
    """

    found: Balanced
    log_value: FloatArray
    lack: FloatArray
    step: FloatArray
    near: NDArray[np.bool_]
    spare_s: FloatArray

    def select(self, index: Index) -> "_Pass":
        """Some of the clients."""
        return _Pass(
            Balanced(*(values[index] for values in vars(self.found).values())),
            self.log_value[index],
            self.lack[index],
            self.step[index],
            self.near[index],
            self.spare_s[index],
        )


def _divide(
    clients: Clients,
    time_s: FloatArray,
    log_price: FloatArray,
    log_value: FloatArray,
    arrived: float,
) -> _Pass:
    """The choices at a value of time: `lack = ln(t / (T - c / s))`, which falls with ln w."""
    value, price = np.exp(log_value), np.exp(log_price)
    computing_s, slope = clients.compute(value)
    sent = clients.upload(log_price, log_value)
    left_s = time_s - computing_s
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        lack = np.log(sent.time_s / left_s)
        fall = sent.time_by_value + slope * computing_s / left_s
        late = ~(left_s > 0)
        if np.count_nonzero(late):
            lack[late], fall[late] = np.inf, -1.0
        step = -lack / fall
        near = (np.abs(step) <= arrived) & (np.abs(lack) <= _NEAR * arrived)
        by = np.where(near, step, 0.0)
        by_price = -sent.time_by_price / fall
        by_time = 1.0 / (left_s * fall)
    band, band_by_value = sent.bandwidth_hz, sent.bandwidth_hz * sent.band_by_value
    energy = clients.computing_j(computing_s) + clients.sending_w * sent.power_share * sent.time_s
    # What a step costs: dE = -m db - w dT.
    longer_s = sent.time_s * sent.time_by_value + computing_s * slope
    energy -= by * (price * band_by_value + value * longer_s)
    found = Balanced(
        log_value + by,
        computing_s * (1.0 + by * slope),
        band + by * band_by_value,
        energy,
        band * sent.band_by_price + band_by_value * by_price,
        band_by_value * by_time,
        by_price,
        by_time,
        by,
    )
    return _Pass(found, log_value, lack, step, near, time_s - sent.time_s)


def _beside(clients: Clients, tried: _Pass) -> FloatArray:
    """ln w at which computing takes what the upload leaves."""
    with np.errstate(divide="ignore"):
        log_value: FloatArray = np.log(clients.value_of_time_w(np.maximum(tried.spare_s, 0.0)))
    return log_value


def most_energy(clients: Clients, time_s: FloatArray) -> FloatArray:
    """Energy at full speed and power, sending for all the time left [client], J: at any price."""
    return clients.full_w * clients.compute_s + clients.sending_w * (time_s - clients.compute_s)


def price_of_budget(
    clients: Clients,
    time_s: FloatArray,
    budget_j: FloatArray,
    guess: tuple[FloatArray, FloatArray],
    most_hz: float,
) -> tuple[FloatArray, Balanced]:
    """ln of the prices at which clients just keep their energy budgets [client]; their choices.

    The energy grows with the price, up to `most_energy`, which is more than the budget. -inf where
    the budget is not kept even with `most_hz` of bandwidth. `guess` are ln m and ln w.
    """
    lost = np.zeros(len(budget_j), dtype=np.bool_)
    edge = np.full_like(budget_j, PRICE_EDGE)
    search = _Search(guess[0].copy(), -edge, edge, _BUDGET_ARRIVED)
    found = balance(clients, time_s, search.point, guess[1])
    for _ in range(_MAX_PASSES):
        price, over = search.point.copy(), found.energy_j > budget_j
        # At a fixed deadline dE = -m db.
        rise = -np.exp(price) * found.band_by_price
        lost = over & (found.bandwidth_hz > most_hz)
        worth_j = np.clip(np.exp(price) * found.bandwidth_hz, _LEAST_WORTH * budget_j, budget_j)
        kept = np.abs(found.energy_j - budget_j) <= _BUDGET_ARRIVED * worth_j
        with np.errstate(divide="ignore", invalid="ignore"):
            newton = (budget_j - found.energy_j) / np.maximum(rise, 0.0)
        step = np.where(lost | kept, 0.0, newton)
        beside = partial(_apart, price, over)
        lack = 1.0 - found.energy_j / budget_j
        active = search.move(slice(None), np.where(lost, 0.0, lack), step, beside)
        if not active.any():
            break
        found = balance(clients, time_s, search.point, found.log_value)
    return np.where(lost, -np.inf, search.point), found


def _apart(price: FloatArray, over: NDArray[np.bool_]) -> FloatArray:
    """Prices a long step away, to where the root is."""
    return price + np.where(over, -_FARTHEST, _FARTHEST)
