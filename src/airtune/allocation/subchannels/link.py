"""Subchannels and power of one link together, for one demand after another, with a bound.

Links whose subchannels are all alike, and small links, are solved to a proven optimum. With equal
widths, and gains that differ between clients only, an assignment is a count of subchannels per
client.

In a small link all assignments are listed that can still beat a known one. With a cut's prices,
subchannel i is worth `b_i phi_ki` to client k. Giving it to another client
than the one that values it most wastes the difference, its regret. An assignment beats a window x
only if its regrets together are at most the slack `value - sum_k rate_price_k R_k(x)` of the cut
(reduced-cost fixing), so few assignments are left where the cut is tight or the link is small.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airtune.allocation.subchannels.assignment import (
    even_owners,
    greedy_owners,
    improve_owners,
    unreachable_client,
)
from airtune.allocation.subchannels.bound import PriceCut, best_cut, energy_cut, lone_window
from airtune.allocation.subchannels.power import (
    LN2,
    UNUSED,
    Demand,
    Owners,
    Uplink,
    WaterFilling,
    least_window,
)
from airtune.quantities import FloatArray

PRECISION = 5e-10
"""Relative distance between the answer and the window that is proven too short."""


@dataclass(frozen=True)
class CountAnswer:
    """The best assignment, its window, and a shorter window that no assignment meets."""

    owner: Owners
    window_s: float
    window_bound_s: float


def counts_within(link: Uplink, demand: Demand, window_s: float) -> NDArray[np.intp] | None:
    """Counts that meet the deadline `latest_start_s + window_s`, or None if no counts do.

    Client k with m subchannels of width w needs at least `P_k(m) = m w n_k (2^(R_k/(m w)) - 1)`
    watts, convex and decreasing in m. So each client first gets the least m that respects its own
    cap, and every further subchannel goes where it saves the most power: exact, because the savings
    of one client never grow (Fox 1966, marginal allocation).
    """
    senders = np.flatnonzero(demand.sends)
    spare = link.subchannels - len(senders)
    if spare < 0:
        return None
    rate = demand.rates_within(np.asarray(window_s))[senders]
    width = link.bandwidth_hz[0] * np.arange(1, spare + 2)
    power = _least_power(rate, width, link.noise_to_gain[senders, 0])
    allowed = power <= link.power_max_w[senders, None]
    least = np.argmax(allowed, axis=1)  # one less than the count
    spare -= int(np.sum(least))
    if not np.all(np.any(allowed, axis=1)) or spare < 0:
        return None
    with np.errstate(invalid="ignore"):
        saving = power[:, :-1] - power[:, 1:]
    saving = np.where(allowed[:, :-1], saving, -1.0).ravel()
    best = np.argpartition(-saving, spare - 1)[:spare] if spare else np.empty(0, dtype=np.intp)
    best = best[saving[best] > 0]
    total = np.sum(power[np.arange(len(senders)), least]) - np.sum(saving[best])
    if total > link.power_total_w:
        return None
    counts = np.zeros(link.clients, dtype=np.intp)
    counts[senders] = (
        1 + least + np.bincount(best // max(len(width) - 1, 1), minlength=len(senders))
    )
    return counts


def _least_power(rate: FloatArray, width: FloatArray, noise_to_gain: FloatArray) -> FloatArray:
    """`width n (2^(rate/width) - 1)` [client, width]; inf where it overflows or has no signal."""
    with np.errstate(over="ignore", invalid="ignore"):
        power = noise_to_gain[:, None] * width * np.expm1(rate[:, None] * LN2 / width)
    return np.where(np.isnan(power), np.inf, power)


def owners_of_counts(link: Uplink, counts: NDArray[np.intp]) -> Owners:
    """Neighbouring subchannels to each client in order; what is left over stays UNUSED."""
    owner = np.full(link.subchannels, UNUSED, dtype=np.intp)
    owners = np.repeat(np.arange(link.clients), counts)
    owner[: len(owners)] = owners
    return owner


def best_counts(link: Uplink, demand: Demand, cutoff_s: float = np.inf) -> CountAnswer | None:
    """The assignment with the shortest window over all counts, with proof; None beyond `cutoff_s`.

    Windows are bisected. Whenever counts are found, exact power control turns them into the
    shortest window that these very counts reach, and the window `PRECISION` below it is tried: the
    first failure there is the proof. Above the window `cutoff_s` no
    answer is needed; one trial decides.
    """
    if not demand.sends.any():
        return CountAnswer(even_owners(link, demand), 0.0, 0.0)
    owner = even_owners(link, demand)
    if np.isfinite(cutoff_s):
        counts = counts_within(link, demand, cutoff_s)
        if counts is None:
            return None
        owner = owners_of_counts(link, counts)
    high, low = _window(link, demand, owner), _window_below(link, demand)
    if not np.isfinite(high):
        return None
    while low < high * (1 - PRECISION):
        for trial in (high * (1 - PRECISION), float(np.sqrt(low * high))):
            counts = counts_within(link, demand, trial) if trial > low else None
            if counts is None:
                low = max(low, trial)
            else:
                owner = owners_of_counts(link, counts)
                high = min(trial, _window(link, demand, owner))
    return CountAnswer(owner, high, min(low, high))


def _window(link: Uplink, demand: Demand, owner: Owners) -> float:
    return float(least_window(WaterFilling.of_owners(link, owner), link, demand))


def _window_below(link: Uplink, demand: Demand) -> float:
    """No assignment is faster: every client at its own cap with all but the others' one each."""
    senders = int(np.count_nonzero(demand.sends))
    width = link.bandwidth_hz[0] * (link.subchannels - senders + 1)
    noise = link.noise_to_gain[:, 0] * width
    rate = width * np.log1p(np.minimum(link.power_max_w, link.power_total_w) / noise) / LN2
    return float(np.max(demand.windows(rate)))


LARGEST = 300_000
"""Assignments x clients x subchannels that are looked at; beyond it the search gives up."""


def best_of_all(
    link: Uplink, demand: Demand, cut: PriceCut, window_s: float
) -> tuple[Owners | None, float] | None:
    """The best assignment whose window is below `window_s`, and its window, proven.

    Returns None where too many assignments are left to enumerate, and `(None, window_s)` where
    nothing beats the window.
    """
    slack = cut.slack(demand, window_s)
    owners = _within(cut.regret(link), slack, max(LARGEST // link.noise_to_gain.size, 1))
    if owners is None:
        return None
    mine = owners[:, None, :] == np.arange(link.clients)[:, None]
    filling = WaterFilling.of_slots(
        np.where(mine, link.bandwidth_hz, 0.0), np.where(mine, link.noise_to_gain, np.inf)
    )
    windows = least_window(filling, link, demand)
    best = int(np.argmin(windows)) if len(windows) else -1
    if best < 0 or not windows[best] < window_s:
        return None, window_s
    return owners[best], float(windows[best])


def _within(regret: FloatArray, slack: float, most: int) -> Owners | None:
    """All assignments [assignment, subchannel] with at most this much regret; None if too many."""
    # Subchannels whose gains differ most between clients go first: the list then stays short.
    order = np.argsort(-np.sort(regret, axis=0)[min(1, len(regret) - 1)], kind="stable")
    owners = np.empty((1, 0), dtype=np.intp)
    used = np.zeros(1)
    for subchannel in order:
        total = used[:, None] + regret[:, subchannel]
        row, client = np.nonzero(total <= slack)
        if len(row) > most:
            return None
        owners = np.column_stack([owners[row], client])
        used = total[row, client]
    return owners[:, np.argsort(order)]


NEGLIGIBLE = 1e-6
"""The local search does not aim nearer to the bound than this share of the deadline."""


@dataclass(frozen=True)
class LinkAnswer:
    """An assignment, its window with exact power control, and a window that none can beat."""

    owner: Owners
    window_s: float
    window_bound_s: float


def too_few_subchannels(subchannels: int, senders: int, server: str) -> str | None:
    """Why so many clients cannot send on a link, in one sentence; None where they can."""
    if senders <= subchannels:
        return None
    return (
        f"The {server} link has {subchannels} subchannels for {senders} clients: "
        "every client needs one of its own, so plan more subchannels or fewer clients."
    )


def obstacle(link: Uplink, demand: Demand, name: Callable[[int], str], server: str) -> str | None:
    """Why no deadline can be met on this link, in one sentence; None if a plan exists."""
    senders = np.flatnonzero(demand.sends)
    if not len(senders):
        return None
    scarce = too_few_subchannels(link.subchannels, len(senders), server)
    if scarce is not None:
        return scarce
    if link.power_total_w == 0:
        return f"The total power of the {server} link is 0."
    for client in senders:
        if link.power_max_w[client] == 0:
            return f"{name(int(client))} has power 0 for the {server} link."
        if not np.isfinite(link.noise_to_gain[client]).any():
            return f"{name(int(client))} has no signal on any subchannel of the {server} link."
    left_out = unreachable_client(link, demand)
    if left_out is None:
        return None
    return (
        f"{name(left_out)} gets no subchannel of the {server} link: it has a gain only on "
        "subchannels that other clients need as well."
    )


class LinkSolver:
    """Solves one link for several demands; cuts and assignments of one are reused for the next.

    Where subchannels are alike, counts are optimal with proof. Otherwise a greedy assignment, or
    the best one known so far, is improved by moves and swaps, and dual cuts give the bound; a cut
    depends on the link alone and so bounds every later demand. Every client that sends must be
    reachable (`obstacle`).
    """

    def __init__(self, link: Uplink) -> None:
        self._link = link
        self._flat = link.is_flat()
        self._cuts = [energy_cut(link)]
        self._known: list[Owners] = []

    def bound(self, demand: Demand) -> float:
        """A window that no assignment beats, from the cuts known so far."""
        alone = lone_window(self._link, demand)
        return max([alone, *(cut.window(demand) for cut in self._cuts)])

    def guess(self, demand: Demand) -> float:
        """The window of the best assignment known so far."""
        if not self._known:
            self._known.append(greedy_owners(self._link, demand))
        return min(self._window(owner, demand) for owner in self._known)

    def solve(self, demand: Demand, cutoff_s: float = np.inf) -> LinkAnswer | None:
        """The best assignment found, or None once it is proven that none beats the cutoff."""
        if self._flat:
            counts = best_counts(self._link, demand, cutoff_s)
            if counts is None:
                return None
            self._known = [counts.owner]
            return LinkAnswer(counts.owner, counts.window_s, counts.window_bound_s)
        if not demand.sends.any():
            return LinkAnswer(greedy_owners(self._link, demand), 0.0, 0.0)
        if self.bound(demand) >= cutoff_s:
            return None
        guess = self.guess(demand)
        self._cuts.append(best_cut(self._link, demand, min(guess, cutoff_s)))
        if self.bound(demand) >= cutoff_s:
            return None
        start = min(self._known, key=lambda owner: self._window(owner, demand))
        bound = self.bound(demand)
        floor = bound + NEGLIGIBLE * (demand.latest_start_s + bound)
        owner, window = improve_owners(self._link, demand, start, floor)
        bound = min(bound, window)
        if bound < window:
            proven = best_of_all(self._link, demand, self._cuts[-1], window)
            if proven is not None:
                better, window = proven
                owner, bound = owner if better is None else better, window
        self._known = [*self._known[-2:], owner]
        return LinkAnswer(owner, window, bound)

    def _window(self, owner: Owners, demand: Demand) -> float:
        return float(least_window(WaterFilling.of_owners(self._link, owner), self._link, demand))
