"""JCPBA as a planning problem: pruning rate and bandwidth per client, least round latency.

method: jcpba
bandwidth_hz, noise_psd_dbm_hz, pruning_rate_max, pruning_budget
clients: [{name, weight, tx_power_dbm, gain_db, fixed_delay_s, pruning_rate_min,
           compute_delay_s: {fixed, prunable}, payload_bits: {fixed, prunable}}]
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from airtune.allocation.bandwidth import airtime_s
from airtune.allocation.pruning.exact import (
    alternating_pruning,
    equal_shares_pruning,
    exact_pruning,
    uniform_pruning,
    without_anything,
    without_pruning,
)
from airtune.allocation.pruning.problem import PruningPlan, PruningProblem
from airtune.allocation.solve import Solution
from airtune.planning.fields import NOT_NEGATIVE, POSITIVE, SHARE, read_links, read_weights
from airtune.planning.reading import Reader, closing, finite, heading

SOLVERS: dict[str, Callable[[PruningProblem], Solution[PruningPlan]]] = {
    "exact": exact_pruning,
    "bcd": alternating_pruning,
    "equal": equal_shares_pruning,
    "uniform-pruning": uniform_pruning,
    "no-pruning": without_pruning,
    "none": without_anything,
}


def read(mapping: Mapping[str, Any]) -> PruningProblem:
    """The problem in SI units. Raises InputError, in one sentence, for anything it cannot mean."""
    top = Reader(mapping)
    top.text("method")
    clients = top.clients()
    compute = clients.nested("compute_delay_s")
    payload = clients.nested("payload_bits")
    noise = top.level("noise_psd_w_hz", POSITIVE, default=np.nan)
    problem = PruningProblem(
        links=read_links(clients, None if np.isnan(noise) else noise),
        bandwidth_hz=top.number("bandwidth_hz", POSITIVE),
        pruning_budget=top.number("pruning_budget", NOT_NEGATIVE),
        pruning_rate_max=top.number("pruning_rate_max", SHARE),
        weight=read_weights(clients),
        fixed_delay_s=clients.number("fixed_delay_s", NOT_NEGATIVE, 0.0),
        fixed_compute_s=compute.number("fixed", NOT_NEGATIVE, 0.0),
        prunable_compute_s=compute.number("prunable", NOT_NEGATIVE),
        fixed_bits=payload.number("fixed", NOT_NEGATIVE, 0.0),
        prunable_bits=payload.number("prunable", NOT_NEGATIVE),
        pruning_rate_min=clients.number("pruning_rate_min", SHARE, 0.0),
        names=clients.names,
    )
    for reader in (compute, payload, clients, top):
        reader.close()
    return problem


def answer(problem: PruningProblem, solution: Solution[PruningPlan]) -> dict[str, Any]:
    """What `airtune plan --json` prints; `clients` is null where there is no plan."""
    return {
        **heading(solution),
        "latency_s": finite(solution.objective),
        "lower_bound_s": finite(solution.lower_bound),
        "gap": finite(solution.gap),
        **closing(solution),
        "clients": None if solution.plan is None else _clients(problem, solution.plan),
    }


def _clients(problem: PruningProblem, plan: PruningPlan) -> list[dict[str, Any]]:
    """One row per client: its decisions and its stage delays."""
    rate = problem.links.rate(plan.bandwidth_hz)
    compute = problem.start_s(plan.pruning_rate) - problem.fixed_delay_s
    upload = airtime_s(problem.payload_bits(plan.pruning_rate), rate)
    columns = {
        "bandwidth_hz": plan.bandwidth_hz,
        "pruning_rate": plan.pruning_rate,
        "rate_bps": rate,
        "fixed_delay_s": problem.fixed_delay_s,
        "compute_s": compute,
        "upload_s": upload,
    }
    names = problem.names or [str(index) for index in range(len(problem))]
    lists = {key: values.tolist() for key, values in columns.items()}
    return [
        {"name": name, **{key: values[index] for key, values in lists.items()}}
        for index, name in enumerate(names)
    ]
