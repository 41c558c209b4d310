"""FedsLLM as a planning problem: local accuracy and bandwidth per client, least total delay.

method: fedsllm
a, v, bandwidth_hz, noise_psd_dbm_hz
clients: [{name, tx_power_dbm, gain_db (or spectral_efficiency_bps_hz), compute_delay_s (of one
           local iteration), payload_bits}]
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from airtune.allocation.bandwidth import airtime_s
from airtune.allocation.local_accuracy import (
    LocalAccuracyPlan,
    LocalTraining,
    solve_equal_bandwidth,
    solve_local_accuracy,
)
from airtune.allocation.solve import Solution
from airtune.planning.fields import NOT_NEGATIVE, POSITIVE, read_links
from airtune.planning.reading import Reader, closing, finite, heading

SOLVERS: dict[str, Callable[[LocalTraining], Solution[LocalAccuracyPlan]]] = {
    "exact": solve_local_accuracy,
    "equal": solve_equal_bandwidth,
}


def read(mapping: Mapping[str, Any]) -> LocalTraining:
    """The problem in SI units. Raises InputError, in one sentence, for anything it cannot mean."""
    top = Reader(mapping)
    top.text("method")
    clients = top.clients()
    given = [key for key in ("noise_psd_w_hz", "noise_psd_dbm_hz") if top.has(key)]
    noise = top.level("noise_psd_w_hz", POSITIVE) if given else None
    problem = LocalTraining(
        links=read_links(clients, noise),
        compute_delay_s=clients.number("compute_delay_s", NOT_NEGATIVE),
        payload_bits=clients.number("payload_bits", NOT_NEGATIVE),
        bandwidth_hz=top.number("bandwidth_hz", POSITIVE),
        a=top.number("a", POSITIVE),
        v=top.number("v", POSITIVE),
        names=clients.names,
    )
    clients.close()
    top.close()
    return problem


def answer(problem: LocalTraining, solution: Solution[LocalAccuracyPlan]) -> dict[str, Any]:
    """What `airtune plan --json` prints; plan entries are null where there is no plan."""
    plan = solution.plan
    return {
        **heading(solution),
        "total_delay_s": finite(solution.objective),
        "local_accuracy": None if plan is None else plan.local_accuracy,
        "lower_bound_s": finite(solution.lower_bound),
        "gap": finite(solution.gap),
        **closing(solution),
        "clients": None if plan is None else _clients(problem, plan),
    }


def _clients(problem: LocalTraining, plan: LocalAccuracyPlan) -> list[dict[str, Any]]:
    """One row per client: its bandwidth and the stage delays of one round."""
    rate = problem.links.rate(plan.bandwidth_hz)
    iterations = problem.v * np.log2(1 / plan.local_accuracy)
    columns = {
        "bandwidth_hz": plan.bandwidth_hz,
        "rate_bps": rate,
        "compute_s": iterations * problem.compute_delay_s,
        "upload_s": airtime_s(problem.payload_bits, rate),
    }
    lists = {key: values.tolist() for key, values in columns.items()}
    names = problem.names or [str(index) for index in range(len(rate))]
    return [
        {"name": name, **{key: values[index] for key, values in lists.items()}}
        for index, name in enumerate(names)
    ]
