"""How much of a token crosses the cut, and how exactly, for every client under one deadline.

Of a token's h numbers a share k travels, drawn at random and scaled by 1/k, each with q bits. In
relation to a number's mean square the error is

    V(k, q) = (1 + v_q) / k - 1

from dropping (`(1 - k) / k`) and from rounding what is left (`v_q / k`). The gradient comes back on
the same numbers, so with a split of the step's window into one for going up and one for
coming down the largest share of each client and format is known in closed form, and the least error
is that of the best format. The split of the window is scanned; within cells of splits, each client
with the best one of its own gives a bound.

In the manner of the bound of FedSL with pruning and quantisation (arXiv 2412.06414) as far as its
summary tells: the terms for dropped activations and for precision. The derivation is ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from airtune.allocation.bandwidth import client_name
from airtune.allocation.solve import OPTIMALITY, Check, Solution, SolveTimer, Status, checked
from airtune.quantities import FloatArray

POINTS = 257
"""Splits of the window that are tried in one pass; each pass looks between the neighbours of the
best one of the pass before."""
PASSES = 4
CELLS = 512
"""Of the bound; the more, the tighter."""


@dataclass(frozen=True)
class CutFormat:
    """A number format: bits of a number, of a token besides, and the rounding error of a number in
    relation to its mean square."""

    name: str
    number_bits: float
    token_bits: float
    noise: float


def cut_formats(hidden: int) -> tuple[CutFormat, ...]:
    """fp32, bf16 and int8 of tokens with so many numbers.

    Both errors are bounds. bf16 has 8 bits, so its numbers near x are at most `2^-7 |x|` apart,
    `v <= 2^-14 / 12`. int8 is rounded at random with a step of `max |x| / 127` a token,
    `v <= step^2 / 4`; of Gaussian numbers the maximum is near `sqrt(2 ln h)` times the root mean
    square.
    """
    return (
        CutFormat("fp32", 32.0, 0.0, 0.0),
        CutFormat("bf16", 16.0, 0.0, 2.0**-14 / 12.0),
        CutFormat("int8", 8.0, 32.0, 2.0 * math.log(max(hidden, 2)) / (4.0 * 127.0**2)),
    )


@dataclass(frozen=True)
class PrecisionProblem:
    """One mean local step; arrays have the axis [client].

    `window_s` is what `max (before + up) + max (down + after)` may take. A message has `tokens` of
    `hidden` numbers and `fixed_bits` besides, on the way down `fixed_down_bits` (None: as many).
    `least_kept` is the least share of a token.
    """

    window_s: float
    before_s: FloatArray
    after_s: FloatArray
    up_bps: FloatArray
    down_bps: FloatArray
    tokens: FloatArray
    hidden: int
    fixed_bits: FloatArray
    weights: FloatArray
    formats: Sequence[CutFormat]
    least_kept: float = 0.1
    names: Sequence[str] = ()
    fixed_down_bits: FloatArray | None = None

    def kept(self, token_bits: FloatArray) -> FloatArray:
        """The largest share of tokens that so many bits hold [format, client]; 0 where it is less
        than the least allowed."""
        rows = []
        for one in self.formats:
            room = token_bits - one.token_bits * self.tokens
            share = np.minimum(room / (one.number_bits * self.tokens * self.hidden), 1.0)
            least = share >= self.least_kept * (1 - 1e-9)
            rows.append(np.where(least, np.maximum(share, self.least_kept), 0.0))
        return np.stack(rows)

    def errors(self, kept: FloatArray) -> FloatArray:
        """V [format, client]; infinite where nothing is kept."""
        noise = np.array([one.noise for one in self.formats])[:, None]
        with np.errstate(divide="ignore"):
            return np.where(kept > 0, (1.0 + noise) / kept - 1.0, np.inf)

    def bits(self, kept: float, one: CutFormat, client: int) -> float:
        """Of a message on the way up."""
        numbers = kept * self.hidden * one.number_bits + one.token_bits
        return float(self.fixed_bits[client] + self.tokens[client] * numbers)

    @property
    def down_bits(self) -> FloatArray:
        """Bits of a message on the way down beside its tokens [client]."""
        return self.fixed_bits if self.fixed_down_bits is None else self.fixed_down_bits

    @property
    def smallest(self) -> CutFormat:
        """The format with the fewest bits at the least share."""
        least = self.least_kept * self.hidden
        return min(self.formats, key=lambda one: one.number_bits * least + one.token_bits)

    @property
    def least(self) -> "CutPrecision":
        """The plan that sends least: no other takes less time."""
        count, index = len(self.tokens), self.formats.index(self.smallest)
        return CutPrecision(np.full(count, self.least_kept), (index,) * count, 0.0)


@dataclass(frozen=True)
class CutPrecision:
    """Each client's share of a token and index of its format; the window for going up [s]."""

    kept: FloatArray
    formats: tuple[int, ...]
    up_window_s: float


def solve_precision(problem: PrecisionProblem) -> Solution[CutPrecision]:
    """The least weighted sum of V within the window."""
    watch = SolveTimer()
    up_s, down_s = _windows(problem, problem.least)
    if up_s + down_s > problem.window_s * (1 + 1e-12):
        return _infeasible(problem, "scan", watch.seconds)
    low, high = float(problem.before_s.max()), problem.window_s - float(problem.after_s.max())
    plan = _at(problem, _best_split(problem, low, high))
    if plan is None:  # what is feasible lies between two splits that were tried
        latest_s = max(problem.window_s - down_s, up_s)
        plan = _at(problem, _best_split(problem, up_s, latest_s)) or replace(
            problem.least, up_window_s=up_s
        )
    return _finished(problem, plan, "scan", watch.seconds)


def _best_split(problem: PrecisionProblem, low: float, high: float) -> float:
    """The best window for going up between these, by the passes of the scan [s]."""
    best_s, step = low, (high - low) / (POINTS - 1)
    start, end = low, high
    for _ in range(PASSES):
        tried = np.linspace(start, end, POINTS)
        values = [_value(problem, float(window_s)) for window_s in tried]
        best_s = float(tried[int(np.argmin(values))])
        start, end = max(low, best_s - step), min(high, best_s + step)
        step = (end - start) / (POINTS - 1)
    return best_s


def solve_alike(problem: PrecisionProblem) -> Solution[CutPrecision]:
    """One share and one format for all clients: the baseline."""
    watch = SolveTimer()
    found: list[tuple[float, CutPrecision]] = []
    for index, one in enumerate(problem.formats):
        for share in np.linspace(problem.least_kept, 1.0, POINTS)[::-1]:
            plan = CutPrecision(
                np.full(len(problem.tokens), share), (index,) * len(problem.tokens), 0.0
            )
            up_s, down_s = _windows(problem, plan)
            if up_s + down_s <= problem.window_s:
                error = (1.0 + one.noise) / share - 1.0
                found.append((error, CutPrecision(plan.kept, plan.formats, up_s)))
                break
    if not found:
        return _infeasible(problem, "alike", watch.seconds)
    _, plan = min(found, key=lambda pair: pair[0])
    return _finished(problem, plan, "alike", watch.seconds)


def _room(problem: PrecisionProblem, up_window_s: float | FloatArray) -> FloatArray:
    """Bits for each client's tokens that both windows hold; one window for all, or [client]."""
    down_window_s = problem.window_s - up_window_s
    up = np.maximum(up_window_s - problem.before_s, 0.0) * problem.up_bps
    free = np.isinf(problem.down_bps)
    rate = np.where(free, 1.0, problem.down_bps)
    down = np.where(free, np.inf, np.maximum(down_window_s - problem.after_s, 0.0) * rate)
    return np.minimum(up - problem.fixed_bits, down - problem.down_bits)


def _value(problem: PrecisionProblem, up_window_s: float) -> float:
    errors = problem.errors(problem.kept(_room(problem, up_window_s)))
    return float(problem.weights @ errors.min(axis=0))


def _at(problem: PrecisionProblem, up_window_s: float) -> CutPrecision | None:
    kept = problem.kept(_room(problem, up_window_s))
    errors = problem.errors(kept)
    if not np.isfinite(errors.min(axis=0)).all():
        return None
    chosen = errors.argmin(axis=0)
    return CutPrecision(
        kept[chosen, np.arange(len(chosen))], tuple(int(index) for index in chosen), up_window_s
    )


def least_error(problem: PrecisionProblem) -> float:
    """No plan has less. The windows for going up are divided into cells; within a cell every client
    has the window that is best for it alone, and the best cell's sum bounds them all."""
    low, high = float(problem.before_s.max()), problem.window_s - float(problem.after_s.max())
    edges = np.linspace(low, high, CELLS + 1)
    spare = np.maximum(problem.window_s - problem.before_s - problem.after_s, 0.0)
    per_bit = 1.0 / problem.up_bps + 1.0 / problem.down_bps
    # Where both windows hold as many bits for tokens; more room on one side does not help.
    more = (problem.fixed_bits - problem.down_bits) / problem.down_bps
    balanced_s = problem.before_s + (spare + more) / per_bit / problem.up_bps
    least = np.inf
    for start, end in pairwise(edges):
        room = _room(problem, np.clip(balanced_s, start, end))
        errors = problem.errors(problem.kept(room))
        least = min(least, float(problem.weights @ errors.min(axis=0)))
    return least


def _windows(problem: PrecisionProblem, plan: CutPrecision) -> tuple[float, float]:
    """What the slowest client takes going up, and coming down [s]."""
    up = down = 0.0
    for client, (share, index) in enumerate(zip(plan.kept, plan.formats, strict=True)):
        bits = problem.bits(float(share), problem.formats[index], client)
        back = bits - float(problem.fixed_bits[client] - problem.down_bits[client])
        up = max(up, float(problem.before_s[client] + bits / problem.up_bps[client]))
        down = max(down, float(problem.after_s[client] + back / problem.down_bps[client]))
    return up, down


def error_of(problem: PrecisionProblem, plan: CutPrecision) -> float:
    """The weighted sum of V."""
    return sum(
        float(weight) * ((1.0 + problem.formats[index].noise) / float(share) - 1.0)
        for weight, share, index in zip(problem.weights, plan.kept, plan.formats, strict=True)
    )


def _finished(
    problem: PrecisionProblem, plan: CutPrecision, solver: str, seconds: float
) -> Solution[CutPrecision]:
    value, bound = error_of(problem, plan), least_error(problem)
    optimal = value - bound <= OPTIMALITY * max(abs(value), 1.0)
    claim = "Optimal" if optimal else "Feasible"
    solution = Solution(
        status=Status.OPTIMAL if optimal else Status.FEASIBLE,
        message=f"{claim}: {what_crosses(problem, plan)}.",
        solver=solver,
        plan=plan,
        objective=value,
        lower_bound=min(bound, value),
        iterations=1,
        solve_time_s=seconds,
    )
    return checked(solution, lambda found: check_precision(problem, found))


def what_crosses(problem: PrecisionProblem, plan: CutPrecision) -> str:
    """Shares and formats in words."""
    names = sorted({problem.formats[index].name for index in plan.formats})
    shares = dict.fromkeys(f"{100 * share:.3g}" for share in (plan.kept.min(), plan.kept.max()))
    return f"{' to '.join(shares)} % of a token cross the cut as {', '.join(names)}"


def _infeasible(problem: PrecisionProblem, solver: str, seconds: float) -> Solution[CutPrecision]:
    smallest = problem.smallest
    up, down = _windows(problem, problem.least)
    ahead = [
        problem.before_s[k] + problem.bits(problem.least_kept, smallest, k) / rate
        for k, rate in enumerate(problem.up_bps)
    ]
    message = (
        f"With {100 * problem.least_kept:.3g} % of a token as {smallest.name} a step "
        f"takes {up + down:.3g} s without the server, and {problem.window_s:.3g} s are allowed; "
        f"{client_name(problem.names, int(np.argmax(ahead)))} sends last."
    )
    return Solution(Status.INFEASIBLE, message, solver, solve_time_s=seconds)


def check_precision(problem: PrecisionProblem, plan: CutPrecision) -> Check:
    """Recompute that the step keeps its window and every share its range."""
    up, down = _windows(problem, plan)
    return Check(
        {
            "window": (up + down) / problem.window_s - 1.0,
            "largest share": float(plan.kept.max()) - 1.0,
            "least share": problem.least_kept - float(plan.kept.min()),
        }
    )
