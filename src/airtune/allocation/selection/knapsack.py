"""The most weight within the band at one deadline: a knapsack, its bound, and a search.

With equal weights the clients of least bandwidth are an optimum. Otherwise clients are taken in the
order of bandwidth per weight, and a depth-first search improves on it. No choice has more weight
than the linear relaxation, in which the client at the edge of the band takes part in part.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airtune.allocation.selection.problem import ROUNDING, BoolArray, SelectionProblem
from airtune.quantities import FloatArray

_EQUAL = 1e-9
# Relative: weights that differ by less are the same, and a count is told from the next one.
_Taken = tuple[int, "_Taken"] | None


@dataclass(frozen=True)
class Choice:
    """Clients [client], their weight, and a weight that no choice exceeds."""

    chosen: BoolArray
    weight: float
    bound: float


def greedy_choice(problem: SelectionProblem, deadline_s: float) -> Choice:
    """In the order of bandwidth per weight; after the first that does not fit, those that do.

    Of equal weights an optimum.
    """
    need = problem.need_hz(deadline_s)
    return _greedy(problem, need, _ordered(problem, need))


def best_choice(problem: SelectionProblem, deadline_s: float, nodes: int) -> Choice:
    """The greedy choice, improved by a search of so many nodes, whose end proves it."""
    need = problem.need_hz(deadline_s)
    order = _ordered(problem, need)
    first = _greedy(problem, need, order)
    if first.weight >= first.bound * (1.0 - ROUNDING):
        return first
    band = problem.bandwidth_hz * (1.0 + ROUNDING)
    best, taken, proven = _depth_first(
        need[order], problem.weight[order], (band, first.weight), nodes
    )
    chosen = first.chosen
    if taken is not None:
        chosen = np.zeros(len(problem), dtype=np.bool_)
        chosen[order[taken]] = True
    return Choice(chosen, best, min(best, first.bound) if proven else first.bound)


def in_this_order(
    problem: SelectionProblem, deadline_s: float, order: NDArray[np.intp]
) -> BoolArray:
    """Clients that still fit, in this order [client]; those of weight 0 take no band."""
    need = problem.need_hz(deadline_s)
    chosen = np.zeros(len(problem), dtype=np.bool_)
    counting = order[problem.weight[order] > 0]
    _add(chosen, need, counting, problem.bandwidth_hz * (1.0 + ROUNDING))
    return chosen


def trimmed(problem: SelectionProblem, chosen: BoolArray, share: float, at_s: float) -> BoolArray:
    """Without clients whose weight the share does not need, those of most bandwidth first."""
    need = problem.need_hz(at_s)
    spare = float(problem.weight[chosen].sum()) - share * (1.0 - ROUNDING)
    kept = chosen.copy()
    clients = np.flatnonzero(chosen)
    for client in clients[np.argsort(-need[clients], kind="stable")]:
        if problem.weight[client] <= spare:
            kept[client] = False
            spare -= float(problem.weight[client])
    return kept


def _ordered(problem: SelectionProblem, need: FloatArray) -> NDArray[np.intp]:
    """Clients that could be in time, least bandwidth per weight first."""
    able = np.flatnonzero(np.isfinite(need) & (problem.weight > 0))
    order: NDArray[np.intp] = able[np.argsort(need[able] / problem.weight[able], kind="stable")]
    return order


def _greedy(problem: SelectionProblem, need: FloatArray, order: NDArray[np.intp]) -> Choice:
    weight, band = problem.weight[order], problem.bandwidth_hz * (1.0 + ROUNDING)
    used = np.cumsum(need[order])
    whole = int(np.searchsorted(used, band, side="right"))
    chosen = np.zeros(len(problem), dtype=np.bool_)
    chosen[order[:whole]] = True
    bound = float(weight[:whole].sum())
    if whole == len(order):
        return Choice(chosen, bound, bound)
    left = band - (float(used[whole - 1]) if whole else 0.0)
    bound += float(weight[whole] * left / need[order[whole]])
    if weight.max() - weight.min() <= _EQUAL * weight.max():
        # Any clients have a whole multiple of the one weight, and these are the most clients.
        mean = float(weight.mean())
        bound = max(mean * math.floor(bound / mean + _EQUAL), float(problem.weight[chosen].sum()))
        return Choice(chosen, float(problem.weight[chosen].sum()), bound)
    _add(chosen, need, order[whole:], left)
    return Choice(chosen, float(problem.weight[chosen].sum()), bound)


def _add(chosen: BoolArray, need: FloatArray, order: NDArray[np.intp], left_hz: float) -> None:
    """Take each client that still fits, in this order."""
    for client, width in zip(order.tolist(), need[order].tolist(), strict=True):
        if width <= left_hz:
            chosen[client] = True
            left_hz -= width


def _depth_first(
    need: FloatArray, weight: FloatArray, start: tuple[float, float], nodes: int
) -> tuple[float, list[int] | None, bool]:
    """The best weight within the band, who has it, and whether all was searched.

    Entries are in the order of need per weight, so that a node's bound is a prefix sum; `start` is
    the band and a weight that is known. None where nothing better was found.
    """
    band_hz, best = start
    ahead_need = np.concatenate([[0.0], np.cumsum(need)])
    ahead_weight = np.concatenate([[0.0], np.cumsum(weight)])
    best_taken: _Taken = None
    stack: list[tuple[int, float, float, _Taken]] = [(0, band_hz, 0.0, None)]
    for _ in range(nodes):
        if not stack:
            break
        place, left, have, taken = stack.pop()
        if have > best * (1.0 + ROUNDING):
            best, best_taken = have, taken
        if place == len(need):
            continue
        # All that follow as long as they fit, and the next one in part.
        end = int(np.searchsorted(ahead_need, ahead_need[place] + left, side="right")) - 1
        most = have + ahead_weight[end] - ahead_weight[place]
        if end < len(need):
            most += weight[end] * (left - (ahead_need[end] - ahead_need[place])) / need[end]
        if most <= best * (1.0 + ROUNDING):
            continue
        stack.append((place + 1, left, have, taken))
        if need[place] <= left:
            inside = (place + 1, left - need[place], have + weight[place], (place, taken))
            stack.append(inside)
    return float(best), _unrolled(best_taken), not stack


def _unrolled(taken: _Taken) -> list[int] | None:
    if taken is None:
        return None
    places: list[int] = []
    while taken is not None:
        place, taken = taken
        places.append(place)
    return places[::-1]
