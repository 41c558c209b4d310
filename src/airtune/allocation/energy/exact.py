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
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from airtune.allocation.bandwidth import Uploads, airtime_s, fill_band, minmax_shares
from airtune.allocation.energy.balance import PRICE_EDGE
from airtune.allocation.energy.deadline import LeastEnergy, Response
from airtune.allocation.energy.dual import Multipliers, dual_value
from airtune.allocation.energy.problem import (
    EnergyPlan,
    EnergyProblem,
    check_energy,
    frugal_speed,
    plan_of,
)
from airtune.allocation.energy.root import falling_root
from airtune.allocation.solve import (
    OPTIMALITY,
    Bracket,
    Evaluation,
    Solution,
    SolveTimer,
    Status,
    checked,
    smallest_deadline,
)
from airtune.quantities import FloatArray, format_duration, format_quantity
from airtune.wireless.rate import LN2

_NEAREST = 1e-9
# Of the least deadline: a deadline nearer to it is the least one.
_LONGEST = 1e40
# Times the least deadline: beyond it nothing more can be saved.
_FLAT = 1e-7
# Relative: how exactly V' meets the weights; the cost errs by the square of that.
_TIGHT = 1e-11
# The same of an energy budget.
_MUCH = 1e3
# Times the power of all clients: what a second is worth where none can be had.
_SLOWEST = 1e-6
# Without idle power the least energy is that of no speed at all.


@dataclass(frozen=True)
class EnergySolution(Solution[EnergyPlan]):
    """A solution that also states what the energy budget costs.

    `energy_price` is the weight of energy at which the problem without a budget on the clients'
    energy together has the same plan [cost/J]; None where it is not known.
    """

    energy_price: float | None = None


def exact_energy(problem: EnergyProblem) -> EnergySolution:
    """Bandwidth, CPU speed and transmit power of least weighted cost within all limits."""
    return _Search(problem).solution()


class _Search:
    """One problem on its way to a solution."""

    def __init__(self, problem: EnergyProblem) -> None:
        self.problem, self._watch = problem, SolveTimer()
        self._curves = LeastEnergy(problem)
        self._evaluations = 0
        self._least_j = least_energies(problem)
        self._least_s = math.nan

    def solution(self) -> EnergySolution:
        """The optimum, or the sentence that says why there is no plan."""
        reason = self._no_plan() or self._find_least_deadline() or self._over_budget()
        if reason:
            return self._infeasible(reason)
        problem = self.problem
        weighted = self._weighted_deadline()
        deadline_s = self._affordable_deadline(weighted)
        found = self._at(deadline_s)
        if found.energy_j > problem.budget_j * (1.0 + OPTIMALITY):
            return self._infeasible(self._budget_reason(found.energy_j))
        return self._solved(found, self._multipliers(found, deadline_s > weighted))

    def _at(self, deadline_s: float) -> Response:
        self._evaluations += 1
        if not self._is_least(deadline_s):
            return self._curves.at(deadline_s)
        floors, _ = self._curves.floor_hz(self._least_s)
        if float(floors.sum()) < self.problem.bandwidth_hz * (1.0 - OPTIMALITY):
            return self._curves.at(self._least_s)
        # Nothing is left to divide, and the price is not unique.
        return self._curves.respond(self._least_s, self._curves.dear_price(self._least_s))

    def _is_least(self, deadline_s: float) -> bool:
        return deadline_s <= self._least_s * (1.0 + 0.1 * _NEAREST)

    def _no_plan(self) -> str:
        """Why no plan exists, whatever the time; empty where one may."""
        problem = self.problem
        alone = problem.links.rate(np.full(len(problem), problem.bandwidth_hz))
        mute = (problem.payload_bits > 0) & ~(alone > 0)
        if mute.any():
            who = problem.name(int(np.argmax(mute)))
            return f"{who} has a payload but no signal: its link carries nothing at any bandwidth."
        short = self._least_j >= problem.client_budget_j
        if short.any():
            client = int(np.argmax(short))
            return (
                f"{problem.name(client)} has an energy budget of "
                f"{format_quantity(problem.client_budget_j[client], 'J')} and needs more than "
                f"{format_quantity(self._least_j[client], 'J')} at any latency."
            )
        return ""

    def _find_least_deadline(self) -> str:
        """Set the least deadline that any plan keeps; a sentence where the limit is shorter."""
        problem = self.problem
        start_s = problem.fixed_delay_s + problem.compute_s
        uploads = Uploads(problem.links, problem.payload_bits, start_s, problem.bandwidth_hz)
        _, bracket = minmax_shares(uploads)
        if np.isfinite(problem.client_budget_j).any():
            bracket = self._within_budgets(bracket)
        self._least_s = bracket.high
        if problem.deadline_s >= bracket.high:
            return ""
        return (
            f"No plan ends within {format_duration(problem.deadline_s)}: the least latency is "
            f"{format_duration(bracket.high)}."
        )

    def _within_budgets(self, bracket: Bracket) -> Bracket:
        """The same with the clients' energy budgets, which ask for more bandwidth or more time."""

        def need(deadline_s: float) -> Evaluation:
            floor, slope = self._curves.floor_hz(deadline_s)
            total = float(floor.sum())
            return total, float(slope.sum()) if math.isfinite(total) else math.nan

        high = bracket.high
        while need(high)[0] > self.problem.bandwidth_hz and high < _LONGEST * bracket.high:
            high *= 2.0
        return smallest_deadline(need, self.problem.bandwidth_hz, bracket.low, high)

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

    def _weighted_deadline(self) -> float:
        """Where `lam_e V' = -lam_t`, at least the least deadline, at most the limit."""
        problem = self.problem
        if problem.energy_weight == 0.0:
            return self._least_s
        if problem.time_weight == 0.0:
            return problem.deadline_s
        worth_w = problem.time_weight / problem.energy_weight

        def surplus(found: Response) -> Evaluation:
            worth = found.worth_w
            if worth <= 0.0:
                return -math.inf, math.nan
            return math.log(worth / worth_w), found.worth_slope / worth

        return self._deadline(surplus, self._least_s, _FLAT)

    def _affordable_deadline(self, weighted_s: float) -> float:
        """The least deadline from this one on at which the energy is within its budget."""
        budget = self.problem.budget_j
        if budget == math.inf or self._at(weighted_s).energy_j <= budget:
            return weighted_s
        least = float(self._least_j.sum())

        def over(found: Response) -> Evaluation:
            above = max(found.energy_j - least, 1e-300)
            return math.log(above / (budget - least)), -found.worth_w / above

        return self._deadline(over, weighted_s, _TIGHT)

    def _deadline(
        self, surplus: Callable[[Response], Evaluation], from_s: float, accuracy: float
    ) -> float:
        """The root of a function that falls with the deadline, sought in ln(tau - least tau)."""
        least = self._least_s
        nearest = math.log(max(_NEAREST * least, from_s - least))
        longest = min(_LONGEST * least, self.problem.deadline_s - least)
        if longest <= math.exp(nearest):
            return from_s
        farthest = math.log(longest)

        def function(place: float) -> Evaluation:
            beyond = math.exp(place)
            value, slope = surplus(self._at(least + beyond))
            return value, slope * beyond

        start = min(max(nearest + 1.0, math.log(0.2 * least)), farthest)
        place = falling_root(function, start, (nearest, farthest), accuracy)
        if place <= nearest:
            return from_s
        at_limit = place >= farthest and self.problem.deadline_s < math.inf
        return self.problem.deadline_s if at_limit else least + math.exp(place)

    def _multipliers(self, found: Response, over_budget: bool) -> Multipliers:
        """Those that prove the plan at this deadline."""
        problem, worth = self.problem, found.worth_w
        time, energy = problem.time_weight, problem.energy_weight
        if over_budget and worth > 0.0:
            return self._scaled(found, time / worth, time)
        if self._is_least(found.deadline_s):
            return self._at_least_deadline(found)
        limited = found.deadline_s >= problem.deadline_s
        total = max(energy * worth, time) if limited else time
        return self._scaled(found, energy, total)

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
        if self._is_least(problem.deadline_s):
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
            worth = self._curves.respond(found.deadline_s, -cheapness).worth_w
            return math.log(energy * worth / time), -1.0

        cheapness = falling_root(missing, -found.log_price, (-PRICE_EDGE, PRICE_EDGE), _FLAT)
        return self._scaled(self._curves.respond(found.deadline_s, -cheapness), energy, time)

    def _alone(self, deadline_s: float) -> int | None:
        """A client that sends nothing and for whose computing alone the deadline is the least."""
        problem = self.problem
        time_s = deadline_s - problem.fixed_delay_s
        clients = self._curves.clients
        spent = clients.computing_j(np.maximum(time_s, problem.compute_s))
        hurried = problem.compute_s >= time_s * (1.0 - _TIGHT)
        short = spent >= problem.client_budget_j * (1.0 - OPTIMALITY)
        short &= time_s < clients.slowest_s()
        alone = (problem.payload_bits == 0) & (hurried | short)
        return int(np.argmax(alone)) if alone.any() else None

    def _solved(self, found: Response, chosen: Multipliers) -> EnergySolution:
        problem = self.problem
        plan = _plan(problem, found)
        cost = problem.cost(plan.latency_s, plan.energy_j)
        bound = min(dual_value(problem, chosen), cost)
        optimal = cost - bound <= OPTIMALITY * cost
        solution = EnergySolution(
            status=Status.OPTIMAL if optimal else Status.FEASIBLE,
            message=sentence(problem, plan, "Optimal" if optimal else "Feasible"),
            solver="exact",
            plan=plan,
            objective=cost,
            lower_bound=bound,
            iterations=self._evaluations,
            solve_time_s=self._watch.seconds,
            energy_price=float(chosen.whole_weight),
        )
        return cast(EnergySolution, checked(solution, lambda made: check_energy(problem, made)))

    def _infeasible(self, reason: str) -> EnergySolution:
        return EnergySolution(Status.INFEASIBLE, reason, "exact", solve_time_s=self._watch.seconds)


def least_energies(problem: EnergyProblem) -> FloatArray:
    """The least energy of every client at any latency [client], J; sending may only approach it.

    Computing at the speed of least energy, and `W S ln 2 / cn0` for sending: the limit of much time
    and bandwidth; of a fixed efficiency, sending over the whole band.
    """
    speed = frugal_speed(problem.idle_power_w, problem.full_power_w)
    computing = plan_of(
        replace(problem, payload_bits=np.zeros(len(problem))),
        np.zeros(len(problem)),
        np.maximum(speed, _SLOWEST),
        np.zeros(len(problem)),
    ).energy_j
    with np.errstate(divide="ignore"):
        per_bit = np.where(
            problem.efficiency > 0,
            1.0 / (problem.efficiency * problem.bandwidth_hz),
            LN2 / problem.cn0_hz,
        )
    sending = np.where(problem.payload_bits > 0, problem.payload_bits * per_bit, 0.0)
    return computing + problem.sending_power_w * sending


def _plan(problem: EnergyProblem, found: Response) -> EnergyPlan:
    """Decisions from the times and shares: the power is the one that just suffices."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        speed = np.where(problem.compute_s > 0, problem.compute_s / found.compute_s, 1.0)
        speed = np.minimum(speed, 1.0)
        band = fill_band(found.bandwidth_hz, problem.bandwidth_hz)
        left_s = found.deadline_s - problem.fixed_delay_s - problem.compute_s / speed
        nats = airtime_s(problem.payload_bits * LN2, left_s * band)
        share = band / problem.cn0_hz * np.expm1(nats)
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
