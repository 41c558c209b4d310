"""The planner of split methods whose client halves stay at the clients, for some rounds or for all.

Where halves are averaged in every round, cuts may change in every round. Where a client keeps its
half, its cut stays as well: a block that changed sides would have to travel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from airtune.errors import InputError
from airtune.federated.method import PlannerState
from airtune.federated.records.record import IN_TIME, RoundRecord
from airtune.federated.splitting.cut_search import CutSearch, FoundCuts
from airtune.federated.splitting.planner import SplitPlanner, verdict
from airtune.federated.splitting.round_problem import SplitProblem
from airtune.federated.view import PlanningView
from airtune.round_plan import Plan

CUTS = ("own", "common")
AVERAGED, OWN = "averaged", "own"
MISSED = "missed the broadcast of the averaged halves and waits for the next one"


@final
@dataclass(frozen=True)
class CutPlanner(SplitPlanner):
    """Cuts `own` or `common`, with subchannels and powers for the channel of the round.

    `split_point` fixes the cut for all. With halves `averaged` every `aggregate_every` rounds the
    mean comes down in the first round of a period and the halves go up in its last one; a client
    that was not in time in the first one waits for the next period. Halves that are each client's
    `own` never travel, and a client's cut is that of the first round in which it takes part.
    `section` is what messages call the keys.
    """

    section: str
    cuts: str = "own"
    split_point: int | None = None
    client_halves: str = OWN
    aggregate_every: int = 1

    def __post_init__(self) -> None:
        if self.cuts not in CUTS:
            raise InputError(f"{self.section}.cuts", self.cuts, f"one of {', '.join(CUTS)}")
        if self.aggregate_every > 1 and (self.client_halves == OWN or self.cuts == "own"):
            raise InputError(
                f"{self.section}.aggregate_every",
                self.aggregate_every,
                "1 unless client halves are averaged and have one cut",
                self._why_not_rarely(),
            )

    def _why_not_rarely(self) -> str:
        """Why these halves cannot be averaged after several rounds, and what to set."""
        if self.client_halves == OWN:
            why, keys = "halves of a client's own are never averaged", ["client_halves=averaged"]
        else:
            why, keys = "a mean would need every client's copy of blocks that others leave out", []
        if self.cuts == "own":
            keys.append("cuts=common")
        return f"{why}: set {' and '.join(f'{self.section}.{key}' for key in keys)}"

    @property
    def own_cuts(self) -> bool:
        return self.cuts == "own" and self.split_point is None

    def initial_state(self) -> dict[str, Any]:
        return {"cuts": {}, "reached": []}

    def reachable(
        self, view: PlanningView, state: PlannerState
    ) -> tuple[list[int], dict[int, str]]:
        kept, skipped = super().reachable(view, state)
        reached = set(state["reached"])
        if self.aggregate_every == 1 or not reached:
            return kept, skipped
        missed = [i for i in kept if int(view.cohort[i]) not in reached]
        skipped |= {int(view.cohort[i]): MISSED for i in missed}
        return [i for i in kept if i not in missed], skipped

    def problem(self, view: PlanningView, kept: Sequence[int], state: PlannerState) -> SplitProblem:
        if self.client_halves == OWN:
            return SplitProblem(view, kept, gets_half=False, sends_half=False)
        begins = self.aggregate_every == 1 or not state["reached"]
        return SplitProblem(view, kept, begins, self._ends(view.round_index))

    def _ends(self, round_index: int) -> bool:
        """Whether halves are averaged at the end of this round."""
        return (round_index + 1) % self.aggregate_every == 0

    def divide(self, problem: SplitProblem, skipped: dict[int, str], state: PlannerState) -> Plan:
        found = self._found(problem, state["cuts"])
        plans = problem.plans(found.best.points, found.best.main, found.best.federated)
        latency_s = float(problem.timeline(plans).finish_s.max())
        # Rounding of the two ways to the same number may put the bound above it.
        bound_s = min(found.bound_s, latency_s) if problem.is_bounded else None
        return Plan(
            tuple(plans),
            latency_s,
            bound_s,
            *verdict(plans, latency_s, bound_s, f"{self.cuts} cuts"),
            skipped,
            problem.main_server(plans),
        )

    def _found(self, problem: SplitProblem, known: Mapping[str, int]) -> FoundCuts:
        allowed = [
            [known[str(client)]] if str(client) in known else points
            for client, points in zip(problem.clients, problem.points, strict=True)
        ]
        if self.split_point is not None or self.cuts == "common":
            found = CutSearch(problem, self._for_all(problem, known)).common()
            assert found is not None, "one list of split points for all"
            return found
        return CutSearch(problem, allowed).own()

    def _for_all(self, problem: SplitProblem, known: Mapping[str, int]) -> list[list[int]]:
        """One list of split points for every client: that fit the devices of all clients where
        the cut is kept, else those of the round."""
        if known:
            points = [next(iter(known.values()))]
        elif self.keeps_own:
            devices = range(len(problem.costs.devices))
            fitting = [set(problem.costs.split_points(client)) for client in devices]
            points = sorted(set.intersection(*fitting))
        else:
            points = sorted(set.intersection(*(set(points) for points in problem.points)))
        if self.split_point is not None:
            if self.split_point not in points:
                raise InputError(
                    f"{self.section}.split_point",
                    self.split_point,
                    f"one of {', '.join(map(str, points))}, which fit every device",
                )
            points = [self.split_point]
        return [points] * len(problem.clients)

    @property
    def keeps_own(self) -> bool:
        return self.client_halves == OWN or self.aggregate_every > 1

    def after_round(self, state: PlannerState, record: RoundRecord) -> dict[str, Any]:
        """Cuts of clients that have a half now, and who has that of the present period."""
        cuts, reached = dict(state["cuts"]), list(state["reached"])
        if not self.keeps_own or not record.clients:
            return {"cuts": cuts, "reached": reached}
        for entry in record.clients:
            if entry.split_point is not None:
                cuts.setdefault(str(entry.client), entry.split_point)
        if self.client_halves == AVERAGED:
            if not reached:
                reached = [entry.client for entry in record.clients if entry.outcome == IN_TIME]
            if self._ends(record.round - 1) or not reached:
                cuts, reached = {}, []
        return {"cuts": cuts, "reached": reached}
