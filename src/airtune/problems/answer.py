"""What the answers of all methods share, as plain data for JSON."""

import math
from typing import Any

from airtune.allocation.solve import Solution


def heading(solution: Solution[Any]) -> dict[str, Any]:
    """Status and message, the first keys of every answer."""
    return {"status": str(solution.status), "message": solution.message}


def finite(value: float | None) -> float | None:
    """JSON has neither NaN nor infinity: null for both."""
    return None if value is None or not math.isfinite(value) else float(value)
