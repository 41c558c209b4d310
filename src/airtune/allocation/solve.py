"""The tools of every planner: an answer with a certificate, and two searches.

Every planner solves: at round deadline tau, what is the least loss that lets all clients finish
within the resource budget? For a fixed deadline one price on the resource splits the budget
(`clearing_price`), and the need falls with the deadline, so that the smallest deadline whose need
fits the budget (`smallest_deadline`) is the global optimum.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Generic, TypeVar

PlanT = TypeVar("PlanT")

OPTIMALITY = 1e-9
"""Relative distance to a proven bound below which a plan is called optimal."""


class Status(StrEnum):
    """What a solver has proven about its answer."""

    OPTIMAL = "optimal"
    """A proven lower bound meets the objective within the solver's tolerance."""
    FEASIBLE = "feasible"
    """Every constraint holds; where there is a bound, the gap is the distance from it."""
    INFEASIBLE = "infeasible"
    """No plan exists (for a restricted solver: none of its kind); the message has the reason."""


@dataclass(frozen=True)
class Check:
    """What an independent feasibility function found; it shares no code with the solvers.

    Attributes:
        excess: for each constraint, by how much it is exceeded relative to its limit; <= 0 holds.
        tolerance: how much of that is rounding.
    """

    excess: Mapping[str, float]
    tolerance: float = 1e-9

    @property
    def passed(self) -> bool:
        """Whether every constraint holds; a NaN never passes."""
        return all(value <= self.tolerance for value in self.excess.values())

    @property
    def worst(self) -> tuple[str, float]:
        """The constraint with the largest excess, and that excess."""
        return max(
            self.excess.items(), key=lambda item: math.inf if math.isnan(item[1]) else item[1]
        )


@dataclass(frozen=True)
class Solution(Generic[PlanT]):
    """A solver's answer: the plan, what it is worth, and how sure that is.

    Attributes:
        plan: the decisions; None if infeasible.
        message: one sentence for the user; it names the client or the limit that binds.
        objective: what was minimised, recomputed from the plan; None if infeasible.
        lower_bound: no plan can do better than this; None where nothing is proven.
        iterations: of the outermost loop.
        solve_time_s: wall time of the solver, without the check and without a heuristic's bound.
        trace: the objective after each iteration of an iterative solver.
        check: the independent feasibility check of the plan; None if infeasible.
    """

    status: Status
    message: str
    solver: str
    plan: PlanT | None = None
    objective: float | None = None
    lower_bound: float | None = None
    iterations: int = 0
    solve_time_s: float = 0.0
    trace: tuple[float, ...] = ()
    check: Check | None = None

    @property
    def gap(self) -> float | None:
        """objective / lower_bound - 1; 0 if both are 0, None without a bound."""
        if self.objective is None or self.lower_bound is None:
            return None
        if self.objective == self.lower_bound:
            return 0.0
        return self.objective / self.lower_bound - 1.0 if self.lower_bound > 0 else math.inf


class BrokenPlanError(RuntimeError):
    """A solver returned a plan that breaks a constraint: a defect of airtune, never of the input.

    >>> str(BrokenPlanError("exact", Check({"bandwidth": 0.5})))
    "solver exact exceeds 'bandwidth' by 5e-01 (relative); please report this defect"
    """

    def __init__(self, solver: str, check: Check) -> None:
        name, excess = check.worst
        super().__init__(
            f"solver {solver} exceeds {name!r} by {excess:.0e} (relative); "
            "please report this defect"
        )


def checked(solution: Solution[PlanT], check: Callable[[PlanT], Check]) -> Solution[PlanT]:
    """The solution with its independent check; raises BrokenPlanError if the plan fails it."""
    if solution.plan is None:
        return solution
    verdict = check(solution.plan)
    if not verdict.passed:
        raise BrokenPlanError(solution.solver, verdict)
    return replace(solution, check=verdict)


class SolveTimer:
    """Wall time since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start


@dataclass(frozen=True)
class Bracket:
    """Two ends around a threshold: `low` does not suffice, `high` does."""

    low: float
    high: float
    iterations: int
    trace: tuple[float, ...] = ()


Evaluation = tuple[float, float]
"""A value and its derivative; NaN for a derivative that is not known."""

PRICE_STEP = 1e-4
"""Newton's last step in ln(price); what is left is its square, and a cost at the clearing price
errs by the square of that."""
_MAX_STEPS = 200
# Bisection alone needs about 50; the bound only ends the loop in case of a defect.


def smallest_deadline(
    need: Callable[[float], Evaluation],
    budget: float,
    low: float,
    high: float,
    start: float | None = None,
    relative_width: float = 1e-12,
) -> Bracket:
    """Bracket the smallest deadline whose need fits the budget.

    `need` falls with the deadline; it may be infinite. Newton's iteration runs on `1 / need`, a
    straight line in the deadline where all clients start together at fixed spectral efficiency.
    It starts from the left, where it hardly overshoots, and bisection takes over where a step
    does not halve the (logarithmic) distance to the budget.

    Args:
        need: deadline -> (resource needed, its derivative).
        low: a deadline below which nothing suffices, whatever the budget; it may itself suffice.
        high: a deadline that suffices.
        start: where to begin, `low` by default.
        relative_width: the bracket is closed to this width relative to its upper end.

    Returns:
        The bracket; its trace holds the smallest sufficient deadline after each evaluation.
    """
    trace = []
    deadline = low if start is None else min(max(start, low), high)
    floor, distance = low, math.inf
    for _ in range(_MAX_STEPS):
        value, slope = need(deadline)
        fits = value <= budget
        low, high = (low, deadline) if fits else (deadline, high)
        trace.append(high)
        if high - low <= relative_width * high:
            break
        jump = value / budget * (value - budget) / -slope if slope < 0 else math.nan
        # Landing a little beyond the root lets the next evaluation close the bracket's other end.
        beyond = math.copysign(0.3 * relative_width * deadline, -1.0 if fits else 1.0)
        proposal = deadline + jump + beyond
        before, distance = distance, abs(math.log(value / budget)) if value > 0 else math.inf
        if not low < proposal < high and low == floor:
            # Newton leaves the bracket: the answer may be its very end, which is still untried.
            deadline, floor = low + 0.5 * relative_width * low, -math.inf
        elif low < proposal < high and distance <= 0.5 * before:
            deadline = proposal
        else:
            deadline = low + 0.5 * (high - low)
    return Bracket(low, high, len(trace), tuple(trace))


@dataclass(frozen=True)
class Price:
    """The logarithm of a clearing price, and a bracket in which demand and supply cross."""

    point: float
    low: float
    high: float
    iterations: int


def clearing_price(
    excess: Callable[[float], Evaluation],
    low: float,
    high: float,
    start: float,
    enough: Callable[[float], bool] = lambda _step: False,
    last_step: float = PRICE_STEP,
) -> Price:
    """The logarithm of the price at which demand meets supply.

    Newton's iteration inside the bracket. Where demand jumps, bisection closes the bracket around
    the jump to rounding, so that a mixture of the answers at both ends clears the market.

    Args:
        excess: falls with the log price; positive at `low`, not positive at `high`.
        enough: called with Newton's next step after each evaluation; True ends the search.
        last_step: a step below which Newton's iteration is trusted to have arrived; 0: never.
    """
    price = min(max(start, low), high)
    distance = math.inf
    steps = 0
    while high - low > 4e-16 * max(1.0, abs(low), abs(high)) and steps < _MAX_STEPS:
        steps += 1
        value, slope = excess(price)
        low, high = (price, high) if value > 0 else (low, price)
        proposal = price - value / slope if slope < 0 else math.nan
        if enough(abs(proposal - price)):
            return Price(price, low, high, steps)
        if abs(proposal - price) < last_step:
            margin = 10.0 * last_step**2
            around = max(low, proposal - margin), min(high, proposal + margin)
            return Price(min(max(proposal, around[0]), around[1]), *around, steps)
        before, distance = distance, abs(value)
        newton_works = low < proposal < high and distance <= 0.5 * before
        price = proposal if newton_works else low + 0.5 * (high - low)
    return Price(high, low, high, steps)
