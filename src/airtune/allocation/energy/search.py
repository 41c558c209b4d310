"""The deadline of the optimum: the least one, the weighted one, and that of an energy budget."""

import math
from collections.abc import Callable

import numpy as np

from airtune.allocation.bandwidth import Uploads, minmax_shares
from airtune.allocation.energy.balance import LOOSE
from airtune.allocation.energy.deadline import FULL, LeastEnergy, Response
from airtune.allocation.energy.problem import EnergyProblem
from airtune.allocation.energy.root import falling_root
from airtune.allocation.solve import OPTIMALITY, Bracket, Evaluation, smallest_deadline

_NEAREST = 1e-9
# Of the least deadline: a deadline nearer to it is the least one.
_LONGEST = 1e40
# Times the least deadline: beyond it nothing more can be saved.
_FIRST = 0.05
# The same: where the search begins.
_FLAT = 1e-7
# Relative: how exactly V' meets the weights; the cost errs by the square of that.
_ROUGH = 1e-6
# Of the band: how exactly it is filled while the deadline is sought; costs err by the square.
_MOST_STEPS, _LONGEST_STEP = 30, 2.0
# Of the search for price and deadline together, in logarithms.
_TIGHT = 1e-11
# Relative: how exactly an energy budget is met.
_ROUNDING = 1e-15
# Of the deadline: what no search can tell apart.
_Surplus = tuple[float, float, float]
"""A value that falls with the deadline; its derivatives in ln(price) and in the deadline."""


class DeadlineSearch:
    """The deadlines of one problem, whose clients and budgets allow some plan.

    Attributes:
        curves: what clients choose at a deadline.
        least_s: the least deadline that any plan keeps; inf where the clients' energy budgets ask
            for more than the band at any.
        evaluations: how many deadlines were looked at.
    """

    def __init__(self, problem: EnergyProblem, least_j: float) -> None:
        self.problem, self.evaluations = problem, 0
        self.curves = LeastEnergy(problem)
        self._least_j = least_j
        self.least_s = self._least_deadline()

    def at(self, deadline_s: float, accuracy: float = FULL) -> Response:
        """The least energy at a deadline."""
        self.evaluations += 1
        if not self.is_least(deadline_s):
            return self.curves.at(deadline_s, accuracy)
        floors, _ = self.curves.floor_hz(self.least_s)
        if float(floors.sum()) < self.problem.bandwidth_hz * (1.0 - OPTIMALITY):
            return self.curves.at(self.least_s)
        # Nothing is left to divide, and the price is not unique.
        return self.curves.at_floors(self.least_s)

    def is_least(self, deadline_s: float) -> bool:
        """Whether a deadline is the least one, but for rounding."""
        return deadline_s <= self.least_s * (1.0 + 0.1 * _NEAREST)

    @property
    def nearest_s(self) -> float:
        """The first deadline that is told from the least one."""
        return min((1.0 + _NEAREST) * self.least_s, self.problem.deadline_s)

    def _least_deadline(self) -> float:
        problem = self.problem
        start_s = problem.fixed_delay_s + problem.compute_s
        uploads = Uploads(problem.links, problem.payload_bits, start_s, problem.bandwidth_hz)
        _, bracket = minmax_shares(uploads)
        if np.isfinite(problem.client_budget_j).any():
            bracket = self._within_budgets(bracket)
        return bracket.high

    def _within_budgets(self, bracket: Bracket) -> Bracket:
        """The same with the clients' energy budgets, which ask for more bandwidth or more time."""

        def need(deadline_s: float) -> Evaluation:
            floor, slope = self.curves.floor_hz(deadline_s)
            total = float(floor.sum())
            return total, float(slope.sum()) if math.isfinite(total) else math.nan

        high = bracket.high
        while need(high)[0] > self.problem.bandwidth_hz:
            # At a fixed efficiency sending costs energy by its bandwidth alone, however long.
            if high >= _LONGEST * bracket.high:
                return Bracket(high, math.inf, 0)
            high *= 2.0
        return smallest_deadline(need, self.problem.bandwidth_hz, bracket.low, high)

    def weighted(self) -> float:
        """Where `lam_e V' = -lam_t`, at least the least deadline, at most the limit."""
        problem = self.problem
        if problem.energy_weight == 0.0:
            return self.least_s
        if problem.time_weight == 0.0:
            return problem.deadline_s
        worth_w = problem.time_weight / problem.energy_weight

        def surplus(found: Response) -> _Surplus:
            worth = found.worth_w
            if worth <= 0.0:
                return -math.inf, 0.0, math.nan
            value = math.log(worth / worth_w)
            return value, found.worth_by_price / worth, found.worth_by_time / worth

        return self._deadline(surplus, self.least_s, _FLAT)

    def affordable(self, weighted_s: float) -> float:
        """The least deadline from this one on at which the energy is within its budget."""
        budget = self.problem.budget_j
        if budget == math.inf:
            return weighted_s
        if not self.is_least(weighted_s) and self.at(weighted_s).energy_j <= budget:
            return weighted_s
        least = self._least_j

        def over(found: Response) -> _Surplus:
            above = max(found.priced_j - least, 1e-300)
            return math.log(above / (budget - least)), 0.0, -found.worth_w / above

        return self._deadline(over, weighted_s, _TIGHT)

    def _deadline(
        self, surplus: Callable[[Response], _Surplus], from_s: float, accuracy: float
    ) -> float:
        """The root of a function that falls with the deadline, sought in ln(tau - least tau)."""
        least = self.least_s
        nearest = math.log(max(_NEAREST * least, from_s - least))
        longest = min(_LONGEST * least, self.problem.deadline_s - least)
        if longest <= math.exp(nearest):
            return from_s
        farthest = math.log(longest)

        def function(place: float) -> Evaluation:
            beyond = math.exp(place)
            # Just beyond the least deadline little of the band is free to move.
            found = self.at(least + beyond, max(_ROUGH * min(1.0, beyond / least), FULL))
            value, by_price, by_time = surplus(found)
            if abs(value) <= _ROUNDING * found.deadline_s * abs(by_time):
                value = 0.0
            return value, (by_time + by_price * found.drift) * beyond

        edges = nearest, farthest
        start = min(max(nearest + 1.0, math.log(_FIRST * least)), farthest)
        together = self._together(surplus, start, edges, accuracy)
        place = falling_root(function, start, edges, accuracy) if together is None else together
        if place <= nearest:
            return from_s
        at_limit = place >= farthest and self.problem.deadline_s < math.inf
        return self.problem.deadline_s if at_limit else least + math.exp(place)

    def _together(
        self,
        surplus: Callable[[Response], _Surplus],
        place: float,
        edges: tuple[float, float],
        accuracy: float,
    ) -> float | None:
        """The same root by Newton's iteration on deadline and price at once, or None.

        It mostly arrives, in a quarter of the time: a step costs one pass over the clients, whose
        values of time follow the tangent (`deadline.py`). The step is that along V, where the band
        is filled: with f the surplus, U = ln(used / band) and y = ln(tau - least tau),

            dy = -(f - U f_m / U_m) / (f_y - f_m U_y / U_m),   d ln m = -(U + U_y dy) / U_m.

        Cut to `_LONGEST_STEP`, so that a price goes with the deadline that is reached. Clients'
        budgets have prices of their own.
        """
        curves, least = self.curves, self.least_s
        if not len(curves.sending) or np.isfinite(self.problem.client_budget_j).any():
            return None
        price = curves.first_price(least + math.exp(place))
        for _ in range(_MOST_STEPS):
            self.evaluations += 1
            beyond = math.exp(place)
            found = curves.respond(least + beyond, price, LOOSE)
            value, by_price, by_time = surplus(found)
            value += by_price * found.fill
            slope = (by_time + by_price * found.drift) * beyond
            if not math.isfinite(value + found.fill + found.drift):
                return None
            exact = max(accuracy, _ROUNDING * found.deadline_s * abs(by_time))
            step = -value / slope if slope < 0 else 0.0
            ends = place <= edges[0] if value < 0 else place >= edges[1]
            if _settled(found, beyond, exact) and (abs(value) <= exact or ends):
                return min(max(place + step, edges[0]), edges[1])
            before, place = place, min(max(place + _cut(step), edges[0]), edges[1])
            price += _cut(found.fill + found.drift * beyond * (place - before))
        return None


def _settled(found: Response, beyond_s: float, accuracy: float) -> bool:
    """Whether the band is filled and clients have arrived, so far that a surplus is as accurate."""
    free = max(_ROUGH * min(1.0, abs(found.used_by_time) * beyond_s), FULL)
    return abs(found.used) <= free and found.moved**2 <= accuracy


def _cut(step: float) -> float:
    return max(-_LONGEST_STEP, min(_LONGEST_STEP, step))
