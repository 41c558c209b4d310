"""All assignments that can still beat a known one: proven optima of small links.

With a cut's prices, subchannel i is worth `b_i phi_ki` to client k. Giving it to another client
than the one that values it most wastes the difference, its regret. An assignment beats a window x
only if its regrets together are at most the slack `value - sum_k rate_price_k R_k(x)` of the cut
(reduced-cost fixing), so few assignments are left where the cut is tight or the link is small.
"""

import numpy as np

from airtune.allocation.subchannels.bound import Cut
from airtune.allocation.subchannels.power import Demand, Owners, Uplink, WaterFilling, least_window
from airtune.quantities import FloatArray

LARGEST = 300_000
"""Assignments x clients x subchannels that are looked at; beyond it the search gives up."""


def best_of_all(
    link: Uplink, demand: Demand, cut: Cut, window_s: float
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
