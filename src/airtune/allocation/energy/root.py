"""The root of one falling function, of a logarithm by its nature."""

import math
from collections.abc import Callable

from airtune.allocation.solve import Evaluation

_MAX_STEPS = 300
_FARTHEST = 2.0
# A longer step is cut to this: the functions are nearly straight, or flat.


def falling_root(
    function: Callable[[float], Evaluation],
    start: float,
    edges: tuple[float, float],
    accuracy: float,
) -> float:
    """Where a falling function is 0 up to `accuracy`, or the edge that it does not reach before.

    Newton's iteration with bounded steps, in a bracket of the points visited. The point returned is
    the last one at which the function was evaluated.
    """
    point = min(max(start, edges[0]), edges[1])
    low, high, before = -math.inf, math.inf, math.inf
    for _ in range(_MAX_STEPS):
        value, slope = function(point)
        low, high = (point, high) if value > 0 else (low, point)
        closed = high - low <= 4e-16 * max(1.0, abs(point))
        if abs(value) <= accuracy or closed or (value > 0 and point >= edges[1]):
            break
        if value < 0 and point <= edges[0]:
            break
        step = -value / slope if slope < 0 else math.copysign(math.inf, value)
        proposal = point + max(-_FARTHEST, min(_FARTHEST, step))
        newton = low < proposal < high and (abs(step) > _FARTHEST or abs(value) <= 0.9 * before)
        before = abs(value) if newton else math.inf
        if not newton and math.isfinite(high - low):
            proposal = low + 0.5 * (high - low)
        point = min(max(proposal, edges[0]), edges[1])
    return point
