"""Local accuracy and bandwidth of FedsLLM: the global optimum, with a proof.

FedsLLM (Zhao et al., arXiv 2407.09250) trains locally to a relative accuracy eta, which takes
`v log2(1/eta)` local iterations, and then needs `a / (1 - eta)` global rounds:

    min over eta in (0, 1) and b >= 0, sum_k b_k <= B of
    a / (1 - eta) * max_k ( f_k + v log2(1/eta) compute_delay_k + payload_k / r_k(b_k) ).

f_k is what each round takes whatever is decided; the published problem has none.

With `u = ln(1/eta)` the round's delay is `h(v u / ln 2)`, where `h(s)` is the best latency over
bandwidths at s local iterations. h is convex and increasing, because payload / r is convex in b and
minimising a jointly convex function over b leaves a convex one; `1 - e^-u` is concave. So the total
is a convex function over a positive concave one: quasi-convex, with one valley, and a line search
on u finds the global optimum. Left out: the download, as in the published model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from airtune.allocation.bandwidth import Uploads, airtime_s, client_name, minmax_bandwidth
from airtune.allocation.solve import OPTIMALITY, Check, Solution, SolveTimer, Status, checked
from airtune.errors import InputError
from airtune.quantities import FloatArray, format_duration
from airtune.wireless.rate import Links

LN2 = float(np.log(2.0))
DEPTH_RANGE = (1e-9, 40.0)
"""Range of `u = ln(1/eta)`: local accuracies from 4e-18 to 1 - 1e-9. Beyond it nothing changes."""
_SMALLEST_DEPTH, _LARGEST_DEPTH = 1e-300, 700.0
_ROUNDING = 1e-13
_MOST_ROUNDS = 100


@dataclass(frozen=True)
class LocalAccuracyPlan:
    """The local accuracy eta, bandwidth per client [client] in Hz, and the total delay in s."""

    local_accuracy: float
    bandwidth_hz: FloatArray
    total_delay_s: float


@dataclass(frozen=True)
class LocalTraining:
    """A planning problem of FedsLLM.

    Args:
        links: rates [client], concave in the bandwidth.
        compute_delay_s: one local iteration [client], >= 0.
        payload_bits: one upload [client], >= 0.
        bandwidth_hz: the whole band, > 0.
        a: global rounds at perfect local training, > 0.
        v: local iterations per halving of the local error, > 0.
        fixed_delay_s: f, once a round [client], >= 0; None: nothing.

    Raises:
        InputError: a value outside these ranges, named by client.
    """

    links: Links
    compute_delay_s: FloatArray
    payload_bits: FloatArray
    bandwidth_hz: float
    a: float
    v: float
    names: Sequence[str] = ()
    fixed_delay_s: FloatArray | None = None

    def __post_init__(self) -> None:
        for name in ("a", "v"):
            if not 0 < getattr(self, name) < np.inf:
                raise InputError(name, getattr(self, name), "a number > 0")
        self.uploads(1.0)

    def uploads(self, depth: float) -> Uploads:
        """One round at `ln(1/eta) = depth`."""
        delay = self.once_s + self.v * depth / LN2 * self.compute_delay_s
        return Uploads(self.links, self.payload_bits, delay, self.bandwidth_hz, self.names)

    @property
    def once_s(self) -> FloatArray:
        """f_k: what every round takes whatever is decided [client]."""
        none = np.zeros(len(self.compute_delay_s))
        return none if self.fixed_delay_s is None else self.fixed_delay_s

    def total_s(self, depth: float, round_s: float) -> float:
        """`a / (1 - eta)` rounds."""
        return float(self.a * round_s / -np.expm1(-depth))


@dataclass(frozen=True)
class _Line:
    """A line below the round's delay at every depth: `round >= fixed + slope depth`."""

    fixed: float
    slope: float

    def best_depth(self) -> float:
        """Where `(fixed + slope u) / (1 - e^-u)` is least: `e^u - 1 - u = fixed / slope`."""
        if self.slope <= 0 or self.fixed <= 0:
            return _LARGEST_DEPTH if self.slope <= 0 else 0.0
        target = self.fixed / self.slope
        # Both starts lie right of the root of a convex function: Newton descends to it.
        u = min(np.sqrt(2 * target), np.log(2 * target + 2))
        for _ in range(40):
            step = (np.expm1(u) - u - target) / np.expm1(u)
            u -= step
            if not abs(step) > 1e-15 * u:
                break
        return float(u)


@dataclass(frozen=True)
class _Round:
    """The bandwidths chosen at one depth, the round's delay, and lines below it at all depths."""

    bandwidth_hz: FloatArray
    latency_s: float
    lines: list[_Line]


_RoundSolver = Callable[[LocalTraining, float], _Round]


def solve_local_accuracy(problem: LocalTraining) -> Solution[LocalAccuracyPlan]:
    """The global optimum over local accuracy and bandwidths, certified by supporting lines.

    At every depth tried, the min-max bandwidths also give Lagrange weights and with them a line
    that lies below the round's delay everywhere. The least of the highest line over `1 - e^-u`
    bounds the total from below and names the depth to try next, until the best total meets it.
    """
    return _search("exact", problem, _best_round)


def solve_equal_bandwidth(problem: LocalTraining) -> Solution[LocalAccuracyPlan]:
    """The best local accuracy when every client has the same bandwidth.

    The bound is that of `solve_local_accuracy`.
    """
    solution = _search("equal", problem, _equal_round)
    if solution.objective is None:
        return solution
    bound = solve_local_accuracy(problem).lower_bound
    assert bound is not None
    return _judged(solution, problem, min(bound, solution.objective))


def _search(
    solver: str, problem: LocalTraining, solve_round: _RoundSolver
) -> Solution[LocalAccuracyPlan]:
    """Cutting planes on the depth; the trace holds the best total after each round solved."""
    watch = SolveTimer()
    silent = (problem.payload_bits > 0) & (problem.links.limit_bps() == 0)
    if silent.any():
        name = client_name(problem.names, int(np.argmax(silent)))
        return Solution(Status.INFEASIBLE, f"{name} has a payload but no signal.", solver)
    lines: list[_Line] = []
    plan = None
    depth, bound = 1.0, 0.0
    trace: list[float] = []
    tried: set[float] = set()
    while depth not in tried and len(tried) < _MOST_ROUNDS:
        tried.add(depth)
        found = solve_round(problem, depth)
        total = problem.total_s(depth, found.latency_s)
        if plan is None or total < plan.total_delay_s:
            plan = LocalAccuracyPlan(float(np.exp(-depth)), found.bandwidth_hz, total)
        trace.append(plan.total_delay_s)
        lines += found.lines
        depth, ratio = _lowest(lines)
        bound = problem.a * ratio * (1 - _ROUNDING)
        if plan.total_delay_s <= bound * (1 + 0.1 * OPTIMALITY):
            break
        depth = min(max(depth, DEPTH_RANGE[0]), DEPTH_RANGE[1])
    assert plan is not None
    solution = Solution(
        Status.FEASIBLE,
        message="",
        solver=solver,
        plan=plan,
        objective=plan.total_delay_s,
        iterations=len(trace),
        solve_time_s=watch.seconds,
        trace=tuple(trace),
    )
    judged = _judged(solution, problem, min(bound, plan.total_delay_s))
    return checked(judged, lambda answer: check_local_accuracy(problem, answer))


def _judged(
    solution: Solution[LocalAccuracyPlan], problem: LocalTraining, bound: float
) -> Solution[LocalAccuracyPlan]:
    """The solution with a bound, its status and its sentence."""
    plan = solution.plan
    assert plan is not None
    optimal = plan.total_delay_s - bound <= OPTIMALITY * plan.total_delay_s
    depth = -float(np.log(plan.local_accuracy))
    finish = problem.uploads(depth).finish_s(plan.bandwidth_hz)
    last = int(np.argmax(finish))
    together = int(np.count_nonzero(finish >= finish[last] * (1 - 1e-9)))
    who = f"{client_name(problem.names, last)} ends"
    who = who if together == 1 else f"{together} clients end"
    message = (
        f"{'Optimal' if optimal else 'Feasible'}: local accuracy {plan.local_accuracy:.4g} takes "
        f"{format_duration(plan.total_delay_s)} in all; {who} each round."
    )
    status = Status.OPTIMAL if optimal else Status.FEASIBLE
    return replace(solution, lower_bound=bound, status=status, message=message)


def _lowest(lines: list[_Line]) -> tuple[float, float]:
    """Where the highest of the lines over `1 - e^-u` is least, and that value.

    Each ratio has one valley, so the least value of their maximum lies at the bottom of one of
    them or where two lines cross.
    """
    fixed = np.array([line.fixed for line in lines])
    slope = np.array([line.slope for line in lines])
    bottoms = [line.best_depth() for line in lines]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        crossing = (fixed[:, None] - fixed) / (slope - slope[:, None])
        depth = np.concatenate([bottoms, crossing[np.isfinite(crossing) & (crossing > 0)]])
        depth = np.clip(depth, _SMALLEST_DEPTH, _LARGEST_DEPTH)
        value = np.max(fixed[:, None] + slope[:, None] * depth, axis=0) / -np.expm1(-depth)
    best = int(np.argmin(value))
    return float(depth[best]), float(value[best])


def _best_round(problem: LocalTraining, depth: float) -> _Round:
    """Min-max bandwidths, with the line of their Lagrange weights."""
    uploads = problem.uploads(depth)
    solution = minmax_bandwidth(
        problem.links,
        problem.payload_bits,
        uploads.fixed_delay_s,
        problem.bandwidth_hz,
        problem.names,
    )
    plan = solution.plan
    assert plan is not None, solution.message
    slope = problem.v / LN2 * problem.compute_delay_s
    steepest = int(np.argmax(slope))
    lines = [_Line(float(problem.once_s[steepest]), float(slope[steepest]))]
    sends = problem.payload_bits > 0
    if sends.any():
        lines.append(_lagrange_line(problem, plan.bandwidth_hz, slope))
    return _Round(plan.bandwidth_hz, plan.latency_s, lines)


def _lagrange_line(problem: LocalTraining, bandwidth_hz: FloatArray, slope: FloatArray) -> _Line:
    """A line below the round's delay, valid for any positive bandwidths b.

    For weights w >= 0 that sum to 1 and a price nu >= 0, weak duality gives at every depth u

        round >= sum_k w_k (f_k + slope_k u + payload_k / r_k(b'_k)) + nu (sum_k b'_k - B)

    at the b' that minimises the right side. Choosing `w_k = nu r_k^2 / (payload_k r'_k)` makes b
    itself the minimiser, since payload / r is convex.
    """
    sends = problem.payload_bits > 0
    links, bits, b = problem.links.select(sends), problem.payload_bits[sends], bandwidth_hz[sends]
    rate = links.rate(b)
    with np.errstate(divide="ignore", over="ignore"):
        weight = rate / links.slope(b) * (rate / bits)
    price = 1.0 / float(np.sum(weight))
    weight = weight * price
    fixed = float(weight @ (problem.once_s[sends] + bits / rate)) + price * (
        float(np.sum(b)) - problem.bandwidth_hz
    )
    return _Line(max(fixed, 0.0), float(weight @ slope[sends]))


def _equal_round(problem: LocalTraining, depth: float) -> _Round:
    """Equal bandwidths; the line is that of the client that ends last."""
    count = len(problem.links)
    bandwidth = np.full(count, problem.bandwidth_hz / count)
    finish = problem.uploads(depth).finish_s(bandwidth)
    last = int(np.argmax(finish))
    upload = float(airtime_s(problem.payload_bits, problem.links.rate(bandwidth))[last])
    line = _Line(
        float(problem.once_s[last]) + upload, problem.v / LN2 * float(problem.compute_delay_s[last])
    )
    return _Round(bandwidth, float(finish[last]), [line])


def check_local_accuracy(problem: LocalTraining, plan: LocalAccuracyPlan) -> Check:
    """Recompute by plain loops that the plan fits the band and takes its total delay."""
    eta = plan.local_accuracy
    slowest = used = 0.0
    rates = problem.links.rate(plan.bandwidth_hz)
    for k, share in enumerate(plan.bandwidth_hz):
        used += share
        upload = problem.payload_bits[k] / rates[k] if problem.payload_bits[k] > 0 else 0.0
        iterations = -problem.v * float(np.log2(eta))
        ahead = float(problem.once_s[k]) + iterations * problem.compute_delay_s[k]
        slowest = max(slowest, ahead + upload)
    total = problem.a / (1 - eta) * slowest
    late = total - plan.total_delay_s
    return Check(
        {
            "bandwidth": used / problem.bandwidth_hz - 1.0,
            "bandwidth of each client": float(np.max(-plan.bandwidth_hz)) / problem.bandwidth_hz,
            "local accuracy": 0.0 if 0 < eta < 1 else np.inf,
            "total delay": late / plan.total_delay_s if late > 0 else 0.0,
        },
        # 1 - eta loses nine digits where eta is nearest to 1.
        tolerance=1e-9 if eta < 0.999 else 1e-6,
    )
