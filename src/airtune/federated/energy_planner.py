"""Latency weighed against energy in a run: speed, power and bandwidth for another planner's work.

The planner inside decides who takes part and what each client trains (pruning rates, ranks); its
band is then divided anew together with every client's CPU speed and transmit power
(`allocation/energy`), on the channel as estimated, for the FLOPs and bits of the parts that run.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, final

import numpy as np

from airtune.allocation.energy.exact import exact_energy
from airtune.allocation.energy.problem import EnergyLinks, EnergyPlan, EnergyProblem
from airtune.cost.device import AMPLIFIER_EFFICIENCY, known_idle_power_w, power_at
from airtune.errors import InfeasibleError
from airtune.federated.method import Planner, PlannerState, Settled
from airtune.federated.records.record import RoundRecord
from airtune.federated.view import PlanningView
from airtune.round_plan import ClientPlan, Decision, Plan


@final
@dataclass(frozen=True)
class EnergyPlanner(Planner):
    """The weighted optimum within the budgets, for the work that `inner` decides.

    A round in which no plan keeps the deadline and the budgets has none, and waits for the next
    one. `weight_s_per_j` inf asks for the least energy within the round's deadline.
    """

    inner: Planner
    weight_s_per_j: float = 0.0
    budget_j: float = math.inf
    client_budget_j: float = math.inf

    @property
    def decides(self) -> frozenset[Decision]:
        return self.inner.decides | {Decision.SPEED}

    def settled(self, view: Callable[[int], PlanningView]) -> Settled:
        settled = self.inner.settled(view)
        return replace(settled, planner=replace(self, inner=settled.planner))

    def initial_state(self) -> dict[str, Any]:
        return self.inner.initial_state()

    def idle_s(self, view: PlanningView) -> float | None:
        return self.inner.idle_s(view)

    def after_round(self, state: PlannerState, record: RoundRecord) -> dict[str, Any]:
        return self.inner.after_round(state, record)

    def with_reports(
        self, state: PlannerState, reported: Mapping[int, Sequence[float]]
    ) -> dict[str, Any]:
        return self.inner.with_reports(state, reported)

    def plan(self, view: PlanningView, state: PlannerState) -> Plan:
        work = self.inner.plan(view, state)
        if not work.clients:
            return work
        solution = exact_energy(self._problem(view, work.clients))
        if solution.plan is None:
            raise InfeasibleError(f"In round {view.round_index + 1}: {solution.message}")
        clients = _decided(work.clients, solution.plan)
        weighed = {
            "objective": solution.objective,
            "objective_lower_bound": solution.lower_bound,
            "joule_worth_s": None if math.isinf(self.weight_s_per_j) else solution.energy_price,
        }
        return replace(
            work,
            clients=clients,
            predicted_latency_s=view.latency_s(clients),
            predicted_energy_j=float(view.energy_j(clients).sum()),
            status=str(solution.status),
            message=solution.message,
            extras={**work.extras, **weighed},
        )

    def _problem(self, view: PlanningView, clients: Sequence[ClientPlan]) -> EnergyProblem:
        places = np.searchsorted(view.cohort, [entry.client for entry in clients])
        whole = [
            replace(entry, tx_power_w=float(view.tx_power_w[place]), speed=1.0)
            for entry, place in zip(clients, places, strict=True)
        ]
        compute_s = np.array([view.costs.compute_s(entry) for entry in whole])
        before_s = np.array([view.costs.before_upload_s(entry) for entry in whole])
        devices = [view.costs.model.devices[entry.client] for entry in whole]
        energy_alone = math.isinf(self.weight_s_per_j)
        return EnergyProblem(
            links=cast(EnergyLinks, view.uplink.select(places)),
            bandwidth_hz=view.bandwidth_hz,
            fixed_delay_s=view.broadcast_to(places.tolist()) + before_s - compute_s,
            compute_s=compute_s,
            payload_bits=np.array([view.costs.air_bits(entry) for entry in whole]),
            idle_power_w=np.array([known_idle_power_w(device) for device in devices]),
            full_power_w=np.array([power_at(device, 1.0) for device in devices]),
            sending_power_w=view.tx_power_w[places] / AMPLIFIER_EFFICIENCY,
            energy_weight=1.0 if energy_alone else self.weight_s_per_j,
            time_weight=0.0 if energy_alone else 1.0,
            deadline_s=math.inf if view.deadline_s is None else view.deadline_s,
            budget_j=self.budget_j,
            client_budget_j=np.array(self.client_budget_j),
            names=[view.names[place].removeprefix("client ") for place in places],
        )


def _decided(work: Sequence[ClientPlan], plan: EnergyPlan) -> tuple[ClientPlan, ...]:
    return tuple(
        replace(
            entry,
            bandwidth_hz=float(plan.bandwidth_hz[k]),
            speed=float(plan.speed[k]),
            tx_power_w=entry.tx_power_w * float(plan.power_share[k]),
        )
        for k, entry in enumerate(work)
    )
