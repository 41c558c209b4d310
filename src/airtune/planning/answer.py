"""What the answers of all planners share, as plain data for JSON."""

import math
from typing import Any

from airtune.allocation.solve import Solution


def heading(solution: Solution[Any]) -> dict[str, Any]:
    """Status and message, the first keys of every answer; `plan: null` where there is none."""
    found = {"status": str(solution.status), "message": solution.message}
    return found if solution.plan is not None else {**found, "plan": None}


def closing(solution: Solution[Any]) -> dict[str, Any]:
    """The solver, and the independent check: the constraint nearest to being exceeded."""
    check = None
    if solution.check is not None:
        name, excess = solution.check.worst
        check = {"passed": solution.check.passed, "tightest": name, "excess": finite(excess)}
    return {
        "solver": solution.solver,
        "solve_time_s": solution.solve_time_s,
        "iterations": solution.iterations,
        "check": check,
    }


def finite(value: float | None) -> float | None:
    """JSON has neither NaN nor infinity: null for both."""
    return None if value is None or not math.isfinite(value) else float(value)
