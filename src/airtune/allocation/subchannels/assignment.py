"""Assignment of subchannels: a matching, round-robin, the published greedy, a local search.

An assignment is an array of owners [subchannel]; UNUSED marks a subchannel that is not used. The
local search improves an assignment by moves and swaps, proposed by shadow prices.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airtune.allocation.bandwidth import airtime_s
from airtune.allocation.subchannels.power import (
    UNUSED,
    Demand,
    Owners,
    Uplink,
    WaterFilling,
    least_window,
)
from airtune.quantities import FloatArray


def unreachable_client(link: Uplink, demand: Demand) -> int | None:
    """A client that no assignment can serve, or None.

    Every client that sends needs a subchannel of its own with a signal: a bipartite matching. With
    fewer subchannels than clients, or several clients with a gain on only the same few subchannels,
    the first client that the matching leaves out is returned.
    """
    owner = np.full(link.subchannels, UNUSED, dtype=np.intp)
    for client in np.flatnonzero(demand.sends):
        preference = np.argsort(link.noise_to_gain[client], kind="stable")
        if not _match(link, owner, int(client), preference, set()):
            return int(client)
    return None


def _match(
    link: Uplink, owner: Owners, client: int, preference: NDArray[np.intp], seen: set[int]
) -> bool:
    """Give the client one subchannel, moving other clients where needed (augmenting path)."""
    usable = [int(i) for i in preference if np.isfinite(link.noise_to_gain[client, i])]
    for free in (True, False):
        for index in usable:
            holder = int(owner[index])
            if index in seen or (holder == UNUSED) != free:
                continue
            seen.add(index)
            other = np.argsort(link.noise_to_gain[holder], kind="stable")
            if free or _match(link, owner, holder, other, seen):
                owner[index] = client
                return True
    return False


def even_owners(link: Uplink, demand: Demand) -> Owners:
    """Subchannels assigned round-robin to the clients that send; the simplest start."""
    senders = np.flatnonzero(demand.sends)
    if not len(senders):
        return np.full(link.subchannels, UNUSED, dtype=np.intp)
    return senders[np.arange(link.subchannels) % len(senders)]


def greedy_owners(link: Uplink, demand: Demand) -> Owners:
    """Likely stragglers choose first, then always the slowest client, until none is left.

    In the manner of SflLLM (arXiv 2504.14667, subchannel allocation by a greedy heuristic): in the
    first pass each client, the slowest first, takes its best free subchannel; then the client with
    the largest delay takes its best free one, again and again. Delays are those at a constant
    density: a client spreads its power cap, scaled so that all caps together keep the total, evenly
    over what it owns. A client that gains nothing from another subchannel leaves the queue.
    """
    owner = np.full(link.subchannels, UNUSED, dtype=np.intp)
    budget = fair_power(link)
    with np.errstate(divide="ignore"):
        mean_gain = np.mean(1.0 / link.noise_to_gain, axis=1)
        band = float(np.sum(link.bandwidth_hz)) / link.clients
        guess = band * np.log1p(budget * mean_gain / band)
    slowness = demand.fixed_delay_s + airtime_s(demand.payload_bits, guess)
    slowest_first = np.argsort(-slowness, kind="stable")
    for client in slowest_first[demand.sends[slowest_first]]:
        preference = np.argsort(link.noise_to_gain[client], kind="stable")
        if not _match(link, owner, int(client), preference, set()):
            return owner
    _serve_slowest(link, demand, owner, budget)
    return owner


def random_owners(link: Uplink, demand: Demand, draw: np.random.Generator) -> Owners:
    """Subchannels to random clients with a gain on them, at least one to each client that sends."""
    owner = np.full(link.subchannels, UNUSED, dtype=np.intp)
    for client in draw.permutation(np.flatnonzero(demand.sends)):
        if not _match(link, owner, int(client), draw.permutation(link.subchannels), set()):
            break
    for index in np.flatnonzero(owner == UNUSED):
        usable = np.flatnonzero(np.isfinite(link.noise_to_gain[:, index]) & demand.sends)
        if len(usable):
            owner[index] = draw.choice(usable)
    return owner


def fair_power(link: Uplink) -> FloatArray:
    """Each client's cap, scaled down so that all together keep the total [client], W."""
    caps = float(np.sum(link.power_max_w))
    return link.power_max_w * (min(link.power_total_w / caps, 1.0) if caps > 0 else 0.0)


def even_density(link: Uplink, owner: Owners) -> FloatArray:
    """Each client's fair power, spread evenly over its band [subchannel], W/Hz."""
    return spread_power(link, owner, link.bandwidth_hz)


def spread_power(link: Uplink, owner: Owners, share: FloatArray) -> FloatArray:
    """Densities that give each client its fair power in these shares [subchannel], W/Hz."""
    used = owner != UNUSED
    who = np.where(used, owner, 0)
    whole = np.bincount(owner[used], share[used], minlength=link.clients)
    power = fair_power(link)[who] * share / np.where(used, whole[who], 1.0)
    return np.where(used, power / link.bandwidth_hz, 0.0)


def _serve_slowest(link: Uplink, demand: Demand, owner: Owners, budget: FloatArray) -> None:
    """The second phase of the greedy; changes `owner`."""
    waiting = demand.sends.copy()
    free = owner == UNUSED
    rate = np.array([_even_rate(link, owner == k, k, budget) for k in range(link.clients)])
    while free.any() and waiting.any():
        delay = demand.fixed_delay_s + airtime_s(demand.payload_bits, rate)
        client = int(np.argmax(np.where(waiting, delay, -np.inf)))
        noise = np.where(free, link.noise_to_gain[client], np.inf)
        best = int(np.argmin(noise / link.bandwidth_hz))
        mine = owner == client
        mine[best] = True
        gained = _even_rate(link, mine, client, budget)
        if not np.isfinite(noise[best]) or gained <= rate[client]:
            waiting[client] = False
            continue
        owner[best], free[best], rate[client] = client, False, gained


def _even_rate(link: Uplink, mine: NDArray[np.bool_], client: int, budget: FloatArray) -> float:
    """The client's rate, in nat/s, with its power spread evenly over these subchannels."""
    width, noise = link.bandwidth_hz[mine], link.noise_to_gain[client, mine]
    psd = budget[client] / max(float(np.sum(width)), 1e-300)
    return float(np.sum(width * np.log1p(psd / noise)))


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
