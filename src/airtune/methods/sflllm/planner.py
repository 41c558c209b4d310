"""The planner of sflllm, in the manner of SflLLM (Zhao et al., arXiv 2504.14667).

The model is cut after a block: clients run the first blocks, a main server behind the base station
the rest, both with LoRA, and a federated server averages the client halves. Subchannels, power and
split points are decided every round by a solver of `airtune plan`.
"""

from dataclasses import dataclass
from typing import final

import numpy as np

from airtune.allocation.solve import OPTIMALITY, Solution, Status
from airtune.allocation.split.problem import SplitPlan
from airtune.cost.latency import straggler_of
from airtune.errors import InfeasibleError, InputError
from airtune.federated.idle import NO_SIGNAL
from airtune.federated.method import Planner, PlannerState
from airtune.federated.view import PlanningView
from airtune.methods.sflllm.own_points import OwnPointSearch
from airtune.methods.sflllm.problem import SOLVERS, SflllmProblem
from airtune.methods.sflllm.round_problem import SplitProblem, silent
from airtune.quantities import format_duration
from airtune.round_plan import ClientPlan, Decision, Plan
from airtune.seeds import integer_seed

RUN_SOLVERS = tuple(name for name in SOLVERS if name != "blocks")
SPLIT_POINTS = ("common", "own")


@final
@dataclass(frozen=True)
class SflllmPlanner(Planner):
    """Split points, subchannels and powers by a solver of `airtune plan`.

    `split_point` fixes the cut for all; with `split_points: own` clients may differ, which is for
    solver `joint` only. Random solvers draw in every round. Clients whose memory does not hold
    the half at a split point rule that point out. All wait for the slowest, so with a deadline the
    slowest are left out until the others make it.
    """

    solver: str = "joint"
    split_point: int | None = None
    split_points: str = "common"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.solver not in RUN_SOLVERS:
            raise InputError("sflllm.solver", self.solver, f"one of {', '.join(RUN_SOLVERS)}")
        if self.split_points not in SPLIT_POINTS:
            raise InputError(
                "sflllm.split_points", self.split_points, f"one of {', '.join(SPLIT_POINTS)}"
            )
        if self.split_points == "own" and (self.solver != "joint" or self.split_point is not None):
            raise InputError(
                "sflllm.split_points",
                "own",
                "common for this solver or a fixed split_point",
                "solver joint without split_point chooses a cut for every client",
            )

    @property
    def decides(self) -> frozenset[Decision]:
        return frozenset({Decision.SPLIT})

    def plan(self, view: PlanningView, state: PlannerState) -> Plan:
        kept, skipped = _within_reach(view)
        while kept:
            problem = SplitProblem(view, kept)
            plan = self._plan(problem, skipped)
            if view.deadline_s is None or plan.predicted_latency_s <= view.deadline_s:
                return plan
            slowest = straggler_of(problem.timeline(plan.clients).own_stages())
            client = problem.clients[slowest]
            skipped = {
                **skipped,
                client: f"would make all miss the deadline of {view.deadline_s:g} s",
            }
            kept = [i for i in kept if int(view.cohort[i]) != client]
        return Plan((), 0.0, None, Status.INFEASIBLE, "no client can be reached", skipped)

    def _plan(self, problem: SplitProblem, skipped: dict[int, str]) -> Plan:
        view, kept = problem.view, problem.kept
        points = self.common_points(problem)
        training = problem.training(points)
        seed = integer_seed(self.seed, "sflllm baselines", view.round_index)
        solution = SOLVERS[self.solver](SflllmProblem(training, seed))
        chosen = solution.plan
        if chosen is None:
            raise InfeasibleError(f"In round {view.round_index + 1}: {solution.message}")
        common = training.candidates[chosen.candidate].split_point
        plans = problem.plans([common] * len(kept), chosen.main, chosen.federated)
        bound = solution.lower_bound if problem.is_bounded else None
        if self.split_points == "own":
            own = OwnPointSearch(problem).search(common)
            plans = problem.plans(own.points, own.main, own.federated)
            # Nothing bounds cuts of one's own from below, for the solver has common ones only.
            bound = None
        latency_s = float(problem.timeline(plans).finish_s.max())
        return Plan(
            tuple(plans),
            latency_s,
            bound,
            *_verdict(plans, latency_s, bound, solution),
            skipped,
            problem.main_server(plans),
        )

    def common_points(self, problem: SplitProblem) -> list[int]:
        """The split points that fit every scheduled client; InputError where there is none."""
        fitting = sorted(set.intersection(*(set(points) for points in problem.points)))
        if self.split_point is None:
            return fitting
        if self.split_point not in fitting:
            raise InputError(
                "sflllm.split_point",
                self.split_point,
                f"one of {', '.join(map(str, fitting))}, which fit every device",
            )
        return [self.split_point]


def _within_reach(view: PlanningView) -> tuple[list[int], dict[int, str]]:
    """Positions that can be planned for, and the others with the reason."""
    mute = silent(view)
    skipped = {int(view.cohort[i]): NO_SIGNAL for i in np.flatnonzero(mute)}
    return [int(i) for i in np.flatnonzero(~mute)], skipped


def _verdict(
    plans: list[ClientPlan], latency_s: float, bound: float | None, solution: Solution[SplitPlan]
) -> tuple[str, str]:
    """Status and sentence of the plan as it will be charged."""
    points = sorted({plan.split_point or 0 for plan in plans})
    cut = f"after block {points[0]}" + (f" to {points[-1]}" if len(points) > 1 else "")
    optimal = bound is not None and latency_s - bound <= OPTIMALITY * latency_s
    claim = "Optimal" if optimal else "Feasible"
    if bound is not None and not optimal and bound > 0:
        claim += f", at most {100 * (latency_s / bound - 1):.2g} % above the optimum"
    status = Status.OPTIMAL if optimal else Status.FEASIBLE
    return str(status), (
        f"{claim}: split {cut}, the round takes {format_duration(latency_s)} "
        f"(solver {solution.solver})."
    )
