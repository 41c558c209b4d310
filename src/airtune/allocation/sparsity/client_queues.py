"""TSFA with a virtual queue per client: every client's own latency is held at the target.

    min  v sum_n w_n (energy that n drops) + sum_n Q_n tau_n,    tau_n = delay_n + bits_n / r_n(b_n)
    sum_n b_n <= B,   b_n >= floor;       Q_n(t+1) = max(Q_n + tau_n - target, 0)

A client with an empty queue has no cost of latency and would get no bandwidth: hence the floor. For
a price p on bandwidth the problem separates by client: each takes the option and the bandwidth of
`min_k,b [v w dropped_k + Q (delay + bits_k / r(b)) + p b]`, convex in b for each option. The sum of
these minima less `p B` is a lower bound for every p >= 0. The plans on either side of the best
price are completed to the whole band, and each client's ranks fitted to its bandwidth, one client
after another.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from airtune.allocation.bandwidth import airtime_s, concave
from airtune.allocation.solve import Check, Solution, SolveTimer, Status, checked
from airtune.allocation.sparsity.options import IntArray, RankOptions, rank_options
from airtune.allocation.sparsity.problem import (
    SparsityPlan,
    SparsityProblem,
    constraint_excess,
    dropped_energy,
    finish_s,
    relative_excess,
)
from airtune.allocation.sparsity.solvers import PROVEN_GAP, why_no_plan
from airtune.errors import InputError
from airtune.quantities import FloatArray, format_duration
from airtune.wireless.rate import Links

FLOOR_SHARE = 0.1
"""Default bandwidth floor: this share of an equal part of the band."""
_SOLVER = "per-client-queues"
_STEPS = 100


@dataclass(frozen=True)
class ClientQueues:
    """The state of a queue per client.

    Attributes:
        queue: Q_n [client], objective per second of the client's own latency, >= 0.
        floor_hz: least bandwidth of every client that is not skipped; NaN for a tenth of an equal
            part of the band.
    """

    queue: FloatArray
    floor_hz: float = np.nan

    def floor(self, bandwidth_hz: float, clients: int) -> float:
        """The floor for so many clients; InputError where it does not fit into the band."""
        if np.isnan(self.floor_hz):
            return FLOOR_SHARE * bandwidth_hz / clients
        if not 0 < self.floor_hz * clients <= bandwidth_hz * (1.0 + 1e-12):
            allowed = f"> 0 and at most 1/{clients} of the band, {bandwidth_hz / clients:g} Hz"
            raise InputError("bandwidth_floor_hz", self.floor_hz, allowed)
        return self.floor_hz


def per_client_queues(problem: SparsityProblem, queues: ClientQueues) -> Solution[SparsityPlan]:
    """Ranks and bandwidths of a round for a queue per client, with a lower bound.

    Args:
        problem: its own single `virtual_queue` is not used.

    Raises:
        InputError: a negative queue, or a floor that does not fit into the band.
    """
    watch = SolveTimer()
    if queues.queue.shape != (len(problem.links),) or not (queues.queue >= 0).all():
        raise InputError("virtual_queue", queues.queue.tolist(), "a number >= 0 for each client")
    active = np.flatnonzero(~problem.in_outage())
    reason = why_no_plan(problem, active)
    if reason:
        return Solution(Status.INFEASIBLE, reason, _SOLVER)
    market = _Market.of(problem, queues, active)
    option, bandwidth, proven, trace = _best_plan(market)
    bound = proven if market.options.complete else None
    seconds = watch.seconds
    kept = np.zeros(problem.rank_energy.shape, dtype=bool)
    kept[active] = market.options.kept(option)
    granted = np.zeros(len(problem.links))
    granted[active] = bandwidth
    return _solution(problem, queues, SparsityPlan(kept, granted, 0.0, 0.0), bound, seconds, trace)


@dataclass(frozen=True)
class _Market:
    """The clients that are not skipped, and the band that they share; arrays [client]."""

    links: Links
    options: RankOptions
    gain: FloatArray
    hurry: FloatArray
    delay_s: FloatArray
    floor_hz: float
    bandwidth_hz: float
    bits: FloatArray
    """[option, client]"""

    @classmethod
    def of(cls, problem: SparsityProblem, queues: ClientQueues, active: IntArray) -> "_Market":
        options = rank_options(
            problem.rank_energy[active],
            problem.rank_payload_bits[active],
            problem.fixed_payload_bits[active],
        )
        every = np.arange(options.dropped.shape[1])[:, None]
        return cls(
            concave(problem.links.select(active)),
            options,
            problem.v * problem.weight[active],
            queues.queue[active],
            problem.compute_delay_s[active],
            queues.floor(problem.bandwidth_hz, len(active)),
            problem.bandwidth_hz,
            options.bits(np.arange(len(active)), every),
        )

    def value(self, option: IntArray, bandwidth_hz: FloatArray) -> float:
        """The objective of a plan."""
        rows = np.arange(len(option))
        wait = self.delay_s + airtime_s(self.bits[option, rows], self.links.rate(bandwidth_hz))
        lost = self.gain * self.options.dropped[rows, option]
        return float((lost + self.hurry * wait).sum())

    def demand(self, bits: FloatArray, log_price: float) -> FloatArray:
        """Bandwidth [..., client] at which `Q bits / r(b) + p b` is least, between floor and band.

        There `Q bits r'(b) / r(b)^2 = p`; the logarithm of the left side falls with ln b at a slope
        of about -2 (exactly so at a fixed spectral efficiency).
        """
        with np.errstate(divide="ignore"):
            worth = np.log(self.hurry * np.where(np.isinf(bits), 0.0, bits)) - log_price

        def excess(log_bandwidth: FloatArray) -> FloatArray:
            bandwidth = np.exp(log_bandwidth)
            with np.errstate(divide="ignore"):
                fall = np.log(self.links.slope(bandwidth))
                value: FloatArray = worth + fall - 2.0 * np.log(self.links.rate(bandwidth))
            return value

        low = np.full(bits.shape, np.log(self.floor_hz))
        high = np.full(bits.shape, np.log(self.bandwidth_hz))
        return np.clip(np.exp(_root(excess, low, high, -2.0)), self.floor_hz, self.bandwidth_hz)

    def alone(self) -> float:
        """The lower bound at price 0: every client has the whole band to itself."""
        wait = self.delay_s + airtime_s(
            self.bits, self.links.rate(np.full(len(self.gain), self.bandwidth_hz))
        )
        cost = self.cost(wait)
        return float(cost.min(axis=0).sum())

    def cost(self, wait_s: FloatArray) -> FloatArray:
        """Lost energy and waiting [option, client]; inf in the padding."""
        with np.errstate(invalid="ignore"):
            waiting = np.where(self.hurry > 0, self.hurry * wait_s, 0.0)
        cost = self.gain * self.options.dropped.T + waiting
        return np.where(np.isinf(self.bits), np.inf, cost)

    def cheapest(self, log_price: float) -> tuple[float, float, IntArray]:
        """The lower bound at this price, the band that its plan takes, and the options [client]."""
        price = np.exp(log_price)
        bandwidth = self.demand(self.bits, log_price)
        wait = self.delay_s + airtime_s(self.bits, self.links.rate(bandwidth))
        cost = self.cost(wait) + price * bandwidth
        row = np.argmin(cost, axis=0)
        rows = np.arange(len(row))
        bound = float(cost[row, rows].sum()) - price * self.bandwidth_hz
        return bound, float(bandwidth[row, rows].sum()), row

    def split(self, option: IntArray) -> FloatArray:
        """The whole band, split best for these options [client]."""
        bits = self.bits[option, np.arange(len(option))]
        low, high = self.log_prices()

        def excess(log_price: FloatArray) -> FloatArray:
            used = self.demand(bits, float(log_price)).sum()
            return np.asarray(np.log(used / self.bandwidth_hz))

        share = self.demand(bits, float(_root(excess, low, high, -0.5)))
        # Bandwidth that no client with a queue needs is shared evenly.
        spare = self.bandwidth_hz - float(share.sum())
        if spare > 0:
            return share + spare / len(share)
        shrunk: FloatArray = share * (self.bandwidth_hz / share.sum())
        return shrunk

    def log_prices(self) -> tuple[FloatArray, FloatArray]:
        """Logarithms of a price at which every client with a queue demands the whole band, and of
        one at which all stay at the floor."""
        ends = []
        for bandwidth, pick in ((self.bandwidth_hz, np.min), (self.floor_hz, np.max)):
            b = np.full(len(self.gain), bandwidth)
            with np.errstate(divide="ignore"):
                worth = self.hurry * self.links.slope(b) / self.links.rate(b) ** 2
            worth = np.where(np.isfinite(self.bits), self.bits, 0.0) * worth
            eager = worth[worth > 0]
            ends.append(np.log(pick(eager)) if len(eager) else 0.0)
        return np.asarray(ends[0] - 1.0), np.asarray(ends[1] + 1.0)


def _best_plan(market: _Market) -> tuple[IntArray, FloatArray, float, list[float]]:
    """Options, bandwidths, lower bound and the objectives on the way."""
    seen: dict[float, tuple[float, float, IntArray]] = {}

    def excess(log_price: FloatArray) -> FloatArray:
        seen[float(log_price)] = found = market.cheapest(float(log_price))
        return np.asarray(np.log(found[1] / market.bandwidth_hz))

    _root(excess, *market.log_prices(), -0.5)
    ranked = sorted(seen.values(), key=lambda found: abs(found[1] - market.bandwidth_hz))
    plans: list[tuple[float, IntArray, FloatArray]] = []
    for _, _, option in ranked[:4]:
        plans += _improved(market, option)
    best = min(range(len(plans)), key=lambda index: plans[index][0])
    bound = max(market.alone(), *(found[0] for found in seen.values()))
    values = np.minimum.accumulate([value for value, _, _ in plans]).tolist()
    return plans[best][1], plans[best][2], min(bound, plans[best][0]), values


def _improved(market: _Market, option: IntArray) -> list[tuple[float, IntArray, FloatArray]]:
    """Bandwidths for the ranks, then ranks for the bandwidths, until the objective no longer
    falls."""
    plans: list[tuple[float, IntArray, FloatArray]] = []
    for _ in range(_STEPS):
        bandwidth = market.split(option)
        value = market.value(option, bandwidth)
        if plans and value >= plans[-1][0] * (1.0 - 1e-12):
            break
        plans.append((value, option, bandwidth))
        option = np.argmin(
            market.cost(airtime_s(market.bits, market.links.rate(bandwidth))), axis=0
        )
    return plans


def _root(
    function: Callable[[FloatArray], FloatArray], low: FloatArray, high: FloatArray, slope: float
) -> FloatArray:
    """Elementwise root of a falling function in a bracket; the end nearest to it if there is none.

    Steps with a constant slope, and bisection wherever such a step did not halve the value (a jump
    of the function is closed in on by bisection alone).
    """
    at_low, at_high = function(low), function(high)
    low, high = np.where(at_high >= 0, high, low), np.where(at_low <= 0, low, high)
    x, last = 0.5 * (low + high), np.full(np.shape(low), np.inf)
    for _ in range(_STEPS):
        value = function(x)
        low, high = np.where(value > 0, x, low), np.where(value > 0, high, x)
        proposal = x - value / slope
        good = (np.abs(value) <= 0.5 * last) & (proposal > low) & (proposal < high)
        last = np.abs(value)
        done = (last <= 1e-13) | (high - low <= 1e-13 * np.maximum(1.0, np.abs(high)))
        if done.all():
            break
        x = np.where(done, x, np.where(good, proposal, 0.5 * (low + high)))
    return x


def _solution(
    problem: SparsityProblem,
    queues: ClientQueues,
    plan: SparsityPlan,
    bound: float | None,
    seconds: float,
    trace: list[float],
) -> Solution[SparsityPlan]:
    """The plan with its latencies, its objective and the bound of all clients, checked."""
    finish = finish_s(problem, plan)
    behind = queues.queue + np.where(plan.skipped, 0.0, finish - problem.latency_target_s)
    plan = replace(plan, latency_s=float(finish.max()), virtual_queue_next=np.maximum(behind, 0.0))
    objective = _objective(problem, queues, plan)
    if bound is not None:
        skipped = problem.weight * plan.skipped
        bound = min(
            bound + problem.v * float(skipped @ dropped_energy(problem, plan.kept)), objective
        )
    proven = bound is not None and objective - bound <= PROVEN_GAP * bound
    hasty = int(np.count_nonzero(queues.queue[~plan.skipped]))
    message = (
        f"{int(plan.kept.sum())} ranks sent in {format_duration(plan.latency_s)}; {hasty} clients "
        "are behind their target, the others keep at least the bandwidth floor."
    )
    solution = Solution(
        Status.OPTIMAL if proven else Status.FEASIBLE,
        message,
        _SOLVER,
        plan,
        objective,
        bound,
        len(trace),
        seconds,
        tuple(trace),
    )
    return checked(solution, lambda found: _check(problem, queues, found, objective))


def _objective(problem: SparsityProblem, queues: ClientQueues, plan: SparsityPlan) -> float:
    lost = problem.v * float(problem.weight @ dropped_energy(problem, plan.kept))
    return lost + float(queues.queue @ finish_s(problem, plan))


def _check(
    problem: SparsityProblem, queues: ClientQueues, plan: SparsityPlan, objective: float
) -> Check:
    """The constraints of every plan, the floor and the objective."""
    busy = ~plan.skipped
    floor = queues.floor(problem.bandwidth_hz, int(busy.sum()))
    excess = constraint_excess(problem, plan)
    excess["bandwidth floor"] = float((1.0 - plan.bandwidth_hz[busy] / floor).max())
    actual = _objective(problem, queues, plan)
    return Check({**excess, "objective": relative_excess(actual, objective)})
