"""Subchannels and power of one link together, for one demand after another, with a bound."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from airtune.allocation.subchannels.assignment import (
    greedy_owners,
    improve_owners,
    unreachable_client,
)
from airtune.allocation.subchannels.bound import best_cut, energy_cut, lone_window
from airtune.allocation.subchannels.exact import best_counts, best_of_all
from airtune.allocation.subchannels.power import Demand, Owners, Uplink, WaterFilling, least_window

NEGLIGIBLE = 1e-6
"""The local search does not aim nearer to the bound than this share of the deadline."""


@dataclass(frozen=True)
class LinkAnswer:
    """An assignment, its window with exact power control, and a window that none can beat."""

    owner: Owners
    window_s: float
    window_bound_s: float


def obstacle(link: Uplink, demand: Demand, name: Callable[[int], str], server: str) -> str | None:
    """Why no deadline can be met on this link, in one sentence; None if a plan exists."""
    senders = np.flatnonzero(demand.sends)
    if not len(senders):
        return None
    if len(senders) > link.subchannels:
        return (
            f"The {server} link has {link.subchannels} subchannels for {len(senders)} clients: "
            "every client needs at least one of its own."
        )
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
