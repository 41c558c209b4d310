"""Better assignments by moves and swaps: a local search whose proposals come from shadow prices."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airtune.allocation.subchannels.power import (
    UNUSED,
    Demand,
    Owners,
    Uplink,
    WaterFilling,
    least_window,
)
from airtune.quantities import FloatArray

Pairs = NDArray[np.intp]
"""Exchanges, [exchange, side]: of subchannels, or of clients."""

PROPOSALS = 256
"""Moves and swaps (each) that one step evaluates exactly."""
_PARTS = 6
_TINY, _HUGE = 1e-300, 1e200
# By how much a descent tries to shorten the window, and the steepness of its pressure. The search
# continues with the next pair when a descent fails, and ends after the last.
_TARGETS = (
    (0.3, 3.0),
    (0.1, 3.0),
    (0.1, 8.0),
    (0.02, 8.0),
    (0.02, 30.0),
    (4e-3, 30.0),
    (8e-4, 30.0),
    (8e-4, 200.0),
)


@dataclass(frozen=True)
class _Target:
    """A deadline as a rate of each client, and its pressure against the caps.

    The pressure is `mean_k (P_k / p_max_k)^beta + (sum_k P_k / p_total)^beta`. A steep power
    stands for "the worst cap"; a flatter one also rewards relief of clients that have some room,
    and so finds chains of exchanges that a search on the worst cap alone does not see.
    """

    link: Uplink
    rate_bps: FloatArray  # [client]
    beta: float

    def power(self, owner: Owners) -> FloatArray:
        """Least power of each client for its rate [client]; inf where it cannot reach it."""
        return WaterFilling.of_owners(self.link, owner).power_for(self.rate_bps)[0]

    def own_pressure(self, client: Pairs, power: FloatArray) -> FloatArray:
        """`(P_k / p_max_k)^beta / K` of some clients; 0 for UNUSED."""
        cap = np.where(client == UNUSED, np.inf, self.link.power_max_w[client])
        return self._steep(power, cap) / self.link.clients

    def total_pressure(self, total_w: FloatArray) -> FloatArray:
        """`(sum P_k / p_total)^beta`."""
        return self._steep(total_w, np.asarray(self.link.power_total_w))

    def pressure(self, power: FloatArray) -> float:
        """What the search lowers."""
        own = self.own_pressure(np.arange(self.link.clients), power)
        return float(np.sum(own) + self.total_pressure(np.asarray(np.sum(power))))

    def prices(self, power: FloatArray) -> FloatArray:
        """Derivative of the pressure with respect to each client's power [client], over beta."""
        total = np.asarray(np.sum(power))
        own = self.own_pressure(np.arange(self.link.clients), power)
        shared = self.total_pressure(total) / np.maximum(total, _TINY)
        return own / np.maximum(power, _TINY) + shared

    def is_met(self, power: FloatArray) -> bool:
        """Whether the deadline can be met: every cap holds."""
        below = np.all(power <= self.link.power_max_w)
        return bool(below and np.sum(power) <= self.link.power_total_w)

    def _steep(self, power: FloatArray, cap: FloatArray) -> FloatArray:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            pressure: FloatArray = np.where(power > 0, (power / cap) ** self.beta, 0.0)
        return np.minimum(pressure, _HUGE)


def improve_owners(
    link: Uplink, demand: Demand, owner: Owners, floor_s: float = 0.0
) -> tuple[Owners, float]:
    """Local search by moves and swaps; returns the assignment and its window (power control exact).

    A deadline somewhat shorter than the present one is aimed at; moves (a subchannel changes hands)
    and swaps (two change hands) that relieve the caps are made until every cap holds or nothing
    helps. The aim is then set nearer. The window never grows. `floor_s` is proven out of reach, or
    of no interest below: nothing beyond it is aimed at, and it is the last aim.
    """
    window = _window(link, demand, owner)
    level = 0
    while np.isfinite(window) and window > floor_s and level < len(_TARGETS):
        cut, beta = _TARGETS[level]
        aim = window * (1 - cut)
        if level == len(_TARGETS) - 1:
            aim = max(aim, floor_s)
        found, reached = owner, np.inf
        if aim >= floor_s:
            found = _descend(_Target(link, demand.rates_within(np.asarray(aim)), beta), owner)
            reached = _window(link, demand, found)
        if reached < window * (1 - 1e-12):
            owner, window = found, reached
        else:
            level += 1
    return owner, window


def _window(link: Uplink, demand: Demand, owner: Owners) -> float:
    return float(least_window(WaterFilling.of_owners(link, owner), link, demand))


def _descend(target: _Target, owner: Owners) -> Owners:
    """Make the best exchanges, as long as they relieve the caps and these do not hold yet."""
    power = target.power(owner)
    pressure = target.pressure(power)
    while np.isfinite(pressure) and not target.is_met(power):
        given, taken = _proposals(target, owner, power)
        changed, power = _best_disjoint(target, owner, power, given, taken)
        before, pressure = pressure, target.pressure(power)
        if not pressure < before:
            break
        owner = changed
    return owner


def _proposals(target: _Target, owner: Owners, power: FloatArray) -> tuple[Pairs, Pairs]:
    """The most promising exchanges, as [exchange, 2] columns: subchannels and their new owners.

    Owning subchannel i at water level L saves `L b (ln(L/n) - 1 + n/L)` watts to first order. The
    saving is weighted by how much each watt of a client counts against the caps. A move is an
    exchange whose second subchannel is UNUSED.
    """
    link = target.link
    value = _values(target, owner, power)
    subchannel = np.arange(link.subchannels)
    used = owner != UNUSED
    lost = np.where(used, value[np.where(used, owner, 0), subchannel], 0.0)
    gain = value - lost  # [client, subchannel]: subchannel goes to client
    gain[owner[used], subchannel[used]] = -np.inf
    client, moved = _largest(gain)
    # [i, j]: owner(j) receives i and owner(i) receives j.
    swap = np.where(used[:, None] & used, gain[np.where(used, owner, 0)].T, -np.inf)
    swap = np.triu(swap + swap.T, 1) + np.where(np.tri(link.subchannels, dtype=bool), -np.inf, 0.0)
    first, second = _largest(swap)
    given = np.concatenate(
        [np.stack([moved, np.full_like(moved, UNUSED)], 1), np.stack([first, second], 1)]
    )
    taken = np.concatenate(
        [np.stack([client, owner[moved]], 1), np.stack([owner[second], owner[first]], 1)]
    )
    return given, taken


def _values(target: _Target, owner: Owners, power: FloatArray) -> FloatArray:
    """First-order worth of every subchannel to every client [client, subchannel]."""
    link = target.link
    filling = WaterFilling.of_owners(link, owner)
    with np.errstate(over="ignore", invalid="ignore"):
        level = filling.floor_w_hz * np.exp(filling.level(target.rate_bps))
        level = np.where(np.isfinite(level) & (target.rate_bps > 0), level, 0.0)
    price = target.prices(power)
    with np.errstate(divide="ignore"):
        depth = np.maximum(np.log(level)[:, None] - np.log(link.noise_to_gain), 0.0)
    worth: FloatArray = depth + np.expm1(-depth)
    return (price * level)[:, None] * worth * link.bandwidth_hz


def _largest(score: FloatArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and column of the largest finite scores, at most PROPOSALS of them."""
    flat = score.ravel()
    count = min(PROPOSALS, flat.size)
    chosen = np.sort(np.argpartition(-flat, count - 1)[:count])
    chosen = chosen[np.isfinite(flat[chosen])]
    row, column = np.divmod(chosen, score.shape[1])
    return row, column


def _best_disjoint(
    target: _Target,
    owner: Owners,
    power: FloatArray,
    given: Pairs,
    taken: Pairs,
) -> tuple[Owners, FloatArray]:
    """Make the exchanges that help, best first, no client and no subchannel twice."""
    # [exchange, side]: the two clients that an exchange touches, and their new least power.
    after = _powers_after(target, owner, given, taken)
    before = np.where(taken == UNUSED, 0.0, power[taken])
    total = np.asarray(np.sum(power))
    with np.errstate(invalid="ignore"):
        gain = np.sum(target.own_pressure(taken, before) - target.own_pressure(taken, after), 1)
        relieved = total + np.sum(after - before, axis=1)
        gain += target.total_pressure(total) - target.total_pressure(relieved)
    gain = np.where(np.isfinite(gain), gain, -np.inf)
    scale = target.pressure(power)
    owner, power = owner.copy(), power.copy()
    busy_client = np.zeros(target.link.clients + 1, dtype=bool)  # the last entry is that of UNUSED
    busy_subchannel = np.zeros(target.link.subchannels + 1, dtype=bool)
    for exchange in np.argsort(-gain, kind="stable")[: np.count_nonzero(gain > 1e-12 * scale)]:
        who, what = taken[exchange], given[exchange]
        if busy_client[who].any() or busy_subchannel[what].any():
            continue
        busy_client[who], busy_subchannel[what] = True, True
        busy_client[UNUSED] = busy_subchannel[UNUSED] = False
        owner[what[what != UNUSED]] = who[what != UNUSED]
        power[who[who != UNUSED]] = after[exchange, who != UNUSED]
    return owner, power


def _powers_after(target: _Target, owner: Owners, given: Pairs, taken: Pairs) -> FloatArray:
    """Least power of the two clients of each exchange once it is made [exchange, side]."""
    slots = _slots(owner, target.link.clients)
    client, gained, lost = taken.ravel(), given.ravel(), given[:, ::-1].ravel()
    power = np.zeros(len(client))
    present = np.flatnonzero(client != UNUSED)
    count = np.sum(slots != UNUSED, axis=1)[client]
    # Clients of similar size together: one that owns much would pad all others.
    for part in np.array_split(present[np.argsort(count[present], kind="stable")], _PARTS):
        if len(part):
            mine = slots[client[part], : count[part[-1]]]
            mine = np.where(mine == lost[part, None], UNUSED, mine)
            mine = np.column_stack([mine, gained[part]])
            power[part] = _least_powers(target, client[part], mine)
    return power.reshape(taken.shape)


def _least_powers(
    target: _Target, client: NDArray[np.intp], subchannels: NDArray[np.intp]
) -> FloatArray:
    """Least power of some clients with these subchannels [client, slot], UNUSED: none."""
    link = target.link
    present = subchannels != UNUSED
    noise = np.where(present, link.noise_to_gain[client[:, None], subchannels], np.inf)
    width = np.where(present, link.bandwidth_hz[subchannels], 0.0)
    return WaterFilling.of_slots(width, noise).power_for(target.rate_bps[client])[0]


def _slots(owner: Owners, clients: int) -> NDArray[np.intp]:
    """Subchannels of each client, padded with UNUSED [client, slot]."""
    used = np.flatnonzero(owner != UNUSED)
    used = used[np.argsort(owner[used], kind="stable")]
    counts = np.bincount(owner[used], minlength=clients)
    slot = np.arange(len(used)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((clients, max(int(counts.max(initial=0)), 1)), UNUSED, dtype=np.intp)
    table[owner[used], slot] = used
    return table
