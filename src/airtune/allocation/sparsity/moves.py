"""Plans near a good one: all within a cost, the price's answer, and single-rank moves and swaps."""

import numpy as np

from airtune.allocation.sparsity.deadline_cells import CostTable, RankTrade
from airtune.allocation.sparsity.options import IntArray
from airtune.quantities import FloatArray

_ROW_BUDGET = 200_000
_MOST_MOVES = 24


def plans_within(cost: FloatArray, budget: float, limit: int) -> IntArray | None:
    """All choices of one row per column whose summed cost is at most `budget` above the least.

    Columns are joined one after another, and partial choices beyond the budget are dropped.

    Args:
        cost: [option, client]; inf where there is no option.
        limit: None is returned once there are more partial choices than this.

    Returns:
        options [plan, client].
    """
    extra = cost - cost.min(axis=0)
    within = extra <= budget
    plans: IntArray = np.argmin(cost, axis=0)[None]
    spent = np.zeros(1)
    # The clients with the fewest alternatives first keep the lists short.
    alternatives = within.sum(axis=0)
    for client in np.argsort(alternatives, kind="stable"):
        if alternatives[client] == 1:
            continue
        rows = np.flatnonzero(within[:, client])
        total = spent[:, None] + extra[rows, client]
        kept, row = np.nonzero(total <= budget)
        if len(kept) > limit:
            return None
        spent = total[kept, row]
        plans = plans[kept]
        plans[:, client] = rows[row]
    return plans


def answer_to_price(trade: RankTrade, option: IntArray, headroom_s: float) -> IntArray:
    """Each client's best option at the deadline of this plan and its own price of bandwidth.

    At the deadline's optimum a second of latency costs what the bandwidth that it would save is
    worth: `queue = price x sum_n -db_n/dt`.
    """
    price, table = _price_at(trade, option, headroom_s)
    return table.cheapest(price)[2]


def neighbours(trade: RankTrade, option: IntArray, headroom_s: float) -> IntArray:
    """The most promising single-rank moves and pairs of them [plan, client]."""
    price, table = _price_at(trade, option, headroom_s)
    cost = table.loss + price * table.band
    mine = option - table.first
    extra = cost - cost[mine, trade.columns]
    row = np.arange(table.rows)[:, None]
    here = (table.first + row < trade.options.count) & (row != mine)
    extra = np.where(here & np.isfinite(extra), extra, np.inf)
    moves = int(np.clip(np.sqrt(2.0 * _ROW_BUDGET / len(trade)), 2, _MOST_MOVES))
    best = np.argsort(extra, axis=None, kind="stable")[:moves]
    best = best[np.isfinite(extra.ravel()[best])]
    rows, clients = np.unravel_index(best, extra.shape)
    target = table.first[clients] + rows
    first, second = np.triu_indices(len(best))
    other = (first == second) | (clients[first] != clients[second])
    first, second = first[other], second[other]
    plans = np.repeat(option[None], len(first), axis=0)
    plans[np.arange(len(first)), clients[first]] = target[first]
    plans[np.arange(len(first)), clients[second]] = target[second]
    return plans


def _price_at(trade: RankTrade, option: IntArray, headroom_s: float) -> tuple[float, CostTable]:
    table = CostTable(trade, headroom_s, option, {})
    fall = float(table.fall[option - table.first, trade.columns].sum())
    # Without a client that sends, or with one that cannot send faster, the price decides nothing.
    return (trade.queue / fall if 0 < fall < np.inf else np.finfo(np.float64).tiny), table
