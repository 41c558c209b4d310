"""Client selection solved: exactly where it can be proven, otherwise with the distance that is.

At a deadline this is the knapsack of `knapsack.py`. The least bandwidths fall with the deadline, so
the weight that can take part grows with it: no deadline suffices at which a bound is below the
share, and the least latency of any choice that has the share is one that does. The search closes in
between; with equal weights both meet, mostly after a few choices, since each choice's own least
latency is where the next one is sought.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np

from airtune.allocation.bandwidth import minmax_shares
from airtune.allocation.selection.knapsack import (
    Choice,
    best_choice,
    greedy_choice,
    in_this_order,
    trimmed,
)
from airtune.allocation.selection.problem import (
    ROUNDING,
    BoolArray,
    SelectionPlan,
    SelectionProblem,
    check_selection,
)
from airtune.allocation.solve import OPTIMALITY, Solution, SolveTimer, Status, checked
from airtune.quantities import FloatArray, format_duration
from airtune.seeds import generator

_Chooser = Callable[[SelectionProblem, float], Choice]
_NODES = 20_000
# Of the search at a deadline; what it has not settled by then, the bound states.
_NODES_OF_MANY = 2_000
# The same where a deadline is sought, of each that is tried.
_CLOSED = 1e-11
# Relative: how near the bound's deadline comes to the least one; bandwidths sum up to 1e-12.
_PASSES = 60
# Of that search: each halves what is left.


@dataclass(frozen=True)
class SelectionSolution(Solution[SelectionPlan]):
    """A solution that also states the most weight that can take part.

    At a given deadline the objective is the share of weight that stays out, and `most_share` one
    minus its bound. At a given share the objective is the latency; `most_share` is None.
    """

    most_share: float | None = None


def exact_selection(problem: SelectionProblem) -> SelectionSolution:
    """The optimum, or a choice with its proven distance from it."""
    nodes = _NODES if problem.deadline_s is not None else _NODES_OF_MANY
    return _solve(problem, "exact", partial(best_choice, nodes=nodes))


def greedy_selection(problem: SelectionProblem) -> SelectionSolution:
    """Clients in the order of bandwidth per weight, as long as they fit."""
    return _solve(problem, "greedy", greedy_choice)


def random_selection(problem: SelectionProblem) -> SelectionSolution:
    """Clients in a random order (the same at every call): who fits, or the first with the share."""
    watch, refused = SolveTimer(), _no_choice(problem, "random")
    if refused is not None:
        return refused
    order = generator(0, "random selection").permutation(len(problem))
    if problem.deadline_s is not None:
        chosen = in_this_order(problem, problem.deadline_s, order)
        best = greedy_choice(problem, problem.deadline_s).bound
        return _most(problem, "random", Choice(chosen, _weight(problem, chosen), best), watch)
    able = order[np.isfinite(problem.alone_s[order]) & (problem.weight[order] > 0)]
    gathered = np.cumsum(problem.weight[able])
    count = int(np.searchsorted(gathered, _target(problem) * (1.0 - ROUNDING))) + 1
    chosen = np.zeros(len(problem), dtype=np.bool_)
    chosen[able[:count]] = True
    return _least(problem, "random", (chosen, _relaxed_s(problem, _soonest(problem)[1])), watch)


def _solve(problem: SelectionProblem, solver: str, choose: _Chooser) -> SelectionSolution:
    watch, refused = SolveTimer(), _no_choice(problem, solver)
    if refused is not None:
        return refused
    if problem.deadline_s is not None:
        return _most(problem, solver, choose(problem, problem.deadline_s), watch)
    return _least(problem, solver, _least_deadline(problem, choose), watch)


def _no_choice(problem: SelectionProblem, solver: str) -> SelectionSolution | None:
    """The answer where no client can take part, or too few."""
    alone = np.where(problem.weight > 0, problem.alone_s, np.inf)
    reached = float(problem.weight[np.isfinite(alone)].sum())
    if reached == 0.0:
        message = "No client that counts has a signal, so none can take part."
    elif problem.deadline_s is not None and alone.min() > problem.deadline_s:
        first = int(np.argmin(alone))
        message = (
            f"No client ends within {format_duration(problem.deadline_s)}: the least deadline that "
            f"one does is {format_duration(float(alone.min()))}, {problem.uploads.name(first)}'s "
            "alone."
        )
    elif problem.weight_share is not None and reached < _target(problem) * (1.0 - ROUNDING):
        message = (
            f"weight_share {problem.weight_share:g} is more than all clients with a signal have "
            f"together, {reached:.6g}."
        )
    else:
        return None
    return SelectionSolution(Status.INFEASIBLE, message, solver)


def _target(problem: SelectionProblem) -> float:
    assert problem.weight_share is not None
    return problem.weight_share


def _weight(problem: SelectionProblem, chosen: BoolArray) -> float:
    return float(problem.weight[chosen].sum())


def _divided(problem: SelectionProblem, chosen: BoolArray) -> tuple[FloatArray, float, float]:
    """The band divided for the least latency of these clients; that latency and its bound."""
    part = problem.part(chosen)
    band, bracket = minmax_shares(part)
    whole = np.zeros(len(problem))
    whole[chosen] = band
    return whole, float(part.finish_s(band).max()), bracket.low


def _soonest(problem: SelectionProblem) -> tuple[BoolArray, float, float]:
    """All clients that count and have a signal, their least latency and its bound."""
    counting = np.isfinite(problem.alone_s) & (problem.weight > 0)
    _, latency_s, low = _divided(problem, counting)
    return counting, latency_s, low


def _relaxed_s(problem: SelectionProblem, high: float) -> float:
    """A deadline at which no choice has the share, close to the least one of the relaxation."""
    target, low = _target(problem) * (1.0 - ROUNDING), 0.0
    for _ in range(_PASSES):
        if high - low <= ROUNDING * high:
            break
        middle = 0.5 * (low + high)
        short = greedy_choice(problem, middle).bound < target
        low, high = (middle, high) if short else (low, middle)
    return low


def _least_deadline(problem: SelectionProblem, choose: _Chooser) -> tuple[BoolArray, float]:
    """Clients that have the share soonest, and a deadline at which none do."""
    share = _target(problem)
    chosen, high, low = _soonest(problem)
    if share >= _weight(problem, chosen):
        return chosen, low
    target = share * (1.0 - ROUNDING)
    low = tried = 0.0
    for step in range(2 * _PASSES):
        just_before = step < _PASSES and tried == 0.0
        at_s = high * (1.0 - 0.5 * _CLOSED) if just_before else 0.5 * (tried + high)
        found = choose(problem, at_s)
        if found.weight >= target:
            other = trimmed(problem, found.chosen, share, at_s)
            latency_s = _divided(problem, other)[1]
            # Its own least latency is where the next choice is sought.
            if latency_s < high:
                chosen, high = other, latency_s
            else:
                high = at_s
        elif found.bound < target:
            low = tried = max(tried, at_s)
        elif tried == 0.0:
            # Not settled: between the relaxation's deadline and this one.
            low = tried = _relaxed_s(problem, high)
        else:
            tried = at_s
        if high - tried <= _CLOSED * high:
            break
    return chosen, low


def _most(
    problem: SelectionProblem, solver: str, choice: Choice, watch: SolveTimer
) -> SelectionSolution:
    """The answer at a given deadline."""
    band, latency_s, _ = _divided(problem, choice.chosen)
    plan = SelectionPlan(choice.chosen, band, latency_s, choice.weight)
    most = min(max(choice.bound, choice.weight), 1.0)
    optimal = most - choice.weight <= OPTIMALITY * most
    return _solution(problem, plan, solver, (optimal, 1.0 - choice.weight, 1.0 - most), watch)


def _least(
    problem: SelectionProblem, solver: str, found: tuple[BoolArray, float], watch: SolveTimer
) -> SelectionSolution:
    """The answer at a given share."""
    chosen, low = found
    band, latency_s, _ = _divided(problem, chosen)
    plan = SelectionPlan(chosen, band, latency_s, _weight(problem, chosen))
    low = min(low, latency_s)
    optimal = latency_s - low <= OPTIMALITY * latency_s
    return _solution(problem, plan, solver, (optimal, latency_s, low), watch)


def _solution(
    problem: SelectionProblem,
    plan: SelectionPlan,
    solver: str,
    value: tuple[bool, float, float],
    watch: SolveTimer,
) -> SelectionSolution:
    optimal, objective, bound = value
    at_deadline = problem.deadline_s is not None
    solution = SelectionSolution(
        status=Status.OPTIMAL if optimal else Status.FEASIBLE,
        message=_sentence(problem, plan, "Optimal" if optimal else "Feasible"),
        solver=solver,
        plan=plan,
        objective=max(objective, 0.0),
        lower_bound=max(bound, 0.0),
        solve_time_s=watch.seconds,
        most_share=1.0 - bound if at_deadline else None,
    )
    return cast(SelectionSolution, checked(solution, lambda made: check_selection(problem, made)))


def _sentence(problem: SelectionProblem, plan: SelectionPlan, claim: str) -> str:
    count = int(np.count_nonzero(plan.chosen))
    return (
        f"{claim}: {count} of {len(problem)} clients take part, with {100 * plan.weight_share:.4g} "
        f"% of the weight, and the last one ends after {format_duration(plan.latency_s)}."
    )
