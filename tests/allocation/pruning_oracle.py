"""A plain twin of the pruning planner: Python loops and root finding on single numbers.

It shares no code with the solvers, so that it can refute them.
"""

import math
import warnings

import numpy as np
from scipy.optimize import brentq

from airtune.allocation.pruning.problem import PruningProblem
from airtune.wireless.rate import FixedEfficiencyLinks, MixedLinks, ShannonLinks, mixed_links

GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


def random_problem(rng: np.random.Generator, clients: int, **changes: object) -> PruningProblem:
    """A random problem, shifted and scaled in time, bits and bandwidth."""
    time, bits, hertz = 10.0 ** rng.uniform(-3, 3, 3)
    spread = rng.uniform(0, 2)
    content: dict[str, object] = {
        "links": ShannonLinks(1e6 * hertz * 10 ** rng.uniform(-spread, spread, clients)),
        "bandwidth_hz": hertz * 10 ** rng.uniform(5, 8),
        "pruning_budget": rng.uniform(0.0, 0.6),
        "pruning_rate_max": rng.uniform(0.6, 1.0),
        "weight": rng.uniform(0.1, 1.0, clients),
        "fixed_delay_s": time * rng.uniform(0, 2, clients) * rng.integers(0, 2),
        "fixed_compute_s": time * rng.uniform(0, 1, clients),
        "prunable_compute_s": time * rng.uniform(0, 10, clients) * rng.integers(0, 2, clients),
        "fixed_bits": bits * rng.uniform(0, 1e6, clients) * rng.integers(0, 2),
        "prunable_bits": bits * rng.uniform(1e5, 1e7, clients),
        "pruning_rate_min": np.zeros(clients),
    }
    return PruningProblem(**{**content, **changes})  # type: ignore[arg-type]


def odd_problem(rng: np.random.Generator, clients: int) -> PruningProblem:
    """A problem with everything that may be missing missing somewhere, and with mixed links."""
    fixed = rng.random(clients) < 0.5
    cn0 = np.where(fixed, np.nan, 10 ** rng.uniform(3, 9, clients))
    eta = np.where(fixed, rng.uniform(0.1, 5, clients), np.nan)
    budget = float(rng.choice([0.0, 1e-9, 0.2, 0.5, 1.0]))
    highest = float(rng.choice([0.0, 0.5, 0.9, 1.0]))
    floor = min(budget, highest) * rng.uniform(0, 1, clients) * rng.integers(0, 2)
    return random_problem(
        rng,
        clients,
        links=mixed_links(cn0, eta),
        bandwidth_hz=10 ** rng.uniform(5, 8),
        pruning_budget=budget,
        pruning_rate_max=highest,
        weight=rng.choice([0.0, 1.0, 1.0, 2.0], clients) + 0.1 * (np.arange(clients) == 0),
        fixed_bits=rng.uniform(0, 1e6, clients) * rng.integers(0, 2, clients),
        prunable_bits=rng.uniform(1e5, 1e7, clients) * rng.integers(0, 2, clients),
        pruning_rate_min=floor,
    )


class PlainClient:
    """One client, in plain numbers."""

    def __init__(self, problem: PruningProblem, client: int) -> None:
        self.weight = float(problem.weight[client])
        self.start = float(problem.fixed_delay_s[client] + problem.fixed_compute_s[client])
        self.compute = float(problem.prunable_compute_s[client])
        self.fixed_bits = float(problem.fixed_bits[client])
        self.prunable_bits = float(problem.prunable_bits[client])
        self.lowest = float(problem.pruning_rate_min[client])
        self.highest = problem.pruning_rate_max
        self.band = problem.bandwidth_hz
        self.cn0, self.eta = _link(problem, client)

    def rate(self, bandwidth: float) -> float:
        if bandwidth <= 0:
            return 0.0
        if not math.isnan(self.eta):
            return self.eta * bandwidth
        return bandwidth * math.log1p(self.cn0 / bandwidth) / math.log(2.0)

    def finish(self, rho: float, bandwidth: float) -> float:
        bits = self.fixed_bits + (1 - rho) * self.prunable_bits
        rate = self.rate(bandwidth)
        upload = 0.0 if bits <= 0 else bits / rate if rate > 0 else math.inf
        return self.start + (1 - rho) * self.compute + upload

    def bandwidth(self, rho: float, deadline: float) -> float:
        """Least bandwidth for this pruning rate by bracketing; inf above the whole band."""
        if self.finish(rho, self.band) > deadline:
            return math.inf
        if self.finish(rho, 0.0) <= deadline:
            return 0.0

        def lateness(log_bandwidth: float) -> float:
            return min(self.finish(rho, math.exp(log_bandwidth)), 1e300) - deadline

        ends = math.log(self.band) - 150.0, math.log(self.band)
        return math.exp(brentq(lateness, *ends, xtol=1e-14, rtol=1e-14))

    def pruning_rate(self, bandwidth: float, deadline: float) -> float:
        """Least pruning rate for this bandwidth; finish is linear in rho. inf if there is none."""
        late = self.finish(self.lowest, bandwidth) - deadline
        if late <= 0:
            return self.lowest
        if self.finish(self.highest, bandwidth) > deadline * (1 + 1e-13):
            return math.inf
        rate = self.rate(bandwidth)
        if self.prunable_bits > 0 and rate == 0:
            return self.highest
        gain = self.compute + (self.prunable_bits / rate if self.prunable_bits else 0.0)
        return min(self.lowest + late / gain, self.highest) if gain > 0 else self.lowest

    def least_cost(self, deadline: float, price_hz: float) -> float:
        """`min_b [ b + price w rho(b) ]` by golden section; convex in b. inf if out of reach."""
        low = self.bandwidth(self.highest, deadline)
        if low == math.inf:
            return math.inf
        low, high = low * (1 + 1e-13), self.band

        def cost(bandwidth: float) -> float:
            return bandwidth + price_hz * self.weight * self.pruning_rate(bandwidth, deadline)

        best = min(cost(low), low + price_hz * self.weight * self.highest, cost(high))
        for _ in range(90):
            left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
            if cost(left) <= cost(right):
                high = right
            else:
                low = left
        return min(best, cost(0.5 * (low + high)))


def plain_clients(problem: PruningProblem) -> list[PlainClient]:
    return [PlainClient(problem, client) for client in range(len(problem))]


def proves_impossible(problem: PruningProblem, deadline: float, price_hz: float) -> bool:
    """Whether the Lagrangian bound at this deadline and price exceeds what is allowed.

    In hertz: `sum_n min_b [b + price w rho] - price Gamma > B`; divided by the price that is a
    lower bound on the weighted pruning above Gamma. At an infinite price it is the pruning that is
    needed even if every client had the whole band.
    """
    clients = plain_clients(problem)
    if price_hz == math.inf:
        needed = [one.pruning_rate(one.band, deadline) for one in clients]
        weighted = [one.weight * rho for one, rho in zip(clients, needed, strict=True)]
        return math.inf in needed or math.fsum(weighted) > problem.pruning_budget
    costs = [one.least_cost(deadline, price_hz) for one in clients]
    return math.fsum(costs) - price_hz * problem.pruning_budget > problem.bandwidth_hz


def convex_least_pruning(problem: PruningProblem, deadline: float) -> float | None:
    """The fixed-deadline problem in cvxpy with Clarabel: least weighted pruning, inf if none.

    None where the solver does not claim to have solved it.
    """
    import cvxpy

    band = problem.bandwidth_hz / len(problem)
    cn0 = problem.links.cn0_hz / band  # type: ignore[attr-defined]
    kept, share = cvxpy.Variable(len(problem)), cvxpy.Variable(len(problem), nonneg=True)
    # Bandwidths in equal shares, times in deadlines, bits in share x deadline.
    rate = -cvxpy.rel_entr(share, share + cn0) / math.log(2.0)
    s0, s1 = problem.fixed_bits / (band * deadline), problem.prunable_bits / (band * deadline)
    left = 1.0 - problem.earliest_start_s / deadline
    compute = problem.prunable_compute_s / deadline
    needed = []
    for n in range(len(problem)):
        if compute[n] > 0:
            # (s0 + k s1) / (left - k compute) is linear-fractional in k: split off its constant.
            stake = s0[n] + s1[n] * left[n] / compute[n]
            spare = cvxpy.inv_pos(left[n] - kept[n] * compute[n])
            needed.append(stake * spare - s1[n] / compute[n])
        else:
            needed.append((s0[n] + s1[n] * kept[n]) / left[n])
    constraints = [
        cvxpy.hstack(needed) <= rate,
        cvxpy.sum(share) <= len(problem),
        kept <= 1 - problem.pruning_rate_min,
        kept >= 1 - problem.pruning_rate_max,
    ]
    program = cvxpy.Problem(cvxpy.Minimize(problem.weight @ (1 - kept)), constraints)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program.solve(solver=cvxpy.CLARABEL)
    except cvxpy.SolverError:
        return None
    if program.status == cvxpy.INFEASIBLE:
        return math.inf
    return float(program.value) if program.status == cvxpy.OPTIMAL else None


def _link(problem: PruningProblem, client: int) -> tuple[float, float]:
    links = problem.links
    if isinstance(links, MixedLinks):
        if links.is_fixed[client]:
            return math.nan, float(links.fixed.spectral_efficiency_bps_hz[client])
        return float(links.shannon.cn0_hz[client]), math.nan
    if isinstance(links, FixedEfficiencyLinks):
        return math.nan, float(links.spectral_efficiency_bps_hz[client])
    assert isinstance(links, ShannonLinks)
    return float(links.effective_hz[client]), math.nan
