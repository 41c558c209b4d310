"""The front of latency against energy: the optimum at one weight, or one budget, after another.

No plan lies below the front: at its points neither can be less without the other being more. As the
weight grows latency does not fall and energy does not rise, and the front is convex.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from airtune.allocation.energy.exact import EnergySolution, exact_energy
from airtune.allocation.energy.problem import EnergyProblem
from airtune.errors import InputError
from airtune.planning.answer import finite

POINTS = 25
"""Of a front without weights or budgets of the user's."""
_SPAN = (1e-4, 1e3)
# Of the latency over the energy of the soonest plan: from there on neither changes much.


def front(
    problem: EnergyProblem,
    weights: Sequence[float] = (),
    budgets: Sequence[float] = (),
    others: Mapping[str, Callable[[EnergyProblem], EnergySolution]] | None = None,
) -> list[dict[str, Any]]:
    """One row a point, from the least latency on.

    Args:
        weights: seconds of latency that a joule is worth; inf needs a deadline in the problem.
        budgets: limits of the energy of all clients together [J], with the problem's own weight.
            Without either, `POINTS` weights that span the front.
        others: solvers by name, of which each adds a row at the problem's own weight.

    Raises InputError for a weight or a budget that means nothing.
    """
    if weights and budgets:
        raise InputError("--budgets", list(budgets), "left out beside --weights")
    if budgets:
        chosen = [("budget_j", value, _at_budget(problem, value)) for value in _sorted(budgets)]
    else:
        ordered = sorted(weights or _spanning(problem))
        chosen = [("weight_s_per_j", value, at_weight(problem, value)) for value in ordered]
    rows = [_row("exact", key, value, exact_energy(point)) for key, value, point in chosen]
    for name, solve in (others or {}).items():
        rows.append(_row(name, None, None, solve(replace(problem, budget_j=math.inf))))
    return rows


def at_weight(problem: EnergyProblem, weight: float) -> EnergyProblem:
    """The problem at another weight. Raises InputError."""
    if not weight >= 0:
        raise InputError("--weights", weight, "numbers of at least 0")
    alone = math.isinf(weight)
    return replace(
        problem, time_weight=0.0 if alone else 1.0, energy_weight=1.0 if alone else weight
    )


def _at_budget(problem: EnergyProblem, budget: float) -> EnergyProblem:
    if not 0 < budget < math.inf:
        raise InputError("--budgets", budget, "numbers above 0")
    return replace(problem, budget_j=budget)


def _sorted(budgets: Sequence[float]) -> list[float]:
    """The largest first: there the latency is least."""
    return sorted(budgets, reverse=True)


def _spanning(problem: EnergyProblem) -> list[float]:
    """Weights from where energy hardly counts to where latency hardly does."""
    soonest = exact_energy(at_weight(problem, 0.0))
    if soonest.plan is None or not soonest.plan.energy_j.sum() > 0:
        return [0.0]
    unit = soonest.plan.latency_s / float(soonest.plan.energy_j.sum())
    return [0.0, *(unit * np.geomspace(*_SPAN, POINTS - 1)).tolist()]


def _row(
    solver: str, key: str | None, value: float | None, found: EnergySolution
) -> dict[str, Any]:
    plan = found.plan
    return {
        "solver": solver,
        "weight_s_per_j": value if key == "weight_s_per_j" else None,
        "budget_j": value if key == "budget_j" else None,
        "status": str(found.status),
        "latency_s": None if plan is None else plan.latency_s,
        "energy_j": None if plan is None else float(plan.energy_j.sum()),
        "joule_worth_s": finite(found.energy_price) if key == "budget_j" else None,
        "gap": finite(found.gap),
        "mean_speed": None if plan is None else float(plan.speed.mean()),
        "mean_power_share": None if plan is None else float(plan.power_share.mean()),
        "message": found.message,
    }
