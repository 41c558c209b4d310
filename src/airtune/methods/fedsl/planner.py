"""The planner of fedsl: one cut, then how much of each client's tokens crosses it.

Cut, subchannels and powers are planned for whole tokens in the smallest format; at the rates that
this gives, shares and formats are chosen for the round's target.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np

from airtune.allocation.solve import Solution
from airtune.allocation.split.cut_precision import (
    CutPrecision,
    PrecisionProblem,
    cut_formats,
    error_of,
    solve_precision,
)
from airtune.allocation.subchannels.power import measure
from airtune.errors import InfeasibleError
from airtune.federated.charging.split_costs import shares_to_link
from airtune.federated.method import PlannerState
from airtune.federated.records.record import RoundRecord
from airtune.federated.splitting.cut_planner import CutPlanner
from airtune.federated.splitting.planner import SplitPlanner
from airtune.federated.splitting.round_problem import SplitProblem
from airtune.federated.view import PlanningView
from airtune.quantities import format_duration
from airtune.round_plan import ClientPlan, Decision, Plan
from airtune.update.cut import kept_numbers

TRIES = 12
"""Shorter and shorter windows that are tried until the round's real steps meet the target."""


@final
@dataclass(frozen=True)
class FedslPlanner(SplitPlanner):
    """`cuts` plans the cut and the links. Without a target every client has `cut_dropout`."""

    cuts: CutPlanner
    latency_target_s: float | None = None
    cut_dropout: float = 0.0
    least_kept_share: float = 0.1
    pruning_rate: float = 0.0

    @property
    def keeps_own(self) -> bool:
        return self.cuts.keeps_own

    @property
    def decides(self) -> frozenset[Decision]:
        made = {Decision.SPLIT, Decision.CUT_DROPOUT, Decision.CUT_FORMAT}
        return frozenset(made | {Decision.PRUNING} if self.pruning_rate else made)

    def initial_state(self) -> dict[str, Any]:
        return self.cuts.initial_state()

    def after_round(self, state: PlannerState, record: RoundRecord) -> dict[str, Any]:
        return self.cuts.after_round(state, record)

    def reachable(
        self, view: PlanningView, state: PlannerState
    ) -> tuple[list[int], dict[int, str]]:
        return self.cuts.reachable(view, state)

    def problem(self, view: PlanningView, kept: Sequence[int], state: PlannerState) -> SplitProblem:
        return self.cuts.problem(view, kept, state)

    def divide(self, problem: SplitProblem, skipped: dict[int, str], state: PlannerState) -> Plan:
        plan = self.cuts.divide(problem, skipped, state)
        if self.latency_target_s is None:
            if self.cut_dropout == 0.0:
                return plan
            return _with_clients(problem, plan, self._alike(plan.clients, problem))
        return self._planned(problem, plan, self.latency_target_s)

    def _alike(self, plans: Sequence[ClientPlan], problem: SplitProblem) -> list[ClientPlan]:
        return [replace(plan, cut_dropout=self.cut_dropout) for plan in plans]

    def _planned(self, problem: SplitProblem, plan: Plan, target_s: float) -> Plan:
        """Shares and formats with which the real steps keep the target."""
        allowed_s = target_s
        for _ in range(TRIES):
            numbers = self._numbers(problem, plan, allowed_s)
            solution = solve_precision(numbers)
            if solution.plan is None:
                raise InfeasibleError(
                    f"In round {problem.view.round_index + 1}: {solution.message}"
                )
            clients = _thinned(plan.clients, numbers, solution.plan)
            found = _with_clients(problem, plan, clients)
            if found.predicted_latency_s <= target_s:
                return _told(found, numbers, solution, target_s)
            # Mean steps take less than the real ones.
            allowed_s -= 1.01 * (found.predicted_latency_s - target_s)
        raise InfeasibleError(
            f"In round {problem.view.round_index + 1}: steps differ too much for a target of "
            f"{format_duration(target_s)}."
        )

    def _numbers(self, problem: SplitProblem, plan: Plan, allowed_s: float) -> PrecisionProblem:
        """A mean step at the plan's rates, and what the round leaves for it."""
        costs, plans = problem.costs, plan.clients
        points = [entry.split_point or 0 for entry in plans]
        mean, lead_s = problem.mean_step(points), problem.transfer.lead_s
        shares = [entry.main for entry in plans]
        link = problem.links[0]
        rates, _ = measure(link, *shares_to_link(shares, link.subchannels))
        down = problem.view.downlink_bps[list(problem.kept)]
        free = mean.shares is None
        gradient_bps = np.full(len(plans), np.inf) if mean.shares is None else down * mean.shares
        work = np.array([problem.work_s(k, point) for k, point in enumerate(points)])
        shapes = [costs.shapes(entry.client) for entry in plans]
        tokens = np.array([np.mean([s.real_tokens for s in steps]) for steps in shapes])
        air = float(problem.transfer.air_bits(1.0))
        formats = tuple(
            replace(one, number_bits=air * one.number_bits, token_bits=air * one.token_bits)
            for one in cut_formats(costs.hidden_size)
        )
        whole = 32.0 * costs.hidden_size * tokens
        fixed = problem.transfer.air_bits(
            [
                np.mean([step.uplink for step in costs.messages(entry.client, 0.0, "fp32")])
                for entry in plans
            ]
        )
        timeline = problem.timeline(plans)
        once_s = float((timeline.of("broadcast") + timeline.of("adapter")).max())
        window_s = (allowed_s - once_s) / problem.steps - mean.server_s
        return PrecisionProblem(
            window_s=window_s,
            before_s=work[:, 0] + lead_s(fixed),
            after_s=work[:, 1] + (0.0 if free else lead_s(fixed)),
            up_bps=rates,
            down_bps=gradient_bps,
            tokens=tokens,
            hidden=costs.hidden_size,
            # A frame has one more number with dropout: 64 bytes for it are more than enough.
            fixed_bits=fixed - air * whole + air * 512,
            weights=problem.view.weights[list(problem.kept)],
            formats=formats,
            least_kept=self.least_kept_share,
            names=problem.names,
        )


def _thinned(
    plans: Sequence[ClientPlan], numbers: PrecisionProblem, chosen: CutPrecision
) -> list[ClientPlan]:
    """Plans with whole numbers of a token: at most those of the shares."""
    thinned = []
    for plan, share, index in zip(plans, chosen.kept, chosen.formats, strict=True):
        kept = max(1, math.floor(share * numbers.hidden * (1 + 1e-12)))
        dropout = 1.0 - kept / numbers.hidden
        assert kept_numbers(numbers.hidden, dropout) == kept
        name = numbers.formats[index].name
        thinned.append(replace(plan, cut_dropout=dropout, cut_format=name))
    return thinned


def _with_clients(problem: SplitProblem, plan: Plan, clients: Sequence[ClientPlan]) -> Plan:
    """The plan with other decisions at the cut, and the latency that they have."""
    latency_s = float(problem.timeline(clients).finish_s.max())
    return replace(
        plan,
        clients=tuple(clients),
        predicted_latency_s=latency_s,
        lower_bound_s=None,
        status="feasible",
        message=f"split after block {clients[0].split_point}, the round takes "
        f"{format_duration(latency_s)}.",
    )


def _told(
    plan: Plan, numbers: PrecisionProblem, solution: Solution[CutPrecision], target_s: float
) -> Plan:
    """The plan with the error of what it sends."""
    chosen = solution.plan
    assert chosen is not None
    kept = np.array([1.0 - entry.cut_dropout for entry in plan.clients])
    error = error_of(numbers, replace(chosen, kept=kept))
    return replace(
        plan,
        message=f"{plan.message.rstrip('.')} of {format_duration(target_s)}; {solution.message}",
        extras={"cut_error": error, "cut_error_bound": solution.lower_bound},
    )
