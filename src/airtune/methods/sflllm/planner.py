"""The planner of sflllm, in the manner of SflLLM (Zhao et al., arXiv 2504.14667).

The model is cut after a block: clients run the first blocks, a main server behind the base station
the rest, both with LoRA, and a federated server averages the client halves. Subchannels, power and
split points are decided every round by a solver of `airtune plan`.
"""

from dataclasses import dataclass
from typing import final

from airtune.errors import InfeasibleError, InputError
from airtune.federated.method import PlannerState
from airtune.federated.splitting.own_points import OwnPointSearch
from airtune.federated.splitting.planner import SplitPlanner, verdict
from airtune.federated.splitting.round_problem import SplitProblem
from airtune.methods.sflllm.problem import SOLVERS, SflllmProblem
from airtune.round_plan import Plan
from airtune.seeds import integer_seed

RUN_SOLVERS = tuple(name for name in SOLVERS if name != "blocks")
SPLIT_POINTS = ("common", "own")


@final
@dataclass(frozen=True)
class SflllmPlanner(SplitPlanner):
    """Split points, subchannels and powers by a solver of `airtune plan`.

    `split_point` fixes the cut for all; with `split_points: own` clients may differ, which is for
    solver `joint` only. Random solvers draw in every round. Clients whose memory does not hold
    the half at a split point rule that point out.
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
    def own_cuts(self) -> bool:
        return self.split_points == "own"

    def divide(self, problem: SplitProblem, skipped: dict[int, str], state: PlannerState) -> Plan:
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
            *verdict(plans, latency_s, bound, solution.solver),
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
