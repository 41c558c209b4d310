"""Assignment of subchannels: a matching, round-robin and the published greedy.

An assignment is an array of owners [subchannel]; UNUSED marks a subchannel that is not used.
"""

import numpy as np
from numpy.typing import NDArray

from airtune.allocation.bandwidth import airtime_s
from airtune.allocation.subchannels.power import UNUSED, Demand, Owners, Uplink
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
