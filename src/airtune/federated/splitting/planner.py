"""What planners of split rounds share: clients within reach, and the deadline."""

from abc import abstractmethod
from collections.abc import Sequence

from airtune.allocation.solve import OPTIMALITY, Status
from airtune.allocation.subchannels.link import too_few_subchannels
from airtune.cost.latency import straggler_of
from airtune.errors import InfeasibleError
from airtune.federated.method import Planner, PlannerState
from airtune.federated.splitting.round_problem import SplitProblem, within_reach
from airtune.federated.view import PlanningView
from airtune.quantities import format_duration
from airtune.round_plan import ClientPlan, Decision, Plan


class SplitPlanner(Planner):
    """Plans a split round for the clients within reach.

    All wait for the slowest, so with a deadline the slowest are left out until the others make it.
    """

    @property
    def decides(self) -> frozenset[Decision]:
        return frozenset({Decision.SPLIT})

    @property
    def own_cuts(self) -> bool:
        """Whether clients of one round may have different split points."""
        return False

    def plan(self, view: PlanningView, state: PlannerState) -> Plan:
        kept, skipped = self.reachable(view, state)
        while kept:
            _require_channels(view, len(kept))
            problem = self.problem(view, kept, state)
            plan = self.divide(problem, skipped, state)
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

    def reachable(
        self, view: PlanningView, state: PlannerState
    ) -> tuple[list[int], dict[int, str]]:
        """Positions of the cohort that can be planned for, and the others with the reason."""
        return within_reach(view)

    def problem(self, view: PlanningView, kept: Sequence[int], state: PlannerState) -> SplitProblem:
        """The round of these positions of the cohort."""
        return SplitProblem(view, kept)

    @abstractmethod
    def divide(self, problem: SplitProblem, skipped: dict[int, str], state: PlannerState) -> Plan:
        """Split points, subchannels and powers of these clients."""


def _require_channels(view: PlanningView, clients: int) -> None:
    """Raise InfeasibleError where the main server's link, on which all clients send, has too few
    subchannels: known before any work is counted."""
    split = view.costs.split
    assert split is not None, "a split round"
    blocked = too_few_subchannels(split.system.main.subchannels, clients, "main server's")
    if blocked is not None:
        raise InfeasibleError(f"In round {view.round_index + 1}: {blocked}")


def verdict(
    plans: Sequence[ClientPlan], latency_s: float, bound: float | None, solver: str
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
        f"{claim}: split {cut}, the round takes {format_duration(latency_s)} (solver {solver})."
    )
