"""What TSFA derives before round 1 where the user did not say it: target, V, the queue's start.

All three come from the channels of the first rounds as the planner will see them, with the assumed
spectrum of energies, and are written into the resolved experiment.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airtune.allocation.bandwidth import minmax_bandwidth
from airtune.allocation.sparsity.lyapunov import least_mean_latency_s
from airtune.allocation.sparsity.problem import SparsityProblem
from airtune.allocation.sparsity.solvers import exact
from airtune.errors import InputError
from airtune.federated.idle import first_views
from airtune.federated.method import Settled
from airtune.federated.view import PlanningView
from airtune.methods.soft_tsfa.planner import TsfaPlanner
from airtune.quantities import format_duration

ROUNDS = 8
"""Channels looked at: those of as many first rounds in which a client can send."""
QUEUE_TARGETS = 2.0
"""The derived V lets the queue settle at so many targets: it fills within a few rounds, and the
mean latency is off by at most its change over the number of rounds."""
_COARSE = 1e-2
_STEPS = 14
_SPAN = 1e3


def settle(planner: TsfaPlanner, view: Callable[[int], PlanningView]) -> Settled:
    """The planner with every open option filled in, and those options.

    A target below what one group of ranks from everybody takes is kept, and said.
    """
    if None not in (planner.latency_target_s, planner.v, planner.virtual_queue):
        return Settled(planner)
    views = first_views(view, ROUNDS)
    target = planner.latency_target_s or _target_s(planner, views)
    trial = replace(planner, latency_target_s=target, v=1.0, virtual_queue=0.0)
    problems = _problems(trial, views)
    least = _least_s(problems)
    # The plan depends on Q / V alone, so V = 1 finds the ratio at which the target is just met.
    ratio = _stationary_ratio(problems, target) if least <= target else 1.0 / target
    v = planner.v if planner.v is not None else QUEUE_TARGETS * target / (ratio or 1.0 / target)
    queue = planner.virtual_queue
    options: dict[str, Any] = {
        "latency_target_s": target,
        "v": v,
        "virtual_queue": ratio * v if queue is None else queue,
    }
    notice = (
        f"soft_tsfa.latency_target_s = {format_duration(target)} cannot be reached: over the first "
        f"{len(views)} channels one rank from every client takes {format_duration(least)} in the "
        "mean."
    )
    return Settled(replace(planner, **options), options, (notice,) if least > target else ())


def _target_s(planner: TsfaPlanner, views: Sequence[PlanningView]) -> float:
    """`planner.target_share` of the way from the fastest round (one group of ranks each) to the
    dense one, in the median; reachable.

    The median, since under deep fades the mean is that of the worst round.
    """
    one = np.zeros(planner.layout.groups, dtype=bool)
    one[0] = True
    fast = _median_s(planner, views, one)
    slow = _median_s(planner, views, np.ones_like(one))
    target = fast + planner.target_share * (slow - fast)
    for _ in range(_STEPS):
        trial = replace(planner, latency_target_s=target, v=1.0, virtual_queue=0.0)
        least = _least_s(_problems(trial, views))
        if least <= target:
            break
        target = 1.05 * least
    return float(target)


def _median_s(
    planner: TsfaPlanner, views: Sequence[PlanningView], kept: NDArray[np.bool_]
) -> float:
    """Median over the rounds of the min-max latency when everybody in reach sends these groups."""
    latency = []
    for view in views:
        reached = np.flatnonzero(view.uplink.limit_bps() > 0)
        plans = [planner.layout.with_kept(view.full_plan(int(i)), kept) for i in reached]
        fixed_s = [view.broadcast_s + view.costs.compute_s(plan) for plan in plans]
        bits = [float(view.costs.payload_bits(plan)) for plan in plans]
        band = minmax_bandwidth(view.uplink.select(reached), bits, fixed_s, view.bandwidth_hz)
        if band.plan is not None:
            latency.append(band.plan.latency_s)
    if not latency:
        raise InputError(
            "cell", "without a client in reach in the first rounds", "able to carry an update"
        )
    return float(np.median(latency))


def _problems(trial: TsfaPlanner, views: Sequence[PlanningView]) -> list[SparsityProblem]:
    """The first rounds with everybody's energies as assumed."""
    return [trial.problem(view, trial.initial_state()) for view in views]


def _least_s(problems: Sequence[SparsityProblem]) -> float:
    """Mean latency when everybody who is not in outage sends its smallest group.

    A round with every client in outage waits for its limit.
    """
    return float(np.mean([least_mean_latency_s(one, 1, _same(one)) for one in problems]))


def _same(problem: SparsityProblem) -> Callable[[int], Any]:
    return lambda index: problem.links


def _stationary_ratio(problems: Sequence[SparsityProblem], target_s: float) -> float:
    """Q / V at which the mean latency is the target; 0 where not even a dense round exceeds it."""

    def mean_s(ratio: float) -> float:
        plans = [exact(replace(one, virtual_queue=ratio), _COARSE).plan for one in problems]
        latency = [
            one.outage_limit_s if plan is None else plan.latency_s
            for one, plan in zip(problems, plans, strict=True)
        ]
        return float(np.mean(latency))

    if mean_s(0.0) <= target_s:
        return 0.0
    low, high = 1.0 / (_SPAN * target_s), _SPAN / target_s
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if mean_s(middle) > target_s else (low, middle)
    return high
