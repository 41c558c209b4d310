"""The planner of fedsl: one cut, then how much of each client's tokens crosses it.

Cut, subchannels and powers are planned for whole tokens in the formats of the experiment; at the
rates that this gives, shares and formats are chosen for the round's target.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np

from airtune.allocation.solve import OPTIMALITY
from airtune.allocation.split.cut_precision import (
    CutPrecision,
    PrecisionProblem,
    cut_formats,
    error_of,
    least_error,
    solve_precision,
    what_crosses,
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
"""Windows of mean steps that are tried for a round whose real steps shall meet the target."""
CLOSE = 1e-3
"""Of the target: where the longest window that keeps it is known so well, none more is tried."""


@dataclass(frozen=True)
class _WindowSearch:
    """The longest time for a round of mean steps with which the real steps keep the target.

    Mean steps take less than the real ones. At `allowed_s` the next plan is made; `short_s` is
    short enough, or too short for any plan, and `long_s` too long.
    """

    target_s: float
    allowed_s: float
    short_s: float = -math.inf
    long_s: float = math.inf
    tries: int = 0

    @property
    def goes_on(self) -> bool:
        apart_s = self.long_s - self.short_s
        return self.tries < TRIES and apart_s > CLOSE * self.target_s and self.allowed_s < math.inf

    def after(self, found: Plan | None) -> "_WindowSearch":
        """What is tried next once this was found at `allowed_s`, if anything."""
        over_s = 0.0 if found is None else found.predicted_latency_s - self.target_s
        if over_s <= 0.0:
            short_s, long_s, guess_s = self.allowed_s, self.long_s, -math.inf
        else:
            short_s, long_s = self.short_s, self.allowed_s
            guess_s = self.allowed_s - 1.01 * over_s
        if not short_s < guess_s:
            guess_s = (short_s + long_s) / 2
        return _WindowSearch(self.target_s, guess_s, short_s, long_s, self.tries + 1)


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
            return _with_clients(problem, plan, self._alike(plan.clients))
        return self._planned(problem, plan, self.latency_target_s)

    def _alike(self, plans: Sequence[ClientPlan]) -> list[ClientPlan]:
        return [replace(plan, cut_dropout=self.cut_dropout) for plan in plans]

    def _planned(self, problem: SplitProblem, plan: Plan, target_s: float) -> Plan:
        """Shares and formats of the least error with which the real steps keep the target; those
        that send least where no window of mean steps gives any others."""
        best = self._least(problem, plan, target_s)
        at_target = self._numbers(problem, plan, target_s)
        search = _WindowSearch(target_s, target_s)
        while search.goes_on:
            numbers = self._numbers(problem, plan, search.allowed_s)
            chosen, found = solve_precision(numbers).plan, None
            if chosen is not None:
                found = _with_clients(problem, plan, _thinned(plan.clients, numbers, chosen))
                if found.predicted_latency_s <= target_s:
                    best = min(best, found, key=lambda each: _error(at_target, each))
            search = search.after(found)
        return _told(problem, plan, best, at_target, target_s)

    def _least(self, problem: SplitProblem, plan: Plan, target_s: float) -> Plan:
        """The plan that sends least; InfeasibleError where it takes longer than the target."""
        numbers = self._numbers(problem, plan, target_s)
        clients = _thinned(plan.clients, numbers, numbers.least)
        least = _with_clients(problem, plan, clients)
        if least.predicted_latency_s > target_s:
            raise InfeasibleError(
                f"In round {problem.view.round_index + 1}: where only "
                f"{what_crosses(numbers, numbers.least)}, the round takes "
                f"{format_duration(least.predicted_latency_s)}, longer than "
                f"fedsl.latency_target_s, {format_duration(target_s)}."
            )
        return least

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
            # A whole number of a token's numbers, so that rounding down keeps it.
            least_kept=_least_whole(self.least_kept_share, costs.hidden_size),
            names=problem.names,
        )


def _told(
    problem: SplitProblem, plan: Plan, found: Plan, numbers: PrecisionProblem, target_s: float
) -> Plan:
    """The plan found, with the error of what it sends and what no other can go below; `numbers` are
    those of the target."""
    error, chosen = _error(numbers, found), _crossing(numbers, found)
    bound = min(error, least_error(_relaxed(problem, plan, numbers)))
    optimal = error - bound <= OPTIMALITY * max(abs(error), 1.0)
    claim = "Optimal" if optimal else f"Feasible, error {error:.3g} and at least {bound:.3g}"
    return replace(
        found,
        message=f"{found.message.rstrip('.')} of {format_duration(target_s)}; {claim}: "
        f"{what_crosses(numbers, chosen)}.",
        extras={"cut_error": error, "cut_error_bound": bound},
    )


def _crossing(numbers: PrecisionProblem, plan: Plan) -> CutPrecision:
    """What a plan lets across the cut."""
    index = {one.name: k for k, one in enumerate(numbers.formats)}
    kept = np.array([1.0 - entry.cut_dropout for entry in plan.clients])
    return CutPrecision(kept, tuple(index[entry.cut_format or ""] for entry in plan.clients), 0.0)


def _error(numbers: PrecisionProblem, plan: Plan) -> float:
    return error_of(numbers, _crossing(numbers, plan))


def _relaxed(problem: SplitProblem, plan: Plan, numbers: PrecisionProblem) -> PrecisionProblem:
    """The same problem for a bound, with the shortest frames around the numbers. Since a sum of
    maxima is at least the maximum of the sums, mean steps take no longer than the real ones."""
    pairs = zip(plan.clients, numbers.tokens, strict=True)
    shortest = [_shortest_frame(problem, entry.client, tokens, numbers) for entry, tokens in pairs]
    up, down = problem.transfer.air_bits(np.array(shortest).T)
    return replace(numbers, fixed_bits=up, fixed_down_bits=down)


def _shortest_frame(
    problem: SplitProblem, client: int, tokens: float, numbers: PrecisionProblem
) -> tuple[float, float]:
    """The fewest bits of a client's mean message beside its tokens, up and down: headers have fewer
    digits the fewer numbers there are, and one number less where nothing is dropped."""
    costs, found = problem.costs, []
    for one in cut_formats(numbers.hidden):
        for dropout in (0.0, 1.0 - numbers.least_kept):
            kept = kept_numbers(numbers.hidden, dropout)
            whole = tokens * (kept * one.number_bits + one.token_bits)
            steps = costs.messages(client, dropout, one.name)
            up = float(np.mean([step.uplink for step in steps]))
            down = float(np.mean([step.gradient for step in steps]))
            found.append((up - whole, down - whole))
    ups, downs = zip(*found, strict=True)
    return min(ups), min(downs)


def _least_whole(share: float, hidden: int) -> float:
    """The least share of a token that is a whole number of its numbers."""
    return max(1, math.ceil(share * hidden - 1e-9)) / hidden


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
        message=f"Split after block {clients[0].split_point}, the round takes "
        f"{format_duration(latency_s)}.",
    )
