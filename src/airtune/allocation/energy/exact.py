"""Latency and energy weighed against each other: the global optimum, with its proof.

The problem is jointly convex in deadline, bandwidths, computing and upload times: with `q = b t`
the upload's energy is `G H(q)`, `H = q (e^(a / q) - 1)`, and `-H' <= 2 q H''` makes it convex in
(b, t). So one search over the deadline suffices, in which `V'` (`deadline.py`) says where the
optimum lies:

    lam_e V'(tau) = -lam_t        weighted cost,
    V(tau) = budget               an energy budget that binds,
    tau = deadline                a deadline that binds,

or the least deadline that any plan keeps. No iteration between subproblems, no random search.
"""

import math
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from airtune.allocation.bandwidth import airtime_s, fill_band
from airtune.allocation.energy.balance import PRICE_EDGE
from airtune.allocation.energy.deadline import Response
from airtune.allocation.energy.dual import Multipliers, dual_value
from airtune.allocation.energy.problem import (
    EnergyPlan,
    EnergyProblem,
    check_energy,
    least_energies,
    plan_of,
)
from airtune.allocation.energy.root import falling_root
from airtune.allocation.energy.search import DeadlineSearch
from airtune.allocation.solve import (
    OPTIMALITY,
    Evaluation,
    Solution,
    SolveTimer,
    Status,
    checked,
)
from airtune.quantities import FloatArray, format_duration, format_quantity
from airtune.wireless.rate import LN2

_FLAT = 1e-7
# Relative: how exactly multipliers meet the weights; the bound errs by the square of that.
_TIGHT = 1e-11
# Relative: a client as late as this decides the least deadline.
_MUCH = 1e3
# Times the power of all clients: what a second is worth where none can be had.
_CLOSE = 1e-7
# Relative: an energy budget this close to what it only approaches is none that a client can keep.
_KINK = 1e-6
# Relative: where V' misses the weights by more, it jumps there.
_NEARBY = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5)
# Of the deadline: where the other side of the jump is looked for.


@dataclass(frozen=True)
class EnergySolution(Solution[EnergyPlan]):
    """A solution that also states what the energy budget costs.

    `energy_price` is the weight of energy at which the problem without a budget on the clients'
    energy together has the same plan [cost/J]; None where it is not known.
    """

    energy_price: float | None = None


def exact_energy(problem: EnergyProblem) -> EnergySolution:
    """Bandwidth, CPU speed and transmit power of least weighted cost within all limits."""
    return _Exact(problem).solution()


class _Exact:
    """One problem on its way to a solution."""

    def __init__(self, problem: EnergyProblem) -> None:
        self.problem, self._watch = problem, SolveTimer()
        self._least_j = least_energies(problem)

    def solution(self) -> EnergySolution:
        """The optimum, or the sentence that says why there is no plan."""
        reason = self._no_plan() or self._over_budget()
        if reason:
            return self._infeasible(reason)
        problem = self.problem
        self._search = search = DeadlineSearch(problem, float(self._least_j.sum()))
        if search.least_s == math.inf:
            return self._infeasible(
                "The energy budgets of the clients ask for more bandwidth than there is, at any "
                "latency."
            )
        if problem.deadline_s < search.least_s:
            return self._infeasible(
                f"No plan ends within {format_duration(problem.deadline_s)}: the least latency is "
                f"{format_duration(search.least_s)}."
            )
        weighted = search.weighted()
        deadline_s = search.affordable(weighted)
        found, plan = self._planned(deadline_s)
        if search.is_least(deadline_s) and self._exceeded(plan):
            # Budgets are met between the least deadline and the nearest one told from it.
            deadline_s = search.nearest_s
            found, plan = self._planned(deadline_s)
        if float(plan.energy_j.sum()) > problem.budget_j * (1.0 + OPTIMALITY):
            return self._infeasible(self._budget_reason(float(plan.energy_j.sum())))
        return self._solved(plan, self._multipliers(found, deadline_s > weighted))

    def _planned(self, deadline_s: float) -> tuple[Response, EnergyPlan]:
        found = self._search.at(deadline_s)
        return found, _plan(self.problem, found)

    def _exceeded(self, plan: EnergyPlan) -> bool:
        """Whether rounding brings the energies above a budget."""
        problem, most = self.problem, 1.0 + OPTIMALITY
        whole = float(plan.energy_j.sum()) > problem.budget_j * most
        return whole or bool((plan.energy_j > problem.client_budget_j * most).any())

    def _no_plan(self) -> str:
        """Why no plan exists, whatever the time; empty where one may."""
        problem = self.problem
        alone = problem.links.rate(np.full(len(problem), problem.bandwidth_hz))
        mute = (problem.payload_bits > 0) & ~(alone > 0)
        if mute.any():
            who = problem.name(int(np.argmax(mute)))
            return f"{who} has a payload but no signal: its link carries nothing at any bandwidth."
        # Sending only approaches the least energy: nearer to it is a matter of rounding.
        spare = np.where(problem.payload_bits > 0, 1.0 + _CLOSE, 1.0)
        short = self._least_j * spare >= problem.client_budget_j
        if short.any():
            client = int(np.argmax(short))
            return (
                f"{problem.name(client)} has an energy budget of "
                f"{format_quantity(problem.client_budget_j[client], 'J')} and needs more than "
                f"{format_quantity(self._least_j[client], 'J')} at any latency."
            )
        return ""

    def _over_budget(self) -> str:
        least = float(self._least_j.sum())
        return self._budget_reason(least) if least >= self.problem.budget_j else ""

    def _budget_reason(self, least_j: float) -> str:
        within = "at any latency"
        if self.problem.deadline_s < math.inf:
            within = f"within {format_duration(self.problem.deadline_s)}"
        return (
            f"The energy budget of {format_quantity(self.problem.budget_j, 'J')} is too small: the "
            f"clients together need at least {format_quantity(least_j, 'J')} {within}."
        )

    def _multipliers(self, found: Response, over_budget: bool) -> Multipliers:
        """Those that prove the plan at this deadline."""
        problem, worth = self.problem, found.worth_w
        time, energy = problem.time_weight, problem.energy_weight
        if over_budget and worth > 0.0:
            return self._scaled(found, time / worth, time)
        if self._search.is_least(found.deadline_s):
            return self._at_least_deadline(found)
        limited = found.deadline_s >= problem.deadline_s
        total = max(energy * worth, time) if limited else time
        if not limited and abs(energy * worth - time) > _KINK * time:
            return self._between(found, self._beyond(found))
        return self._scaled(found, energy, total)

    def _beyond(self, found: Response) -> Response:
        """The response nearby, on the other side of a kink of V.

        V has one where a client's own budget begins to bind at full speed and full power.
        """
        problem, search = self.problem, self._search
        early = problem.energy_weight * found.worth_w > problem.time_weight
        other = found
        for step in _NEARBY:
            deadline_s = found.deadline_s * (1.0 + step if early else 1.0 - step)
            if search.is_least(deadline_s) or deadline_s >= problem.deadline_s:
                break
            other = search.at(deadline_s)
            if (problem.energy_weight * other.worth_w > problem.time_weight) != early:
                break
        return other

    def _between(self, one: Response, other: Response) -> Multipliers:
        """The mixture whose values of time have the right sum.

        The dual function is concave: where both are best at one deadline, so is every mixture.
        """
        problem = self.problem
        first, second = (
            self._scaled(found, problem.energy_weight, problem.energy_weight * found.worth_w)
            for found in (one, other)
        )
        sums = float(first.time.sum()), float(second.time.sum())
        if (sums[0] - problem.time_weight) * (sums[1] - problem.time_weight) >= 0:
            return self._scaled(one, problem.energy_weight, problem.time_weight)
        part = (problem.time_weight - sums[0]) / (sums[1] - sums[0])

        def mixed(a: FloatArray, b: FloatArray) -> FloatArray:
            return (1.0 - part) * a + part * b

        return Multipliers(
            float(mixed(np.array(first.price), np.array(second.price))),
            mixed(first.time, second.time),
            np.maximum(mixed(first.weight, second.weight), problem.energy_weight),
            problem.energy_weight,
        )

    def _scaled(self, found: Response, weight: float, total: float) -> Multipliers:
        """The response's own values, their sum brought to a total."""
        weights = weight / found.own
        value = found.value_w * weights
        value = value * (total / value.sum()) if value.sum() > 0 else value
        return Multipliers(weight * math.exp(found.log_price), value, weights, weight)

    def _at_least_deadline(self, found: Response) -> Multipliers:
        """Where no plan is sooner, time is worth more than what it saves of energy."""
        problem = self.problem
        energy, time = problem.energy_weight, problem.time_weight
        if self._search.is_least(problem.deadline_s):
            # The deadline's multiplier may be as large as it needs to be.
            power_w = problem.full_power_w + problem.sending_power_w
            time = max(time, _MUCH * energy * float(power_w.sum()), 1e-300)
        alone = self._alone(found.deadline_s)
        if alone is not None:
            # One client's computing is the limit, whatever the band: its time has the rest.
            weights = energy / found.own
            value = found.value_w * weights
            value[alone] += time - value.sum()
            slower = found.compute_s[alone] > problem.compute_s[alone]
            if slower and found.value_w[alone] > 0:
                weights[alone] = value[alone] / found.value_w[alone]
            return Multipliers(energy * math.exp(found.log_price), value, weights, energy)
        if energy == 0.0:
            chosen = self._scaled(found, time / found.worth_w, time)
            limited = np.where(found.own < 1.0, chosen.weight, 0.0)
            return replace(chosen, weight=limited, whole_weight=0.0)

        def missing(cheapness: float) -> Evaluation:
            worth = self._search.curves.respond(found.deadline_s, -cheapness).worth_w
            return math.log(energy * worth / time), -1.0

        cheapness = falling_root(missing, -found.log_price, (-PRICE_EDGE, PRICE_EDGE), _FLAT)
        return self._scaled(self._search.curves.respond(found.deadline_s, -cheapness), energy, time)

    def _alone(self, deadline_s: float) -> int | None:
        """A client that sends nothing and for whose computing alone the deadline is the least."""
        problem = self.problem
        time_s = deadline_s - problem.fixed_delay_s
        clients = self._search.curves.clients
        spent = clients.computing_j(np.maximum(time_s, problem.compute_s))
        hurried = problem.compute_s >= time_s * (1.0 - _TIGHT)
        short = spent >= problem.client_budget_j * (1.0 - OPTIMALITY)
        short &= time_s < clients.slowest_s()
        alone = (problem.payload_bits == 0) & (hurried | short)
        return int(np.argmax(alone)) if alone.any() else None

    def _solved(self, plan: EnergyPlan, chosen: Multipliers) -> EnergySolution:
        problem = self.problem
        cost = problem.cost(plan.latency_s, plan.energy_j)
        proven = dual_value(problem, chosen)
        # No cost is below 0, and a bound above the plan's own cost errs, by that much at least.
        bound = max(cost - abs(cost - proven), 0.0)
        optimal = cost - bound <= OPTIMALITY * cost
        solution = EnergySolution(
            status=Status.OPTIMAL if optimal else Status.FEASIBLE,
            message=sentence(problem, plan, "Optimal" if optimal else "Feasible"),
            solver="exact",
            plan=plan,
            objective=cost,
            lower_bound=bound,
            iterations=self._search.evaluations,
            solve_time_s=self._watch.seconds,
            energy_price=float(chosen.whole_weight),
        )
        return cast(EnergySolution, checked(solution, lambda made: check_energy(problem, made)))

    def _infeasible(self, reason: str) -> EnergySolution:
        return EnergySolution(Status.INFEASIBLE, reason, "exact", solve_time_s=self._watch.seconds)


def _plan(problem: EnergyProblem, found: Response) -> EnergyPlan:
    """Decisions from the times and shares: the power is the one that just suffices, or all of it
    where the time to send in is lost in the deadline's rounding."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        speed = np.where(problem.compute_s > 0, problem.compute_s / found.compute_s, 1.0)
        speed = np.minimum(speed, 1.0)
        band = fill_band(found.bandwidth_hz, problem.bandwidth_hz)
        left_s = found.deadline_s - problem.fixed_delay_s - problem.compute_s / speed
        nats = airtime_s(problem.payload_bits * LN2, left_s * band)
        share = np.where(left_s > 0, band / problem.cn0_hz * np.expm1(nats), 1.0)
        sends = (problem.payload_bits > 0) & (problem.cn0_hz > 0)
        return plan_of(problem, band, speed, np.where(sends, np.clip(share, 0.0, 1.0), 1.0))


def sentence(problem: EnergyProblem, plan: EnergyPlan, claim: str) -> str:
    """What the plan does, and which limit binds."""
    energy, speed, share = plan.energy_j, plan.speed, plan.power_share
    near = 1.0 - 1e-6
    binding = [
        name
        for name, holds in (
            ("the deadline", plan.latency_s >= near * problem.deadline_s),
            ("the energy budget", energy.sum() >= near * problem.budget_j),
            ("a client's energy budget", (energy >= near * problem.client_budget_j).any()),
        )
        if holds
    ]
    limit = f"; {' and '.join(binding)} binds" if binding else ""
    return (
        f"{claim}: the round takes {format_duration(plan.latency_s)} and "
        f"{format_quantity(float(energy.sum()), 'J')}, at {_span(speed)} of full speed and "
        f"{_span(share)} of full transmit power{limit}."
    )


def _span(shares: FloatArray) -> str:
    low, high = f"{100 * shares.min():.3g}", f"{100 * shares.max():.3g}"
    return f"{high} %" if low == high else f"{low} to {high} %"
