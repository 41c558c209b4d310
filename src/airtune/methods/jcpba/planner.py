"""The planner of jcpba: pruning rates and bandwidth in the manner of Pang et al., arXiv 2602.01024.

Each client fine-tunes LoRA on its own sliced copy of the model, so it computes less AND sends less.
Rates and bandwidths are the global optimum under the pruning budget
(`allocation/pruning/exact.py`), or come from one of the solvers beside it. The broadcast is the
whole adapter, since a client derives its slice from the base and the broadcast.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, final

import numpy as np

from airtune.allocation.bandwidth import minmax_bandwidth
from airtune.allocation.pruning.problem import PruningPlan, PruningProblem
from airtune.allocation.solve import OPTIMALITY, Solution, Status
from airtune.errors import InfeasibleError, InputError
from airtune.federated.idle import Reach
from airtune.federated.method import Planner, PlannerState
from airtune.federated.view import PlanningView
from airtune.methods.jcpba.problem import SOLVERS
from airtune.quantities import FloatArray, format_duration
from airtune.round_plan import ClientPlan, Decision, Plan
from airtune.wireless.cqi import CqiLinks
from airtune.wireless.rate import ConcaveLinks, Links

_SLACK = 1e-9
"""A solver's k / units may come out a rounding below itself."""


def _concave(links: Links) -> ConcaveLinks:
    """Rates that are concave in bandwidth; for a CQI table, whose rate is a sawtooth, its hull."""
    return links.envelope() if isinstance(links, CqiLinks) else cast(ConcaveLinks, links)


@final
@dataclass(frozen=True)
class JcpbaPlanner(Planner):
    """Pruning rates by a solver of `airtune plan`, rounded to what can be sliced.

    A rate is rounded DOWN to the next one at which a unit goes, which stays within the budget and
    above a memory floor; the band is then divided again for the slices' exact FLOPs and bits. The
    bound is that of the continuous problem, whose lines of FLOPs and bits lie on or below those of
    every slice: it holds for the plan that runs, and the gap includes what rounding costs. FLOPs
    and bits are those of the tuner and the codec that run.
    """

    solver: str = "exact"
    pruning_budget: float = 0.3
    pruning_rate_max: float = 0.9

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise InputError("jcpba.solver", self.solver, f"one of {', '.join(SOLVERS)}")

    @property
    def redividable(self) -> bool:
        return True

    @property
    def decides(self) -> frozenset[Decision]:
        return frozenset({Decision.PRUNING})

    def plan(self, view: PlanningView, state: PlannerState) -> Plan:
        reach = Reach.of(view)
        if not reach.kept:
            return reach.empty_plan()
        solution: Solution[PruningPlan] = SOLVERS[self.solver](self._problem(view, reach))
        if solution.plan is None:
            raise InfeasibleError(f"In round {view.round_index + 1}: {solution.message}")
        rates = self._realisable(view, solution.plan.pruning_rate)
        slices = [
            view.full_plan(i).changed(pruning_rate=float(rates[k]))
            for k, i in enumerate(reach.kept)
        ]
        return self._divide(view, reach, slices, solution)

    def _problem(self, view: PlanningView, reach: Reach) -> PruningProblem:
        plans = [view.full_plan(i) for i in reach.kept]
        computing = np.array([view.costs.affine_compute_s(plan) for plan in plans])
        bits = np.array([view.costs.affine_air_bits(plan) for plan in plans])
        weight = view.weights[reach.kept]
        return PruningProblem(
            links=_concave(reach.links),
            bandwidth_hz=view.bandwidth_hz,
            pruning_budget=self.pruning_budget,
            pruning_rate_max=self.pruning_rate_max,
            weight=weight / weight.sum(),
            fixed_delay_s=reach.broadcast_s + view.costs.transfer.lead_s(bits.sum(axis=1)),
            fixed_compute_s=computing[:, 0],
            prunable_compute_s=computing[:, 1],
            fixed_bits=bits[:, 0],
            prunable_bits=bits[:, 1],
            pruning_rate_min=np.array([view.costs.least_rate(plan) for plan in plans]),
            names=reach.names,
        )

    @staticmethod
    def _realisable(view: PlanningView, rates: FloatArray) -> FloatArray:
        ladder = view.costs.realisable_rates()
        return np.array([ladder[bisect_right(ladder, rate + _SLACK) - 1] for rate in rates])

    @staticmethod
    def _divide(
        view: PlanningView,
        reach: Reach,
        slices: list[ClientPlan],
        solution: Solution[PruningPlan],
    ) -> Plan:
        fixed_s = reach.broadcast_s + np.array(
            [view.costs.before_upload_s(plan) for plan in slices]
        )
        bits = np.array([view.costs.air_bits(plan) for plan in slices])
        band = minmax_bandwidth(reach.links, bits, fixed_s, view.bandwidth_hz, reach.names)
        assert solution.plan is not None
        if band.plan is None:
            raise InfeasibleError(f"In round {view.round_index + 1}: {band.message}")
        shares = band.plan.bandwidth_hz
        if solution.solver in ("equal", "none"):
            shares = np.full(len(slices), view.bandwidth_hz / len(slices))
        with np.errstate(divide="ignore"):
            latency_s = float((fixed_s + bits / reach.links.rate(shares)).max())
        return Plan(
            tuple(
                plan.changed(bandwidth_hz=float(share))
                for plan, share in zip(slices, shares, strict=True)
            ),
            latency_s,
            solution.lower_bound,
            *verdict(slices, latency_s, solution.lower_bound, solution.solver),
            reach.skipped,
        )


def verdict(
    plans: Sequence[ClientPlan], latency_s: float, bound_s: float | None, solver: str
) -> tuple[str, str]:
    """Status and sentence of the plan as it runs, rounded to whole units."""
    optimal = bound_s is not None and latency_s - bound_s <= OPTIMALITY * latency_s
    claim = "Optimal" if optimal else "Feasible"
    if bound_s is not None and bound_s > 0 and not optimal:
        claim += f", at most {100 * (latency_s / bound_s - 1):.2g} % above the optimum"
    rates = [plan.pruning_rate for plan in plans]
    return str(Status.OPTIMAL if optimal else Status.FEASIBLE), (
        f"{claim}: clients prune {100 * min(rates):.3g} to {100 * max(rates):.3g} %, the round "
        f"takes {format_duration(latency_s)} (solver {solver})."
    )
