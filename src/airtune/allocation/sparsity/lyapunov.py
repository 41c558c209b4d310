"""Drift plus penalty over many rounds: a virtual queue holds the mean latency at its target.

    Q(t+1) = max(Q(t) + tau(t) - target, 0),     each round minimises  v (energy dropped) + Q(t) tau

A round in which every client is in outage lasts the outage limit. Summing the recursion gives `mean
latency <= target + Q(T) / T` for every sequence of rounds, so the mean meets the target as soon as
the queue stays bounded, and a larger v needs more rounds for it (M. Neely, "Stochastic Network
Optimization", 2010, 4.4).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from airtune.allocation.solve import Solution
from airtune.allocation.sparsity.problem import (
    OUTAGE_FACTOR,
    SparsityPlan,
    SparsityProblem,
    dropped_energy,
)
from airtune.allocation.sparsity.solvers import fastest_split, why_no_plan
from airtune.errors import InfeasibleError
from airtune.quantities import FloatArray
from airtune.wireless.rate import Links

ChannelSource = Callable[[int], Links]
"""Round -> the links of all clients; the same round always gives the same links."""
RoundSolver = Callable[[SparsityProblem], Solution[SparsityPlan]]
_BISECTIONS = 30
_DOUBLINGS = 1_000


def next_queue(queue: float, latency_s: float, latency_target_s: float) -> float:
    """`max(Q + tau - target, 0)`, in seconds."""
    return max(queue + latency_s - latency_target_s, 0.0)


@dataclass(frozen=True)
class Rounds:
    """What happened in a number of rounds; arrays have the axis [round].

    Attributes:
        latency_s: of each round; the outage limit where every client was in outage.
        virtual_queue: at the start of each round.
        dropped_energy: weighted by client, of the clients in outage as well.
        outages: how many clients were skipped.
        ranks_sent: by all clients together.
        final_queue: after the last round.
    """

    latency_target_s: float
    clients: int
    latency_s: FloatArray
    virtual_queue: FloatArray
    dropped_energy: FloatArray
    outages: FloatArray
    ranks_sent: FloatArray
    final_queue: float

    def __len__(self) -> int:
        return len(self.latency_s)

    @property
    def mean_latency_s(self) -> float:
        """Over all rounds."""
        return float(self.latency_s.mean())

    @property
    def overshoot_limit_s(self) -> float:
        """Q(T) / T: the mean latency is at most this much above the target."""
        return self.final_queue / len(self)

    @property
    def outage_share(self) -> float:
        """Share of (client, round) pairs that were skipped."""
        return float(self.outages.mean()) / self.clients

    @property
    def empty_rounds(self) -> int:
        """Rounds in which every client was in outage."""
        return int(np.count_nonzero(self.outages == self.clients))


def run_rounds(
    problem: SparsityProblem, rounds: int, channel: ChannelSource, solve: RoundSolver
) -> Rounds:
    """Solve one round after another, with the queue after the last one.

    Args:
        problem: everything but the links; its `virtual_queue` is that of round 0.
        channel: links of each round.

    Raises:
        InfeasibleError: a round that no plan can hold although some client is not in outage.
    """
    rows: list[tuple[float, ...]] = []
    queue = problem.virtual_queue
    for index, current in enumerate(_problems(problem, rounds, channel)):
        current = replace(current, virtual_queue=queue)
        plan = _plan_of(current, index, solve)
        rows.append(
            (
                plan.latency_s,
                queue,
                float(problem.weight @ dropped_energy(problem, plan.kept)),
                float(plan.skipped.sum()),
                float(plan.kept.sum()),
            )
        )
        queue = next_queue(queue, plan.latency_s, problem.latency_target_s)
    latency, queues, dropped, outages, ranks = np.array(rows).T
    return Rounds(
        problem.latency_target_s,
        len(problem.links),
        latency,
        queues,
        dropped,
        outages,
        ranks,
        queue,
    )


def _problems(
    problem: SparsityProblem, rounds: int, channel: ChannelSource
) -> Iterator[SparsityProblem]:
    for index in range(rounds):
        yield replace(problem, links=channel(index))


def _plan_of(problem: SparsityProblem, index: int, solve: RoundSolver) -> SparsityPlan:
    if problem.in_outage().all():
        return without_clients(problem)
    solution = solve(problem)
    if solution.plan is None:
        raise InfeasibleError(f"Round {index}: {solution.message}")
    return solution.plan


def without_clients(problem: SparsityProblem) -> SparsityPlan:
    """The plan of a round in which every client is in outage: it lasts the outage limit."""
    nothing = np.zeros(problem.rank_energy.shape, dtype=bool)
    wait_s = problem.outage_limit_s
    queue = next_queue(problem.virtual_queue, wait_s, problem.latency_target_s)
    return SparsityPlan(nothing, np.zeros(len(problem.links)), wait_s, queue)


def least_mean_latency_s(problem: SparsityProblem, rounds: int, channel: ChannelSource) -> float:
    """Mean over the rounds of the least latency: every client sends one rank, the smallest.

    A round in which every client is in outage lasts the outage limit. No plan of any round is
    faster, so no target below this is reachable (on these draws, and with the outage limit of this
    problem).
    """
    total = 0.0
    for current in _problems(problem, rounds, channel):
        active = np.flatnonzero(~current.in_outage())
        if not len(active):
            total += current.outage_limit_s
            continue
        reason = why_no_plan(current, active)
        if reason:
            raise InfeasibleError(reason)
        total += fastest_split(current, active, current.least_bits[active])[1]
    return total / rounds


def least_reachable_target_s(
    problem: SparsityProblem, rounds: int, channel: ChannelSource, least_s: float
) -> float | None:
    """The smallest latency target that some planner can hold, where the problem's own is too low.

    With an outage limit of its own that is the least mean latency. With the default limit of so
    many times the target, a higher target also waits longer, and for more clients: the smallest
    target t with `least_mean_latency(t) <= t` is then found by bisection over the same draws. None
    where every target fails, since no client has a signal in too many rounds.

    Args:
        least_s: `least_mean_latency_s` of the problem, above its target.
    """
    if not np.isnan(problem.outage_latency_s):
        return least_s
    waits = problem.least_bits > 0
    dead = [
        bool((waits & (one.links.limit_bps() <= 0)).all())
        for one in _problems(problem, rounds, channel)
    ]
    if OUTAGE_FACTOR * sum(dead) >= rounds:
        return None

    def reachable(candidate: float) -> bool:
        shifted = replace(problem, latency_target_s=candidate)
        return least_mean_latency_s(shifted, rounds, channel) <= candidate

    low, high = problem.latency_target_s, 2.0 * max(least_s, problem.latency_target_s)
    for _ in range(_DOUBLINGS):
        if not np.isfinite(OUTAGE_FACTOR * high):
            return None
        if reachable(high):
            break
        low, high = high, 2.0 * high
    for _ in range(_BISECTIONS):
        if high - low <= 1e-3 * high:
            break
        middle = 0.5 * (low + high)
        low, high = (low, middle) if reachable(middle) else (middle, high)
    return high
