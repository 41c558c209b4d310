"""A planner that decides bandwidth alone: equal shares, the latency-optimal split, or at random.

The latency-optimal split of the band makes all clients finish together: `allocation/bandwidth.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from airtune.allocation.bandwidth import airtime_s, equal_bandwidth, minmax_bandwidth
from airtune.allocation.solve import Status
from airtune.errors import InfeasibleError, InputError
from airtune.federated.idle import Reach
from airtune.federated.method import Planner, PlannerState
from airtune.federated.view import PlanningView
from airtune.round_plan import ClientPlan, Decision, Plan
from airtune.seeds import generator

SOLVERS = {"equal": equal_bandwidth, "minmax": minmax_bandwidth}
RANDOM = "random"


@final
@dataclass(frozen=True)
class BandwidthPlanner(Planner):
    """Every client trains everything; only the band is divided: `minmax`, `equal` or `random`.

    `random` draws the shares uniformly from all divisions of the band, in every round: the
    baseline that any allocation must beat. `ranks` gives each client a LoRA rank of its own.

    A client that cannot make the deadline even with the whole band to itself is left out, with the
    reason; without a deadline, one without signal.
    """

    bandwidth: str = "minmax"
    seed: int = 0
    ranks: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        known = (*SOLVERS, RANDOM)
        if self.bandwidth not in known:
            raise InputError("planner.bandwidth", self.bandwidth, f"one of {', '.join(known)}")

    @property
    def paces(self) -> frozenset[str]:
        if self.bandwidth == RANDOM:
            return frozenset()
        return frozenset({"fixed", "processor"} if self.bandwidth == "equal" else {"fixed"})

    @property
    def redividable(self) -> bool:
        return True

    @property
    def decides(self) -> frozenset[Decision]:
        return frozenset() if self.ranks is None else frozenset({Decision.RANK})

    def plan(self, view: PlanningView, state: PlannerState) -> Plan:
        return self.divided(view, [self._load(view, i) for i in range(len(view.cohort))])

    def divided(self, view: PlanningView, loads: Sequence[ClientPlan]) -> Plan:
        """The band divided for these loads, one for each client of the cohort."""
        reach = Reach.of(view, loads)
        if not reach.kept:
            return reach.empty_plan()
        plans = [loads[position] for position in reach.kept]
        fixed_s = reach.broadcast_s + np.array([view.costs.before_upload_s(plan) for plan in plans])
        bits = np.array([view.costs.air_bits(plan) for plan in plans])
        solve = SOLVERS.get(self.bandwidth, minmax_bandwidth)
        solution = solve(reach.links, bits, fixed_s, view.bandwidth_hz, reach.names)
        if solution.plan is None:
            raise InfeasibleError(f"In round {view.round_index + 1}: {solution.message}")
        shares, latency_s = solution.plan.bandwidth_hz, solution.plan.latency_s
        status, message = str(solution.status), solution.message
        if self.bandwidth == RANDOM:
            draws = generator(self.seed, "random bandwidth", view.round_index)
            shares = view.bandwidth_hz * draws.dirichlet(np.ones(len(plans)))
            latency_s = float((fixed_s + airtime_s(bits, reach.links.rate(shares))).max())
            status, message = Status.FEASIBLE, "the band is divided at random"
        return Plan(
            tuple(
                plan.changed(bandwidth_hz=float(share))
                for plan, share in zip(plans, shares, strict=True)
            ),
            latency_s,
            solution.lower_bound,
            status,
            message,
            reach.skipped,
        )

    def _load(self, view: PlanningView, position: int) -> ClientPlan:
        plan = view.full_plan(position)
        return plan if self.ranks is None else plan.changed(rank=self.ranks[plan.client])
