"""Lower bounds on the sparsity problem over a whole interval of deadlines.

For a price p >= 0 on bandwidth, every plan that meets the deadline t within the band B costs at
least `sum_n min_k [gain_n dropped_nk + p b_nk(t)] - p B + Q t`, where `b_nk(t)` is the bandwidth
that client n needs for its option k. As a function of t this is neither convex nor unimodal.
But `b_nk` is convex in t, so its tangent at the right end t2 of an interval lies below it; with
tangents, each bracket is a minimum of linear functions, hence concave, and so is the sum: over
[t1, t2] it is least at one of the two ends. The bound is exact at t2, and its error over the
interval is of second order in `(t2 - t1) / (t2 - start)`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from airtune.allocation.bandwidth import common_headroom, needed_bandwidth
from airtune.allocation.sparsity.options import TABLE_ENTRIES, IntArray, RankOptions
from airtune.quantities import FloatArray
from airtune.wireless.rate import Links

WINDOW = 5
"""Options of a client that are costed together where there are too many for all of them."""
_PRICE_STEPS = 80
_FIRST_STRIDE, _LONGEST_STRIDE = 1.1, 8.0
# Factors of the price: that of a neighbouring interval is near, a first guess may not be.
_WIDE = 0.1
# Of the deadline: the ends of a wider interval suit different options.
_ROUNDING = 1e-14


@dataclass(frozen=True)
class RankTrade:
    """Energy against latency: `min sum_n gain_n dropped_n(k_n) + queue (start + headroom)`.

    Attributes:
        links: concave rates [client].
        options: what each client may keep.
        gain: objective per unit of dropped energy [client], >= 0.
        queue: objective per second of latency, > 0.
        slack_s: how long before `start_s` each client starts to send [client]; 0 for the last.
        start_s: when the last client starts to send.
        smooth: whether `R / r'(b(R))` is convex in R, as for Shannon's formula and fixed
            efficiencies. A window of options then holds the best one for the tangents as well;
            without it the bound takes the bandwidth at the right end of the interval instead
            (first order), unless all options are costed.
    """

    links: Links
    options: RankOptions
    gain: FloatArray
    queue: float
    slack_s: FloatArray
    start_s: float
    bandwidth_hz: float
    smooth: bool
    columns: IntArray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", np.arange(len(self.gain)))

    def __len__(self) -> int:
        return len(self.gain)

    def headroom(self, option: IntArray, guess_s: float = 0.0) -> FloatArray:
        """Least headroom for these options [..., client] -> [...]."""
        bits = self.options.bits(self.columns, option)
        return common_headroom(self.links, bits, self.slack_s, self.bandwidth_hz, guess_s)

    def loss(self, option: IntArray) -> FloatArray:
        """Weighted dropped energy of these options [..., client] -> [...]."""
        loss: FloatArray = (self.gain * self.options.dropped_at(self.columns, option)).sum(axis=-1)
        return loss

    def latency_cost(self, headroom_s: float) -> float:
        """`queue x latency`."""
        return self.queue * (self.start_s + headroom_s)


Limits = dict[int, tuple[int, int]]
"""Client -> the least and the most option that a branch of the search leaves it."""


class CostTable:
    """Energy and bandwidth of the options around the best, for a deadline and just before it.

    Rows are options, columns clients. The cost is convex along the options, so the best is
    inside the window or at an end of the list; columns move along until it is.

    Attributes:
        whole: whether the rows are all options.
        loss: weighted dropped energy [row, client].
        band: bandwidth needed for the deadline [row, client].
        fall: what each second of an earlier deadline adds to it, by the tangent [row, client].
    """

    def __init__(self, trade: RankTrade, headroom_s: float, near: IntArray, limits: Limits) -> None:
        self.trade, self.time_s = trade, headroom_s + trade.slack_s
        options = trade.options.dropped.shape[1]
        self.whole = trade.options.dropped.size <= TABLE_ENTRIES
        self.rows = options if self.whole else min(WINDOW, options)
        self.last_first = np.maximum(trade.options.count - self.rows, 0)
        self.first = np.clip(near - self.rows // 2, 0, self.last_first)
        self.loss, self.band, self.fall = self._costs(slice(None), trade.links)
        for client, (least, most) in limits.items():
            self.loss[:least, client] = self.loss[most + 1 :, client] = np.inf

    def _costs(
        self, part: IntArray | slice, links: Links
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Loss, band and fall of some clients [row, client]; `links` are theirs."""
        trade, options = self.trade, self.trade.options
        clients = trade.columns[part]
        last = options.dropped.shape[1] - 1
        option = np.minimum(self.first[part] + np.arange(self.rows)[:, None], last)
        band, fall = needed_bandwidth(links, options.bits(part, option), self.time_s[part])
        dropped = options.dropped_at(clients, option)
        if options.floor_dropped is not None:
            dropped = np.where(option == 0, options.floor_dropped[part], dropped)
        if not trade.smooth and not self.whole:
            fall = np.zeros_like(fall)
        return trade.gain[part] * dropped, band, fall

    def taken(self, earlier_s: float, clients: IntArray | slice = slice(None)) -> FloatArray:
        """Bandwidth by the tangent, this much before the deadline [row, client]."""
        band = self.band[:, clients]
        return band + earlier_s * self.fall[:, clients] if earlier_s else band

    def cheapest(self, price: float, earlier_s: float = 0.0) -> tuple[float, float, IntArray]:
        """`sum_n min_k [loss + price band]`, the band it takes, and the options [client]."""
        columns = self.trade.columns
        band = self.taken(earlier_s)
        cost = self.loss + price * band
        row = np.argmin(cost, axis=0)
        value, taken = cost[row, columns], band[row, columns]
        moved = self._open_edge(row, columns)
        while len(moved):
            self._move(row[moved], moved)
            band = self.taken(earlier_s, moved)
            cost = self.loss[:, moved] + price * band
            row[moved] = best = np.argmin(cost, axis=0)
            value[moved] = cost[best, np.arange(len(moved))]
            taken[moved] = band[best, np.arange(len(moved))]
            moved = self._open_edge(best, moved)
        if not self.trade.options.complete:
            value, taken = self._between_options(price, self.taken(earlier_s), row, value, taken)
        return float(value.sum()), float(taken.sum()), self.first + row

    def _move(self, row: IntArray, clients: IntArray) -> None:
        """Move the windows of some clients towards the edge at which their best row is."""
        step = max(self.rows - 2, 1)
        first = self.first[clients] + np.where(row == 0, -step, step)
        self.first[clients] = np.clip(first, 0, self.last_first[clients])
        costs = self._costs(clients, self.trade.links.select(clients))
        self.loss[:, clients], self.band[:, clients], self.fall[:, clients] = costs

    def _open_edge(self, row: IntArray, clients: IntArray) -> IntArray:
        """Those of the clients whose best row is at an edge of a window that could still move."""
        if self.whole:
            return clients[:0]
        first = self.first[clients]
        high = (row == self.rows - 1) & (first < self.last_first[clients])
        moved: IntArray = clients[high | ((row == 0) & (first > 0))]
        return moved

    def _between_options(
        self, price: float, band: FloatArray, row: IntArray, value: FloatArray, taken: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """A lower bound on `loss + price band` over all numbers of bits beside the best option.

        Between two options the loss is linear in the bits, and the band, convex in the bits, lies
        above the continuation of its chords from either side. Returns the bound and the band that
        goes with it.
        """
        options, columns = self.trade.options, self.trade.columns
        last = options.dropped.shape[1] - 1
        option = np.minimum(self.first + np.arange(self.rows)[:, None], last)
        bits = options.bits(columns, option)
        with np.errstate(invalid="ignore", divide="ignore"):
            length = np.diff(bits, axis=0)
            chord = np.where(length > 0, np.diff(band, axis=0) / length, 0.0)
            loss_slope = np.where(length > 0, np.diff(self.loss, axis=0) / length, 0.0)
        edge = np.zeros((1, len(columns)))
        before = np.concatenate([edge, chord[:-1]])
        after = np.concatenate([chord[1:], edge + np.inf])
        # The second one behind counts where the first is empty: two options of the same bits.
        for segment in (row - 1, row, row + 1):
            there = (segment >= 0) & (self.first + segment + 1 < options.count)
            at = np.clip(segment, 0, self.rows - 2), columns
            with np.errstate(invalid="ignore", divide="ignore"):
                meets = (chord[at] - after[at]) * length[at] / (before[at] - after[at])
                meets = np.where(np.isfinite(meets), np.clip(meets, 0.0, length[at]), length[at])
                least_band = band[at] + before[at] * meets
                least = self.loss[at] + loss_slope[at] * meets + price * least_band
            better = there & (least < value)
            value, taken = np.where(better, least, value), np.where(better, least_band, taken)
        return value, taken


def options_at_price(trade: RankTrade, headroom_s: float, price: float) -> IntArray:
    """Each client's best option of a convex cost, by bisection on the last one worth its price."""

    def extra_band(option: IntArray) -> FloatArray:
        pair = trade.options.bits(trade.columns, np.stack([option - 1, option]))
        band, _ = needed_bandwidth(trade.links, pair, headroom_s + trade.slack_s)
        with np.errstate(invalid="ignore"):
            more: FloatArray = band[1] - band[0]
        return more

    return _last_worth(trade, price, extra_band)


def options_near(
    trade: RankTrade, headroom_s: float, earlier_s: float, price: float, guess: IntArray
) -> IntArray:
    """The same if a bit cost as much band everywhere as around `guess`; a guess as well.

    `earlier_s` before the deadline by the tangent, as in `CostTable.taken`.
    """
    options, columns = trade.options, trade.columns
    pair = np.stack([guess, guess + 1]) - (guess + 1 >= options.count)
    bits = options.bits(columns, np.maximum(pair, 0))
    band, fall = needed_bandwidth(trade.links, bits, headroom_s + trade.slack_s)
    with np.errstate(invalid="ignore", divide="ignore"):
        per_bit = np.diff(band + earlier_s * fall, axis=0)[0] / np.diff(bits, axis=0)[0]
    per_bit = np.where(np.isnan(per_bit), 0.0, per_bit)

    def extra_band(option: IntArray) -> FloatArray:
        more: FloatArray = options.bits(columns, option) - options.bits(columns, option - 1)
        return per_bit * more

    return _last_worth(trade, price, extra_band)


def _last_worth(
    trade: RankTrade, price: float, extra_band: Callable[[IntArray], FloatArray]
) -> IntArray:
    """The last option whose energy is worth the band that it takes above the one before."""
    options, columns = trade.options, trade.columns
    low, high = np.zeros(len(trade), dtype=np.intp), options.count - 1
    while (low < high).any():
        middle = np.maximum((low + high + 1) // 2, 1)
        saved = options.dropped_at(columns, middle - 1) - options.dropped_at(columns, middle)
        with np.errstate(invalid="ignore"):
            worth = trade.gain * saved > price * extra_band(middle)
        low, high = (
            np.where(worth, np.minimum(middle, high), low),
            np.where(worth, high, middle - 1),
        )
        high = np.maximum(high, low)
    return low


@dataclass(frozen=True)
class Cell:
    """An interval of headrooms with a proven bound on the objective of every plan inside it.

    Attributes:
        price: of bandwidth, where the bound is highest.
        options: what the clients choose at that price, at both ends of the interval.
        limits: options that the plans of this cell are restricted to.
    """

    low_s: float
    high_s: float
    bound: float
    price: float
    options: tuple[IntArray, ...] = ()
    limits: Limits = field(default_factory=dict)


def bound_cell(
    trade: RankTrade, cell: Cell, enough: float, tolerance: float, near: IntArray | None = None
) -> tuple[Cell, CostTable]:
    """The same interval with the best bound of this kind, from the cell's price onwards.

    The bound is the lesser of two concave functions of the price; tangents from either side close
    in on its maximum. The search ends as soon as the bound exceeds `enough`, or what is left to
    gain is below `tolerance` or a tenth of what it falls short of `enough` (inf: to `tolerance`).
    """
    ends = _end_tables(trade, cell, near)
    rise: tuple[float, float, float] | None = None
    fall: tuple[float, float, float] | None = None
    best, price, stride = replace(cell, bound=-np.inf), cell.price, _FIRST_STRIDE
    for _ in range(_PRICE_STEPS):
        value, slope, picked = _at_price(trade, ends, cell, price)
        if value > best.bound:
            best = replace(cell, bound=value, price=price, options=picked)
        if best.bound >= enough or slope == 0.0:
            break
        if slope > 0:
            rise = (price, value, slope)
        else:
            fall = (price, value, slope)
        if rise and fall:
            price, ceiling = _crossing(rise, fall)
            # A bound that stays short of `enough` is needed only to a tenth of what is missing.
            missing = 0.1 * (enough - ceiling) if enough < np.inf else 0.0
            if ceiling - best.bound <= max(tolerance, missing):
                break
        else:
            price *= stride if rise else 1.0 / stride
            stride = min(stride * stride, _LONGEST_STRIDE)
    return best, ends[1]


def _end_tables(trade: RankTrade, cell: Cell, near: IntArray | None) -> tuple[CostTable, CostTable]:
    """The costs for the low and for the high end; one table where it holds all options."""
    if near is None:
        near = options_at_price(trade, cell.high_s, cell.price)
    width = cell.high_s - cell.low_s
    few = trade.options.dropped.size <= TABLE_ENTRIES
    if not few and width > _WIDE * cell.high_s and cell.price > 0:
        # Each end has windows of its own: moving them to and fro would cost more.
        near_low = options_near(trade, cell.high_s, width, cell.price, near)
        low = CostTable(trade, cell.high_s, near_low, cell.limits)
        near = options_near(trade, cell.high_s, 0.0, cell.price, near)
        return low, CostTable(trade, cell.high_s, near, cell.limits)
    table = CostTable(trade, cell.high_s, near, cell.limits)
    return table, table


def _at_price(
    trade: RankTrade, ends: tuple[CostTable, CostTable], cell: Cell, price: float
) -> tuple[float, float, tuple[IntArray, ...]]:
    """The bound at this price, its derivative, and the options at both ends."""
    width = cell.high_s - cell.low_s
    results = []
    for end, table, earlier in zip((cell.low_s, cell.high_s), ends, (width, 0.0), strict=True):
        value, band, option = table.cheapest(price, earlier)
        # What rounding could have added is taken off again.
        value -= _ROUNDING * (value + price * trade.bandwidth_hz)
        value += trade.latency_cost(end) - price * trade.bandwidth_hz
        results.append((value, band - trade.bandwidth_hz, option))
    value, slope, _ = min(results, key=lambda result: result[:2])
    return value, slope, tuple(result[2] for result in results)


def _crossing(
    rise: tuple[float, float, float], fall: tuple[float, float, float]
) -> tuple[float, float]:
    """Where two tangents of a concave function meet, kept off the ends, and their height there."""
    gap = fall[0] - rise[0]
    at = (fall[1] - rise[1] - fall[2] * gap) / (rise[2] - fall[2])
    ceiling = rise[1] + rise[2] * at
    return rise[0] + float(np.clip(at, 0.05 * gap, 0.95 * gap)), ceiling
