"""The planner of sampled_lora, which draws its own cohort.

Every round it plans probabilities, ranks and the deadline for all clients with a signal
(`allocation.sampling`), draws, and divides the band anew for those who were drawn, with the least
latency: the round lasts longer or shorter than planned.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np

from airtune.allocation.sampling.problem import SamplingPlan, SamplingProblem
from airtune.allocation.sampling.solvers import SOLVERS
from airtune.allocation.solve import Solution
from airtune.errors import InfeasibleError
from airtune.federated.bandwidth_planner import BandwidthPlanner
from airtune.federated.draw import Draw, independent_draw
from airtune.federated.idle import mute
from airtune.federated.method import Planner, PlannerState
from airtune.federated.records.record import RoundRecord
from airtune.federated.sampling import Sampler
from airtune.federated.view import PlanningView
from airtune.methods.sampled_lora.estimates import (
    ALIGNMENT,
    NORMS,
    PRIOR_ALIGNMENT,
    learned,
    norms_of,
)
from airtune.methods.sampled_lora.terms import rank_choices, variance_terms
from airtune.round_plan import ClientPlan, Decision, Plan
from airtune.seeds import integer_seed


@final
@dataclass(frozen=True)
class SampledPlanner(Planner, Sampler):
    """Draws clients with planned probabilities; see the module."""

    participation: str = "planned"
    least_rank: int | None = None
    alignment: float | None = None
    estimate_norms: bool = True
    seed: int = 0

    @property
    def decides(self) -> frozenset[Decision]:
        if self.least_rank is None or self.participation != "planned":
            return frozenset()
        return frozenset({Decision.RANK, Decision.SKETCH})

    def initial_state(self) -> dict[str, Any]:
        return {NORMS: {}, ALIGNMENT: None}

    def after_round(self, state: PlannerState, record: RoundRecord) -> dict[str, Any]:
        return learned(state, record)

    def draw(self, view: PlanningView, state: Mapping[str, Any]) -> Draw:
        reached = np.flatnonzero(~mute(view.uplink.limit_bps(), view.downlink_bps))
        ranks = self._ranks(view.rank)
        solution = self._solved(view, state, reached, ranks)
        found = solution.plan
        if found is None:
            raise InfeasibleError(f"In round {view.round_index + 1}: {solution.message}")
        probability = np.zeros(len(view.cohort))
        probability[reached] = found.inclusion
        cohort, inclusion = independent_draw(probability, self.seed, view.round_index)
        option = dict(zip(reached.tolist(), found.option.tolist(), strict=True))
        return Draw(
            cohort,
            inclusion,
            tuple(ranks[option[int(client)]] for client in cohort),
            {
                "planned_s": found.deadline_s,
                "expected_clients": float(found.inclusion.sum()),
                "expected_band_hz": found.expected_band_hz,
                "price": found.price,
                "expected_time": solution.objective,
                "expected_time_bound": solution.lower_bound,
            },
        )

    def plan(self, view: PlanningView, state: PlannerState) -> Plan:
        draw = view.draw
        if draw is None:
            raise ValueError("this planner plans the cohort that it drew")
        divider = BandwidthPlanner("minmax", self.seed)
        loads = [self._load(view, k, rank) for k, rank in enumerate(draw.ranks)]
        plan = divider.divided(view, loads)
        notes = {**draw.notes, "drawn_s": plan.predicted_latency_s}
        return replace(plan, extras=notes)

    def _load(self, view: PlanningView, position: int, rank: int) -> ClientPlan:
        plan = view.full_plan(position)
        if rank == view.rank:
            return plan
        seed = integer_seed(self.seed, "rank sketch", view.round_index, plan.client)
        return plan.changed(rank=rank, sketch=seed)

    def _ranks(self, rank: int) -> tuple[int, ...]:
        return rank_choices(self.least_rank if self.participation == "planned" else None, rank)

    def _solved(
        self,
        view: PlanningView,
        state: Mapping[str, Any],
        reached: np.ndarray,
        ranks: tuple[int, ...],
    ) -> Solution[SamplingPlan]:
        plans = [[view.full_plan(int(i)).changed(rank=rank) for rank in ranks] for i in reached]
        costs = view.costs
        before_s = [[costs.before_upload_s(plan) for plan in row] for row in plans]
        bits = [[costs.air_bits(plan) for plan in row] for row in plans]
        clients = [int(view.cohort[i]) for i in reached]
        norms = norms_of(state, clients) if self.estimate_norms else np.ones(len(clients))
        alignment = self.alignment
        if alignment is None:
            alignment = state.get(ALIGNMENT)
        known = PRIOR_ALIGNMENT if alignment is None else alignment
        variance, floor = variance_terms(view.weights[reached], norms, ranks, known)
        broadcast_s = view.broadcast_to(reached.tolist())
        problem = SamplingProblem(
            view.uplink.select(reached),
            view.bandwidth_hz,
            np.array(bits, dtype=np.float64),
            broadcast_s + np.array(before_s),
            variance,
            floor,
            [view.names[i].removeprefix("client ") for i in reached],
        )
        return SOLVERS[self.participation](problem)
