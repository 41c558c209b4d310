"""Global search over the deadline: energy kept against latency, with a proven gap.

Best first over intervals of deadlines: the interval with the least bound is halved, and every
interval that is looked at proposes plans. What the price leaves open, the integrality of ranks, is
closed for few clients by listing all plans within the gap, and narrowed by single-rank moves and
swaps.
"""

import heapq
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from airtune.allocation.sparsity.deadline_cells import (
    Cell,
    CostTable,
    RankTrade,
    bound_cell,
    options_at_price,
)
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


MAX_CELLS = 2_000
LISTED_PLANS = 4_000
"""Plans within the gap of one cell are listed up to this many."""
SAMPLE_FROM = 8_000
"""From so many clients on, the intervals and prices come from a sample of the clients."""
_SAMPLE = 1_000


@dataclass(frozen=True)
class SearchResult:
    """The plan, its objective, a lower bound on the objective of every plan, and the intervals."""

    option: IntArray
    headroom_s: float
    objective: float
    bound: float
    trace: tuple[float, ...]
    cells: tuple[Cell, ...]
    examined: int


@dataclass
class _Search:
    """The best plan so far, and how many intervals it took."""

    trade: RankTrade
    gap: float
    option: IntArray
    headroom_s: float = np.inf
    objective: float = np.inf
    polished: float = np.inf
    examined: int = 0
    trace: list[float] = field(default_factory=list)

    def offer(self, plans: IntArray, guess_s: float = 0.0) -> FloatArray:
        """Take the best of these plans [plan, client] if it beats the current one.

        Returns their headrooms [plan]; `guess_s` is what these are expected to be.
        """
        headroom = self.trade.headroom(plans, guess_s)
        objective = self.trade.loss(plans) + self.trade.queue * (self.trade.start_s + headroom)
        at = int(np.argmin(objective))
        if objective[at] < self.objective:
            self.option, self.headroom_s = plans[at], float(headroom[at])
            self.objective = float(objective[at])
            self.trace.append(self.objective)
        return headroom

    def gains(self, plans: IntArray) -> bool:
        """Whether one of these plans lowered the objective by more than a tenth of the gap."""
        before = self.objective
        self.offer(plans, self.headroom_s)
        return self.objective < before * (1.0 - 0.1 * self.gap)

    def polish(self) -> None:
        """Single-rank moves and swaps until none helps; once for each plan."""
        while self.polished != self.objective:
            self.polished = self.objective
            self.offer(neighbours(self.trade, self.option, self.headroom_s), self.headroom_s)

    @property
    def enough(self) -> float:
        """The bound from which on an interval need not be searched."""
        return self.objective * (1.0 - self.gap)

    def shortfall(self, cell: Cell) -> float:
        """How far the bound is below the objective, relative to it."""
        return 1.0 - cell.bound / self.objective


def search_deadlines(trade: RankTrade, gap: float) -> SearchResult:
    """Minimise the trade over all plans, to the relative gap where that is possible.

    The result is optimal to `gap` unless more than `LISTED_PLANS` plans lie within a cell's gap;
    then the search ends where halving the intervals no longer helps.

    Args:
        trade: `queue` > 0 and at least one positive gain.
        gap: an interval is left alone once `bound >= objective (1 - gap)`.
    """
    search = _Search(trade, gap, np.zeros(len(trade), dtype=np.intp))
    low, high = search.offer(np.stack([search.option, trade.options.count - 1]))
    # Beyond, everything is kept already, or the latency alone costs more than the best plan.
    high = min(high, search.objective / trade.queue - trade.start_s)
    closed: list[Cell] = []
    if high > low:
        cells = [Cell(low, high, -np.inf, 0.3 * search.objective / trade.bandwidth_hz)]
        if len(trade) >= SAMPLE_FROM:
            cells = _cells_of_sample(search, cells[0])
        closed = _close(search, cells)
    return SearchResult(
        search.option,
        search.headroom_s,
        search.objective,
        min([search.objective, *(cell.bound for cell in closed)]),
        tuple(search.trace),
        tuple(closed),
        search.examined,
    )


def _close(search: _Search, cells: Iterable[Cell]) -> list[Cell]:
    """Halve or branch the cell with the least bound until all are closed or cannot be."""
    number = itertools.count()
    near: IntArray | None = None
    heap: list[tuple[float, int, Cell]] = []
    finished = []
    for cell in cells:
        cell = _examine(search, cell, near)
        near = cell.options[1] + (cell.options[1] - cell.options[0]) // 2
        heapq.heappush(heap, (cell.bound, next(number), cell))
    while heap and heap[0][0] < search.enough and search.examined < MAX_CELLS:
        _, _, cell = heapq.heappop(heap)
        parts = _halves(search.trade, cell)
        if not parts or _halving_is_vain(search, cell):
            search.polish()
            parts = _branches(search, cell)
        if not parts:
            finished.append(cell)
        for part in parts:
            part = _examine(search, part, (cell.options[0] + cell.options[1]) // 2)
            heapq.heappush(heap, (part.bound, next(number), part))
    return finished + [cell for _, _, cell in heap]


def _examine(search: _Search, cell: Cell, near: IntArray | None) -> Cell:
    """Bound an interval; unless that closes it, try the plans that it suggests."""
    search.examined += 1
    tolerance = 0.05 * search.gap * search.objective
    found, table = bound_cell(search.trade, cell, search.enough, tolerance, near)
    found = replace(found, bound=max(found.bound, cell.bound))
    if found.bound >= search.enough:
        return found
    search.offer(np.stack(found.options), cell.high_s)
    if table.whole and search.trade.options.complete and _is_narrow(search, found, 1.0):
        listed = _list_plans(search, found, table)
        if listed is not None:
            search.offer(listed, cell.high_s)
            return replace(found, bound=np.inf)
    return found


def _list_plans(search: _Search, cell: Cell, table: CostTable) -> IntArray | None:
    """Every plan of this interval that could beat the best one; None if there are too many.

    The cost of a plan is at least a function linear in the deadline, so that it is at least the
    objective if it is so at both ends.
    """
    trade = search.trade
    lists = []
    for end in (cell.low_s, cell.high_s):
        cost = table.loss + cell.price * table.taken(cell.high_s - end)
        base = float(cost.min(axis=0).sum()) - cell.price * trade.bandwidth_hz
        budget = search.objective * (1.0 + 1e-12) - base - trade.latency_cost(end)
        plans = plans_within(cost, budget, LISTED_PLANS)
        if plans is None:
            return None
        lists.append(plans)
    return np.unique(np.concatenate(lists), axis=0)


def _halving_is_vain(search: _Search, cell: Cell) -> bool:
    """Whether the bound at the right end alone, which no division can exceed, is hardly higher."""
    if not _is_narrow(search, cell, 0.02):
        return False
    rest = search.objective - cell.bound
    end = replace(cell, low_s=cell.high_s)
    point, _ = bound_cell(search.trade, end, np.inf, 0.02 * rest, cell.options[-1])
    return point.bound - cell.bound <= 0.2 * rest


def _is_narrow(search: _Search, cell: Cell, share: float) -> bool:
    """Whether the tangents' error, about the square of the width, is within a share of the rest."""
    width = (cell.high_s - cell.low_s) / (cell.high_s + _shortest_slack(search.trade))
    return width * width <= share * search.shortfall(cell)


def _shortest_slack(trade: RankTrade) -> float:
    """The head start of the last client that has anything to send."""
    busy = trade.options.bits(trade.columns, trade.columns * 0) > 0
    return float(trade.slack_s[busy].min()) if busy.any() else 0.0


def _halves(trade: RankTrade, cell: Cell) -> list[Cell]:
    """Both halves in the logarithm of the time to send, since bandwidth goes as one over it."""
    slack = _shortest_slack(trade)
    middle = float(np.sqrt((cell.low_s + slack) * (cell.high_s + slack)) - slack)
    if not cell.low_s < middle < cell.high_s:
        middle = 0.5 * (cell.low_s + cell.high_s)
    if not cell.low_s < middle < cell.high_s:
        return []
    return [replace(cell, high_s=middle), replace(cell, low_s=middle)]


def _branches(search: _Search, cell: Cell) -> list[Cell]:
    """The cell once with fewer and once with more options for the client that matters most.

    The price cannot decide between two options of about equal cost; what it leaves open is
    greatest where they differ most in bandwidth.
    """
    trade = search.trade
    table = CostTable(trade, cell.high_s, cell.options[-1], cell.limits)
    if not table.whole or not trade.options.complete:
        return []
    cost = table.loss + cell.price * table.band
    best = np.argmin(cost, axis=0)
    extra = cost - cost[best, trade.columns]
    with np.errstate(invalid="ignore"):
        stake = cell.price * np.abs(table.band - table.band[best, trade.columns]) - extra
    stake = np.where(extra <= search.objective - cell.bound, stake, -np.inf)
    stake[best, trade.columns] = -np.inf
    other, client = np.unravel_index(int(np.argmax(stake)), stake.shape)
    if not stake[other, client] > 0:
        return []
    low, high = sorted((int(best[client]), int(other)))
    least, most = cell.limits.get(int(client), (0, table.rows - 1))
    cut = (low + high) // 2
    return [
        replace(cell, limits={**cell.limits, int(client): part})
        for part in ((least, cut), (cut + 1, most))
    ]


def _cells_of_sample(search: _Search, whole: Cell) -> list[Cell]:
    """Intervals and prices that suit a sample of the clients with its share of band and queue.

    Its best deadline and price also give a first plan, improved by each client's own answer.
    """
    trade = search.trade
    chosen = trade.columns[:: max(len(trade) // _SAMPLE, 1)]
    share = len(chosen) / len(trade)
    earlier = float(trade.slack_s[chosen].min())
    sample = RankTrade(
        trade.links.select(chosen),
        trade.options.select(chosen),
        trade.gain[chosen],
        trade.queue * share,
        trade.slack_s[chosen] - earlier,
        trade.start_s - earlier,
        trade.bandwidth_hz * share,
        trade.smooth,
    )
    result = search_deadlines(sample, 0.8 * search.gap)
    cells = _merged(sample, result, search.gap)
    if not cells:
        return [whole]
    highs = np.array([cell.high_s for cell in cells]) - earlier
    prices = np.array([cell.price for cell in cells])
    best = float(np.clip(result.headroom_s - earlier, whole.low_s, whole.high_s))
    price = float(np.interp(best, highs, prices))
    search.offer(options_at_price(trade, best, price)[None])
    while search.gains(answer_to_price(trade, search.option, search.headroom_s)[None]):
        pass
    inner = highs[(highs > whole.low_s) & (highs < whole.high_s)]
    ends = [whole.low_s, *inner.tolist(), whole.high_s]
    return [
        Cell(low, high, -np.inf, float(np.interp(high, highs, prices)))
        for low, high in itertools.pairwise(ends)
    ]


def _merged(trade: RankTrade, result: SearchResult, gap: float) -> list[Cell]:
    """The intervals of a search in ascending order, joined where one bound does for two."""
    enough = result.objective * (1.0 - 0.8 * gap)
    joined: list[Cell] = []
    for cell in sorted(result.cells, key=lambda cell: cell.low_s):
        if joined:
            both = replace(cell, low_s=joined[-1].low_s, limits={})
            both, _ = bound_cell(trade, both, enough, 0.05 * gap * result.objective)
            if both.bound >= enough:
                joined[-1] = both
                continue
        joined.append(cell)
    return joined
