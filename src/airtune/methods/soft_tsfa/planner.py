"""TSFA's online stage as a planner: which ranks travel over which bandwidth, under a mean latency.

In the manner of Kim and Choi, arXiv 2505.00333. Each round minimises
`V sum_n w_n (energy share that n drops) + Q tau` (`allocation/sparsity/`), with one virtual queue
`Q(t+1) = max(Q + tau - target, 0)` in the planner's state, that is, in the checkpoint. The plan
does not use this round's training: energies are those that each client reported with its last
update, as shares of that client's total, so that V keeps its meaning as training converges.

Target, V and the queue's start are derived before round 1 where the user did not give them
(`settle`): from the channels of the first rounds as the planner will see them, with the assumed
spectrum of energies. They are written into the resolved experiment.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from airtune.allocation.bandwidth import minmax_bandwidth
from airtune.allocation.solve import Solution, Status
from airtune.allocation.sparsity.lyapunov import least_mean_latency_s, next_queue
from airtune.allocation.sparsity.problem import (
    OUTAGE_FACTOR,
    SparsityPlan,
    SparsityProblem,
    dropped_energy,
)
from airtune.allocation.sparsity.solvers import PROVEN_GAP, dense, exact, fixed_sparsity
from airtune.errors import InfeasibleError, InputError
from airtune.federated.idle import first_views
from airtune.federated.method import Planner, PlannerState, Settled
from airtune.federated.records.record import RoundRecord
from airtune.federated.view import PlanningView
from airtune.methods.soft_tsfa.layout import RankLayout, newest
from airtune.methods.soft_tsfa.recorded import Planned
from airtune.quantities import FloatArray, format_duration
from airtune.round_plan import ClientPlan, Decision, Plan

GAP = 1e-3
"""Where the exact solver may stop in a round; the plan is recorded with its bound."""
_HURRY_STEPS = 12
_MOST_HURRY = 1e6

SOLVERS: dict[str, Callable[["TsfaPlanner", SparsityProblem], Solution[SparsityPlan]]] = {
    "exact": lambda planner, problem: exact(problem, GAP),
    "fixed-sparsity": lambda planner, problem: fixed_sparsity(problem, planner.sparsity, False),
    "dense": lambda planner, problem: dense(problem, False),
}


@final
@dataclass(frozen=True)
class TsfaPlanner(Planner):
    """Kept ranks and bandwidths of a round, by one of `SOLVERS`.

    Every client keeps at least one group of ranks, unless one group over the whole band would end
    later than `outage_latency_s` (default 5 x the target) or the deadline: then it is skipped.

    Args:
        layout: the ranks of the adapter.
        solver: `exact`, `fixed-sparsity` or `dense`.
        sparsity: share of the ranks removed (fixed-sparsity).
        latency_target_s: long-term limit of the mean latency; None: derived (`settle`).
        v: objective per share of energy [s^2]; None: derived.
        virtual_queue: before round 1 [s]; None: the stationary value.
        outage_latency_s: None: 5 x the target.
        target_share: of the derived target, from the fastest (0) to the dense round (1).
    """

    layout: RankLayout
    solver: str = "exact"
    sparsity: float = 0.5
    latency_target_s: float | None = None
    v: float | None = None
    virtual_queue: float | None = None
    outage_latency_s: float | None = None
    target_share: float = 0.3

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise InputError("soft_tsfa.solver", self.solver, f"one of {', '.join(SOLVERS)}")

    @property
    def decides(self) -> frozenset[Decision]:
        if self.solver == "dense":
            return frozenset()
        one = Decision.KEPT_RANKS if self.layout.selection == "global" else Decision.SPARSITY
        return frozenset({one})

    def settled(self, view: Callable[[int], PlanningView]) -> Settled:
        return settle(self, view)

    def initial_state(self) -> dict[str, Any]:
        return {"virtual_queue": self.virtual_queue or 0.0, "energies": {}}

    def with_reports(
        self, state: PlannerState, reported: Mapping[int, Sequence[float]]
    ) -> dict[str, Any]:
        heard = {str(n): self.layout.energies(shares).tolist() for n, shares in reported.items()}
        return {**state, "energies": {**state["energies"], **heard}}

    def after_round(self, state: PlannerState, record: RoundRecord) -> dict[str, Any]:
        assert self.latency_target_s is not None
        queue = next_queue(state["virtual_queue"], record.latency_s, self.latency_target_s)
        return {**state, "virtual_queue": queue}

    def idle_s(self, view: PlanningView) -> float:
        """A round with every client in outage lasts the outage limit."""
        assert self.latency_target_s is not None
        return self.outage_latency_s or OUTAGE_FACTOR * self.latency_target_s

    def plan(self, view: PlanningView, state: PlannerState) -> Plan:
        problem = self.problem(view, state)
        if problem.in_outage().all():
            skipped = self._skipped(view, problem, range(len(view.cohort)))
            return Plan((), 0.0, None, Status.INFEASIBLE, "all clients are in outage", skipped)
        solution = SOLVERS[self.solver](self, problem)
        if solution.plan is None:
            raise InfeasibleError(f"In round {view.round_index + 1}: {solution.message}")
        chosen = self._in_time(problem, view.deadline_s, solution.plan)
        return self._divided(view, problem, chosen, solution.lower_bound)

    def problem(self, view: PlanningView, state: PlannerState) -> SparsityProblem:
        """The round as the solvers' problem; `settled` planners only."""
        assert self.latency_target_s is not None
        assert self.v is not None
        plans = [view.full_plan(position) for position in range(len(view.cohort))]
        bits = self.layout.payload_bits(view.costs, plans[0])
        each, fixed = (view.costs.transfer.air_bits(part) for part in bits)
        outage_s = self.idle_s(view)
        return SparsityProblem(
            links=view.uplink,
            bandwidth_hz=view.bandwidth_hz,
            compute_delay_s=view.broadcast_s
            + np.array([view.costs.before_upload_s(plan) for plan in plans]),
            rank_energy=newest(state["energies"], view.cohort, self.layout.assumed()),
            rank_payload_bits=np.broadcast_to(each, (len(plans), len(each)))
            if self.layout.selection == "global"
            else np.full(len(plans), each[0]),
            latency_target_s=self.latency_target_s,
            v=self.v,
            virtual_queue=state["virtual_queue"],
            fixed_payload_bits=np.full(len(plans), float(fixed)),
            weight=view.weights,
            outage_latency_s=min(outage_s, view.deadline_s or np.inf),
            names=[name.removeprefix("client ") for name in view.names],
        )

    def _in_time(
        self, problem: SparsityProblem, deadline_s: float | None, best: SparsityPlan
    ) -> SparsityPlan:
        """The solver's plan; past a deadline, the one with the least more hurry that keeps it.

        Latency falls with the queue, and the fastest plan (one group each) may still be too slow:
        then it is returned, and the late ones are discarded as any late update is.
        """
        if deadline_s is None or best.latency_s <= deadline_s:
            return best
        assert self.v is not None
        low = max(problem.virtual_queue, 1e-6 * self.v / problem.latency_target_s)
        high = low * _MOST_HURRY
        best = SOLVERS[self.solver](self, replace(problem, virtual_queue=high)).plan or best
        for _ in range(_HURRY_STEPS if self.solver == "exact" else 0):
            middle = float(np.sqrt(low * high))
            tried = SOLVERS[self.solver](self, replace(problem, virtual_queue=middle)).plan
            if tried is not None and tried.latency_s <= deadline_s:
                best, high = tried, middle
            else:
                low = middle
        return best

    def _skipped(
        self, view: PlanningView, problem: SparsityProblem, positions: Sequence[int]
    ) -> dict[int, str]:
        limit = format_duration(problem.outage_limit_s)
        reason = f"in outage: it cannot send one rank within {limit} at any share of the band"
        return {int(view.cohort[i]): reason for i in positions}

    def _divided(
        self,
        view: PlanningView,
        problem: SparsityProblem,
        chosen: SparsityPlan,
        bound: float | None,
    ) -> Plan:
        """The plan with the bandwidths divided again for the payloads' exact bits.

        Objective, bound, status and sentence are those of this plan. `bound` is the solver's, on
        payloads along a straight line.
        """
        active = np.flatnonzero(~chosen.skipped)
        plans = [self.layout.with_kept(view.full_plan(int(i)), chosen.kept[i]) for i in active]
        bits = np.array([view.costs.air_bits(plan) for plan in plans])
        ahead_s = np.array([view.costs.before_upload_s(plan) for plan in plans])
        fixed_s = view.broadcast_to(active.tolist()) + ahead_s
        names = [problem.names[int(i)] for i in active]
        links = view.uplink.select(active)
        band = minmax_bandwidth(links, bits, fixed_s, view.bandwidth_hz, names)
        if band.plan is None:
            raise InfeasibleError(f"In round {view.round_index + 1}: {band.message}")
        latency_s, shares = band.plan.latency_s, band.plan.bandwidth_hz
        objective = problem.v * float(problem.weight @ dropped_energy(problem, chosen.kept))
        objective += problem.virtual_queue * latency_s
        if bound is not None:
            # What starts earlier than in the problem ends earlier by no more than that.
            earlier_s = float(np.max(problem.compute_delay_s[active] - fixed_s))
            bound = max(bound - problem.virtual_queue * max(earlier_s, 0.0), 0.0)
            # A payload may be shorter than its straight line by this share of the least one.
            sag = self.layout.most_below_line_bits(view.costs, view.full_plan(0))
            sag = float(view.costs.transfer.air_bits(sag))
            bound *= max(1.0 - sag / float(problem.least_bits[active].min()), 0.0)
        return Plan(
            _with_bandwidth(plans, shares),
            latency_s,
            None,
            *_verdict(problem, chosen, latency_s, objective, bound),
            self._skipped(view, problem, np.flatnonzero(chosen.skipped).tolist()),
            extras=asdict(
                Planned(
                    virtual_queue_s=problem.virtual_queue,
                    latency_target_s=self.latency_target_s,
                    planned_dropped_energy=_dropped(problem, chosen),
                    objective=objective,
                    objective_lower_bound=bound,
                )
            ),
        )


def _verdict(
    problem: SparsityProblem,
    chosen: SparsityPlan,
    latency_s: float,
    objective: float,
    bound: float | None,
) -> tuple[str, str]:
    """Status and sentence of the plan as it runs."""
    optimal = bound is not None and objective - bound <= PROVEN_GAP * bound
    claim = "Optimal" if optimal else "Feasible"
    if bound is not None and bound > 0 and not optimal:
        claim += f", at most {100 * (objective / bound - 1):.2g} % above the optimum"
    active = int(np.count_nonzero(~chosen.skipped))
    out = f", {len(chosen.kept) - active} in outage" if active < len(chosen.kept) else ""
    return str(Status.OPTIMAL if optimal else Status.FEASIBLE), (
        f"{claim}: {int(chosen.kept.sum())} groups of ranks sent by {active} clients{out}, the "
        f"round takes {format_duration(latency_s)}, {_dropped(problem, chosen):.1%} of their "
        "energy dropped."
    )


def _with_bandwidth(plans: Sequence[ClientPlan], shares: FloatArray) -> tuple[ClientPlan, ...]:
    return tuple(
        plan.changed(bandwidth_hz=float(share)) for plan, share in zip(plans, shares, strict=True)
    )


def _dropped(problem: SparsityProblem, chosen: SparsityPlan) -> float:
    """Share of the energy that the plan expects to drop, of the clients that are not skipped."""
    active = ~chosen.skipped
    weight = problem.weight[active] / problem.weight[active].sum()
    lost = np.where(chosen.kept, 0.0, problem.rank_energy)[active].sum(axis=1)
    return float(weight @ lost)


START_ROUNDS = 8
"""Channels looked at: those of as many first rounds in which a client can send."""
QUEUE_TARGETS = 2.0
"""The derived V lets the queue settle at so many targets: it fills within a few rounds, and the
mean latency is off by at most its change over the number of rounds."""
_COARSE = 1e-2
_STEPS = 14
_SPAN = 1e3


def settle(planner: TsfaPlanner, view: Callable[[int], PlanningView]) -> Settled:
    """The planner with every open option filled in, and those options.

    A target below what one group of ranks from every client takes is kept, and reported.
    """
    if None not in (planner.latency_target_s, planner.v, planner.virtual_queue):
        return Settled(planner)
    views = first_views(view, START_ROUNDS)
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
    """Median over the rounds of the min-max latency when all clients in reach send these groups."""
    latency = []
    for view in views:
        reached = np.flatnonzero(view.uplink.limit_bps() > 0)
        plans = [planner.layout.with_kept(view.full_plan(int(i)), kept) for i in reached]
        fixed_s = [view.broadcast_s + view.costs.before_upload_s(plan) for plan in plans]
        bits = [view.costs.air_bits(plan) for plan in plans]
        band = minmax_bandwidth(view.uplink.select(reached), bits, fixed_s, view.bandwidth_hz)
        if band.plan is not None:
            latency.append(band.plan.latency_s)
    if not latency:
        raise InputError(
            "cell", "without a client in reach in the first rounds", "able to carry an update"
        )
    return float(np.median(latency))


def _problems(trial: TsfaPlanner, views: Sequence[PlanningView]) -> list[SparsityProblem]:
    """The first rounds with all clients' energies as assumed."""
    return [trial.problem(view, trial.initial_state()) for view in views]


def _least_s(problems: Sequence[SparsityProblem]) -> float:
    """Mean latency when every client that is not in outage sends its smallest group.

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
