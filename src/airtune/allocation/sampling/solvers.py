"""The outer search over the round's deadline, and what to compare its answer with."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from airtune.allocation.bandwidth import Uploads, airtime_s, minmax_shares
from airtune.allocation.sampling.price import Cleared, clear
from airtune.allocation.sampling.problem import (
    SamplingPlan,
    SamplingProblem,
    check_sampling,
    expected_time,
)
from airtune.allocation.solve import OPTIMALITY, Solution, SolveTimer, Status, checked
from airtune.quantities import FloatArray, format_duration

_ROOT = 1e-7
"""Width of the bracket in log tau: the time is flat there, so it errs by the square of that."""
_GRID, _FEW = 48, 16
_MANY = 20_000
_CELLS = 160
_STEPS = 80
_STEEP = 1e12
"""In place of an infinite slope, where a rate does not grow with the bandwidth any more."""
_LATER = 1e-9
"""Of a deadline, so that rounding leaves no client out."""
_FIRST = 0.02
"""Of the range of log tau: most often the optimum is close to the least deadline."""


@dataclass(frozen=True)
class _Point:
    """The problem at one deadline. `slope` is d log(time) / d log(tau)."""

    log_s: float
    cleared: Cleared
    band: FloatArray
    time: float
    bound: float
    slope: float


@dataclass
class _Search:
    """Evaluates deadlines, each once."""

    problem: SamplingProblem
    best: _Point | None = None
    evaluations: int = 0
    known: dict[float, _Point | None] = field(default_factory=dict)
    prices: dict[float, float] = field(default_factory=dict)

    def at(self, log_s: float) -> _Point | None:
        """The point of a deadline; None where a client that counts cannot keep it."""
        if log_s not in self.known:
            self.evaluations += 1
            point = self._made(log_s)
            if point is not None and (self.best is None or point.time < self.best.time):
                self.best = point
            # Arrays of many points of many clients would fill the memory.
            light = None if point is None else replace(point, band=np.zeros(0))
            self.known[log_s] = light
        return self.known[log_s]

    def _made(self, log_s: float) -> _Point | None:
        problem, tau = self.problem, float(np.exp(log_s))
        band, fall = problem.needs(tau)
        near = min(self.prices, key=lambda known: abs(known - log_s), default=None)
        start = 0.0 if near is None else self.prices[near]
        cleared = clear(band, problem.variance, problem.bandwidth_hz, start)
        if cleared is None:
            return None
        if cleared.price > 0:
            self.prices[log_s] = cleared.price
        rows = np.arange(len(problem))
        with np.errstate(invalid="ignore"):
            chosen = cleared.inclusion * fall[rows, cleared.option]
        falling = float(np.where(cleared.inclusion > 0, chosen, 0.0).sum())
        whole = problem.floor + cleared.variance
        return _Point(
            log_s,
            cleared,
            np.where(cleared.inclusion > 0, band[rows, cleared.option], 0.0),
            tau * whole,
            tau * (problem.floor + cleared.bound),
            max(1.0 - tau * cleared.price * falling / whole, -_STEEP),
        )


def planned(problem: SamplingProblem) -> Solution[SamplingPlan]:
    """Probabilities, options and deadline of least expected time.

    With one option a client this is the global optimum, proven: the logarithm of the time is
    convex in log tau, so that its tangents on both sides of the optimum bound it. With several, the
    deadlines are searched on a grid, refined around the best one, and `lower_bound` is that of
    cells of deadlines, closer with more of them; the gap says how sure the answer is.
    """
    watch = SolveTimer()
    lost = _cut_off(problem)
    if lost is not None:
        return _no_signal("planned", problem, lost)
    search = _Search(problem)
    convex = problem.options == 1 and problem.is_smooth
    bound = _convex(search, problem) if convex else _scanned(search, *_range(problem))
    return _solution("planned", problem, search, bound, watch.seconds)


def _cut_off(problem: SamplingProblem, idle_too: bool = False) -> int | None:
    """The first client without a signal, of those that count, or with `idle_too` of all."""
    alone = problem.alone_s().min(axis=1)
    asked = (problem.variance > 0).any(axis=1) | idle_too
    bad = np.flatnonzero(asked & ~np.isfinite(alone))
    return int(bad[0]) if len(bad) else None


def _no_signal(solver: str, problem: SamplingProblem, client: int) -> Solution[SamplingPlan]:
    name = problem.name(client)
    message = f"{name} has an update but no signal: its link carries nothing at any bandwidth."
    return Solution(Status.INFEASIBLE, message, solver)


def _range(problem: SamplingProblem) -> tuple[float, float]:
    """Logs of the least deadline that each client keeps alone, and of that at which all take part.

    Beyond the second the time only grows.
    """
    counts = (problem.variance > 0).any(axis=1)
    least = float(problem.alone_s().min(axis=1)[counts].max())
    best = problem.variance.argmin(axis=1)
    whole = problem.of_options(best)
    bits = np.where(counts, whole.payload_bits[:, 0], 0.0)
    fixed = np.where(counts, whole.fixed_delay_s[:, 0], 0.0)
    uploads = Uploads(problem.links, bits, fixed, problem.bandwidth_hz)
    bracket = minmax_shares(uploads)[1]
    return float(np.log(least)), float(np.log(max(bracket.high, least)))


def _convex(search: _Search, problem: SamplingProblem) -> float:
    """The optimum for one option a client; answers a proven bound.

    The root of the slope between the least deadline and one at which all fit. Where all
    take part at the optimum the slope jumps there, and that deadline is found by itself.
    """
    low, high = _outer_range(problem)
    points = {high: _known(search.at(high))}
    left, right, edge_known = low, high, False
    guess = low + _FIRST * (high - low)
    for _ in range(_STEPS):
        point = search.at(guess)
        if point is None:  # the least deadline itself, but for rounding
            left = guess
        else:
            points[guess] = point
            left, right = (guess, right) if point.slope < 0 else (left, guess)
        if not edge_known and left > low and points[right].cleared.price == 0.0:
            right, edge_known = max(_range(problem)[1], left), True
            last = _known(search.at(right))
            edge = _edge_slope(problem, right, last)
            if edge <= 0.0:
                return last.time
            points[right] = replace(last, slope=edge)
        found = _tangents(points, left, right, low)
        # Where the time falls all the way to the least deadline, that end itself is the answer.
        done = right - left <= (_ROOT if left > low else 1e-12)
        if done or found >= _known(search.best).time * (1.0 - 0.3 * OPTIMALITY):
            break
        guess = _between(low, left, right, points)
    return _tangents(points, left, right, low)


def _known(point: _Point | None) -> _Point:
    assert point is not None, "at this deadline all clients fit"
    return point


def _outer_range(problem: SamplingProblem) -> tuple[float, float]:
    """Log of the least deadline that each client can keep alone, and of one at which all fit."""
    counts = problem.variance[:, 0] > 0
    least = float(problem.alone_s()[counts].max())
    shares = np.full(len(problem), problem.bandwidth_hz / max(int(counts.sum()), 1))
    rate = problem.links.rate(shares)
    ends = problem.fixed_delay_s[:, 0] + airtime_s(problem.payload_bits[:, 0], rate)
    return float(np.log(least)), float(np.log(ends[counts].max())) + _LATER


def _between(low: float, left: float, right: float, points: dict[float, _Point]) -> float:
    """The next deadline: where a secant of the slopes over log(t - low) crosses zero.

    Near the least deadline the slope is nearly a straight line over that logarithm. The guess goes
    a little beyond the crossing, seen from the nearer end, so that the next one closes the bracket.
    """
    if left <= low or left not in points:
        return low + 0.2 * (right - low)
    x, y = np.log(left - low), np.log(right - low)
    a, b = points[left].slope, points[right].slope
    share = a / (a - b)
    share = share + 0.1 * share if share < 0.5 else share - 0.1 * (1.0 - share)
    guess = low + float(np.exp(x + min(max(share, 1e-3), 1.0 - 1e-3) * (y - x)))
    return guess if left < guess < right else 0.5 * (left + right)


def _edge_slope(problem: SamplingProblem, log_s: float, point: _Point) -> float:
    """The slope from the left where all clients just fit."""
    tau = float(np.exp(log_s))
    band, fall = problem.needs(tau)
    variance = problem.variance[:, 0]
    counts = (variance > 0) & (band[:, 0] > 0)
    if not counts.any() or band[counts, 0].sum() < problem.bandwidth_hz * (1.0 - 1e-6):
        return 1.0
    price = float((variance[counts] / band[counts, 0]).min())
    whole = problem.floor + point.cleared.variance
    return 1.0 - tau * price * float(fall[counts, 0].sum()) / whole


def _tangents(points: dict[float, _Point], left: float, right: float, low: float) -> float:
    """Where the tangents on both sides of the optimum cross: no time is below."""
    b = points[right]
    if left not in points:
        # Falling towards the least deadline: the tangent there.
        return float(np.exp(np.log(b.time) + b.slope * (low - b.log_s)))
    a = points[left]
    if b.slope == a.slope:
        return min(a.time, b.time)
    level_a, level_b = np.log(a.time), np.log(b.time)
    cross = (level_a - level_b + b.slope * b.log_s - a.slope * a.log_s) / (b.slope - a.slope)
    return float(np.exp(level_a + a.slope * (cross - a.log_s)))


def _scanned(search: _Search, low: float, high: float) -> float:
    """The best deadline for several options a client; answers a proven bound."""
    high += _LATER
    count = _FEW if len(search.problem) > _MANY else _GRID
    grid = np.linspace(low, high, count + 1)
    for point in grid:
        search.at(float(point))
    for _ in range(2 if len(search.problem) > _MANY else 4):
        if search.best is None:
            break
        grid = np.array(sorted(search.known))
        place = int(np.searchsorted(grid, search.best.log_s))
        around = grid[max(place - 1, 0) : place + 2]
        for a, b in pairwise(around):
            for share in (0.25, 0.5, 0.75):
                search.at(float(a + share * (b - a)))
    return _cells(search, low)


def _cells(search: _Search, low: float) -> float:
    """At most the time of any plan: within a cell of deadlines tau is at least its lower end, and
    the variance at least the dual's at its upper end. The cell of the least bound is divided."""
    budget = _CELLS if len(search.problem) <= _MANY else 0
    while True:
        grid = sorted(search.known)
        cells = [
            (float(np.exp(a - b)) * point.bound, a, b)
            for a, b in pairwise(grid)
            if (point := search.known[b]) is not None
        ]
        if not cells:
            return float(np.exp(low - grid[-1])) * _known(search.known[grid[-1]]).bound
        bound, a, b = min(cells)
        if budget <= 0 or search.best is None or bound >= search.best.time * (1 - 1e-4):
            return bound
        search.at(0.5 * (a + b))
        budget -= 1


def _solution(
    solver: str, problem: SamplingProblem, search: _Search, bound: float, seconds: float
) -> Solution[SamplingPlan]:
    best = search.best
    assert best is not None, "the last deadline fits all clients"
    plan = SamplingPlan(
        best.cleared.inclusion,
        best.cleared.option,
        best.band,
        float(np.exp(best.log_s)),
        best.cleared.price,
    )
    return _checked(solver, problem, plan, bound, search.evaluations, seconds)


def _checked(
    solver: str,
    problem: SamplingProblem,
    plan: SamplingPlan,
    bound: float,
    iterations: int,
    seconds: float,
) -> Solution[SamplingPlan]:
    objective = expected_time(problem, plan)
    bound = min(bound, objective)
    optimal = objective - bound <= OPTIMALITY * objective
    taking = float(plan.inclusion.sum())
    claim = "Optimal" if optimal else "Feasible"
    message = (
        f"{claim}: {taking:.3g} of {len(problem)} clients take part in a round of "
        f"{format_duration(plan.deadline_s)} on average."
    )
    return checked(
        Solution(
            Status.OPTIMAL if optimal else Status.FEASIBLE,
            message,
            solver,
            plan,
            objective,
            bound,
            iterations,
            seconds,
        ),
        lambda found: check_sampling(problem, found),
    )


def uniform(problem: SamplingProblem) -> Solution[SamplingPlan]:
    """The same probability for all, all ranks of every client, and the best deadline for that."""
    return _restricted("uniform", problem)


def all_present(problem: SamplingProblem) -> Solution[SamplingPlan]:
    """All clients with all ranks in every round: the min-max deadline."""
    return _restricted("all", problem)


def _restricted(solver: str, problem: SamplingProblem) -> Solution[SamplingPlan]:
    lost = _cut_off(problem, idle_too=True)
    if lost is not None:
        return _no_signal(solver, problem, lost)
    watch = SolveTimer()
    option = problem.variance.argmin(axis=1)
    whole = problem.of_options(option)
    low, high = _range(whole)
    total = float(whole.variance.sum())

    def value(log_s: float) -> float:
        needed = float(whole.needs(float(np.exp(log_s)))[0].sum())
        inflated = max(1.0, needed / problem.bandwidth_hz)
        return float(np.exp(log_s)) * (problem.floor + total * inflated)

    best = high if solver == "all" else _golden(value, low, high)
    tau = float(np.exp(best))
    band = whole.needs(tau)[0][:, 0]
    if not np.isfinite(band).all():
        tau = float(np.exp(best + _LATER))
        band = whole.needs(tau)[0][:, 0]
    share = min(1.0, problem.bandwidth_hz / float(band.sum()))
    plan = SamplingPlan(np.full(len(whole), share), option, band, tau, 0.0)
    seconds = watch.seconds
    reference = planned(problem)
    bound = reference.lower_bound
    assert bound is not None
    return _checked(solver, problem, plan, bound, 1, seconds)


def _golden(value: Callable[[float], float], low: float, high: float) -> float:
    """The least of a unimodal function to `_ROOT`, by golden sections."""
    ratio = 0.5 * (5.0**0.5 - 1.0)
    end = high
    while high - low > _ROOT:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if value(left) <= value(right) else (left, high)
    return min((0.5 * (low + high), end), key=value)


SOLVERS: dict[str, Callable[[SamplingProblem], Solution[SamplingPlan]]] = {
    "planned": planned,
    "uniform": uniform,
    "all": all_present,
}
