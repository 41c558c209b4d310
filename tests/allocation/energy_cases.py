"""Problems of latency and energy, and an independent solver for small ones."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import minimize

from airtune.allocation.energy.exact import exact_energy
from airtune.allocation.energy.problem import EnergyProblem, least_energies
from airtune.quantities import FloatArray
from airtune.wireless.rate import ShannonLinks, mixed_links


def plain(seed: int, clients: int, **keys: Any) -> EnergyProblem:
    """Phones in a cell: half a megahertz and some megabits each."""
    rng = np.random.default_rng(seed)
    return EnergyProblem(
        links=ShannonLinks(10 ** rng.uniform(6, 8.5, clients)),
        bandwidth_hz=5e5 * clients,
        fixed_delay_s=rng.uniform(0, 0.5, clients),
        compute_s=rng.uniform(0.5, 6, clients),
        payload_bits=rng.uniform(1e6, 1e7, clients),
        idle_power_w=rng.uniform(0.5, 2, clients),
        full_power_w=rng.uniform(3, 9, clients),
        sending_power_w=np.full(clients, 0.57),
        **keys,
    )


def scaled(seed: int) -> EnergyProblem:
    """Anything goes: fixed efficiencies, no payload, no computing, no idle power, odd units."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 30))
    time, hertz, watts = 10 ** rng.uniform(-2, 2, 3)
    fixed = rng.uniform(size=count) < 0.3
    idle = watts * rng.uniform(0, 2, count) * (rng.uniform() < 0.7)
    return EnergyProblem(
        links=mixed_links(
            np.where(fixed, np.nan, hertz * 10 ** rng.uniform(5, 9, count)),
            np.where(fixed, rng.uniform(0.5, 6, count), np.nan),
        ),
        bandwidth_hz=hertz * 5e5 * count,
        fixed_delay_s=time * rng.uniform(0, 2, count),
        compute_s=time * rng.uniform(0, 6, count) * (rng.uniform(size=count) < 0.9),
        payload_bits=time * hertz * rng.uniform(1e5, 1e7, count) * (rng.uniform(size=count) < 0.8),
        idle_power_w=idle,
        full_power_w=idle + watts * rng.uniform(0, 8, count) * (rng.uniform(size=count) < 0.9),
        sending_power_w=np.full(count, 0.5 * watts),
        energy_weight=10 ** rng.uniform(-6, 4) / (watts * count),
    )


def limited(seed: int) -> EnergyProblem:
    """The same, often with a deadline and budgets that the plan of least latency exceeds."""
    problem = scaled(seed)
    rng = np.random.default_rng([seed, 1])
    soonest = exact_energy(replace(problem, energy_weight=0.0))
    assert soonest.plan is not None
    least, spent = least_energies(problem), soonest.plan.energy_j
    changes: dict[str, Any] = {}
    saves = spent.sum() > least.sum() * (1 + 1e-6)
    if rng.uniform() < 0.5:
        changes["deadline_s"] = soonest.plan.latency_s * rng.uniform(1, 3)
    if rng.uniform() < 0.3 and saves:
        changes["budget_j"] = least.sum() + rng.uniform(0.01, 1) * (spent.sum() - least.sum())
    if rng.uniform() < 0.3 and saves:
        share = rng.uniform(0.1, 1.5, len(problem))
        changes["client_budget_j"] = least + share * (spent - least) + 1e-9 * spent.max()
    return replace(problem, **changes)


def energies(problem: EnergyProblem, band: FloatArray, speed: FloatArray, t: FloatArray) -> Any:
    """Energies and shares of power of uploads that take t seconds [client]; Shannon's links."""
    nats = problem.payload_bits * math.log(2)
    share = band / problem.cn0_hz * np.expm1(nats / (band * t))
    power = problem.idle_power_w + (problem.full_power_w - problem.idle_power_w) * speed**3
    return power * problem.compute_s / speed + problem.sending_power_w * share * t, share


def by_slsqp(problem: EnergyProblem, starts: int = 4) -> float:
    """The least cost that a general solver finds, over bandwidth, speed and upload time."""
    count, band = len(problem), problem.bandwidth_hz
    start_s = problem.fixed_delay_s + problem.compute_s
    rate = problem.links.rate(np.full(count, band / count))
    soonest = float((start_s + problem.payload_bits / rate).max())
    unit_j = float((problem.full_power_w * problem.compute_s).sum())

    def decisions(x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, float]:
        parts = np.exp(x[:-1]).reshape(3, count)
        return parts[0] * band / count, parts[1], parts[2] * soonest, float(np.exp(x[-1])) * soonest

    def values(x: FloatArray) -> Any:
        share_hz, speed, upload_s, deadline = decisions(x)
        spent, share = energies(problem, share_hz, speed, upload_s)
        finish = problem.fixed_delay_s + problem.compute_s / speed + upload_s
        slack = [
            [1.0 - share_hz.sum() / band],
            (deadline - finish) / soonest,
            -np.log(speed),
            -np.log(share),
        ]
        if problem.deadline_s < np.inf:
            slack.append([(problem.deadline_s - deadline) / soonest])
        if problem.budget_j < np.inf:
            slack.append([(problem.budget_j - spent.sum()) / unit_j])
        if np.isfinite(problem.client_budget_j).all():
            slack.append((problem.client_budget_j - spent) / unit_j)
        return problem.cost(deadline, spent), np.concatenate(slack)

    unit = problem.time_weight * soonest + problem.energy_weight * unit_j
    best = math.inf
    for index in range(starts):
        rng = np.random.default_rng(index)
        first = np.concatenate([np.zeros(count), np.full(count, -0.2), np.full(count, -0.5), [0.7]])
        found = minimize(
            lambda x: values(x)[0] / unit,
            first + 0.2 * rng.normal(size=len(first)) * (index > 0),
            method="SLSQP",
            constraints={"type": "ineq", "fun": lambda x: values(x)[1]},
            options={"maxiter": 1000, "ftol": 1e-13},
        )
        if values(found.x)[1].min() > -1e-8:
            best = min(best, float(values(found.x)[0]))
    return best
