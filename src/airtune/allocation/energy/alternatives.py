"""Simpler ways to divide the band, speeds and powers, to compare the optimum with.

All of them run at full speed and full power but the harmony search, which draws all decisions.
"""

from typing import cast

import numpy as np

from airtune.allocation.bandwidth import equal_bandwidth, minmax_bandwidth
from airtune.allocation.energy.exact import EnergySolution, exact_energy, sentence
from airtune.allocation.energy.problem import EnergyPlan, EnergyProblem, check_energy, plan_of
from airtune.allocation.solve import OPTIMALITY, Check, SolveTimer, Status, checked
from airtune.quantities import FloatArray
from airtune.seeds import generator

_MEMORY = 30
_FROM_MEMORY = 0.9
_ADJUSTED = 0.3
_TRIES = 4_000
_SLOWEST = 0.05


def full_power(problem: EnergyProblem) -> EnergySolution:
    """Full speed and power, and the band divided for the least latency."""
    return _at_full_power(problem, "minmax")


def equal_shares(problem: EnergyProblem) -> EnergySolution:
    """Full speed and power, and the band divided equally."""
    return _at_full_power(problem, "equal")


def harmony(problem: EnergyProblem) -> EnergySolution:
    """Bandwidths, speeds and powers by harmony search, a random search with a memory.

    A new plan takes each decision from one of the best plans so far (nine times of ten), sometimes
    adjusted a little, or draws it anew, and replaces the worst of them if it costs less. Gao et al.
    (arXiv 2211.00481) use this metaheuristic for a part of their problem; what is drawn and the
    constants are ours.
    """
    watch, count = SolveTimer(), len(problem)
    draws = generator(0, "harmony search")
    memory = draws.uniform(_SLOWEST, 1.0, (_MEMORY, 3, count))
    # One plan in the memory is that of full speed and power.
    memory[0] = 1.0
    costs = np.array([_penalised(problem, _decode(problem, entry)) for entry in memory])
    for _ in range(_TRIES):
        chosen = memory[draws.integers(_MEMORY, size=(3, count)), *np.indices((3, count))]
        moved = chosen + draws.uniform(-0.05, 0.05, (3, count))
        chosen = np.where(draws.uniform(size=(3, count)) < _ADJUSTED, moved, chosen)
        anew = draws.uniform(_SLOWEST, 1.0, (3, count))
        known = draws.uniform(size=(3, count)) < _FROM_MEMORY
        entry = np.clip(np.where(known, chosen, anew), _SLOWEST, 1.0)
        cost, worst = _penalised(problem, _decode(problem, entry)), int(np.argmax(costs))
        if cost < costs[worst]:
            memory[worst], costs[worst] = entry, cost
    return _solution(problem, _decode(problem, memory[int(np.argmin(costs))]), "harmony", watch)


def _decode(problem: EnergyProblem, entry: FloatArray) -> EnergyPlan:
    """Weights of the band, speeds and powers [3, client] as a plan."""
    weight = np.where(problem.payload_bits > 0, entry[0], 0.0)
    band = problem.bandwidth_hz * weight / max(float(weight.sum()), 1e-300)
    share = np.where(problem.cn0_hz > 0, entry[2], 1.0)
    return plan_of(problem, band, entry[1].copy(), share)


def _penalised(problem: EnergyProblem, plan: EnergyPlan) -> float:
    """The cost; of a plan that exceeds a limit, far above that of all others."""
    excess = max(*_limits(problem, plan).excess.values(), 0.0)
    return problem.cost(plan.latency_s, plan.energy_j) * (1.0 if excess <= 1e-9 else 1e6 + excess)


def _limits(problem: EnergyProblem, plan: EnergyPlan) -> Check:
    """What of the limits on latency and energy a plan exceeds."""
    found = check_energy(problem, plan).excess
    kinds = ("deadline", "energy budget", "energy budget of each client")
    return Check({kind: found[kind] for kind in kinds})


def _at_full_power(problem: EnergyProblem, name: str) -> EnergySolution:
    watch = SolveTimer()
    start_s = problem.fixed_delay_s + problem.compute_s
    solve = minmax_bandwidth if name == "minmax" else equal_bandwidth
    split = solve(problem.links, problem.payload_bits, start_s, problem.bandwidth_hz, problem.names)
    if split.plan is None:
        return EnergySolution(Status.INFEASIBLE, split.message, name)
    ones = np.ones(len(problem))
    return _solution(problem, plan_of(problem, split.plan.bandwidth_hz, ones, ones), name, watch)


def _solution(
    problem: EnergyProblem, plan: EnergyPlan, name: str, watch: SolveTimer
) -> EnergySolution:
    """The plan beside the bound of the optimum; infeasible where it exceeds a limit."""
    seconds, best = watch.seconds, exact_energy(problem)
    if best.lower_bound is None:
        return EnergySolution(Status.INFEASIBLE, best.message, name)
    kind, excess = _limits(problem, plan).worst
    if excess > 1e-9:
        reason = f"The plan of solver {name} exceeds the {kind} by {100 * excess:.3g} %."
        return EnergySolution(Status.INFEASIBLE, reason, name, solve_time_s=seconds)
    cost = problem.cost(plan.latency_s, plan.energy_j)
    optimal = cost - best.lower_bound <= OPTIMALITY * cost
    solution = EnergySolution(
        status=Status.OPTIMAL if optimal else Status.FEASIBLE,
        message=sentence(problem, plan, "Optimal" if optimal else "Feasible"),
        solver=name,
        plan=plan,
        objective=cost,
        lower_bound=min(best.lower_bound, cost),
        solve_time_s=seconds,
    )
    return cast(EnergySolution, checked(solution, lambda made: check_energy(problem, made)))
