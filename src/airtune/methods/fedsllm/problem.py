"""FedsLLM as a planning problem: local accuracy and bandwidth per client, least total delay.

The file is `FedsllmProblem`, or `FedsllmCell` where the numbers follow from a model and a cell.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from airtune.allocation.bandwidth import airtime_s
from airtune.allocation.local_accuracy import (
    LocalAccuracyPlan,
    LocalTraining,
    solve_equal_bandwidth,
    solve_local_accuracy,
)
from airtune.allocation.solve import Solution
from airtune.planning.answer import closing, finite, heading
from airtune.planning.sections import (
    CellSection,
    Count,
    LinkedClient,
    NotNegative,
    NumbersSection,
    PlannedTraining,
    Positive,
    ProblemSection,
)
from airtune.planning.table import ClientTable, TableOf, read_links
from airtune.section import check

SOLVERS: dict[str, Callable[[LocalTraining], Solution[LocalAccuracyPlan]]] = {
    "exact": solve_local_accuracy,
    "equal": solve_equal_bandwidth,
}


class FedsllmClient(LinkedClient):
    compute_delay_s: NotNegative = Field(description="one local iteration [s]")
    payload_bits: NotNegative = Field(description="its update [bit]")
    fixed_delay_s: NotNegative = Field(0.0, description="once a round, whatever is decided [s]")


class FedsllmKeys(ProblemSection):
    """The keys of its own, however the clients are given."""

    a: Positive = Field(description="the paper's a: rounds are a / (1 - local accuracy)")
    v: Positive = Field(description="local iterations per halving of the local error")


class FedsllmProblem(FedsllmKeys, NumbersSection):
    """FedsLLM in explicit numbers."""

    bandwidth_hz: Positive = Field(description="the band that the clients share [Hz]")
    clients: Annotated[ClientTable, TableOf(FedsllmClient)] = Field(description="one mapping each")


class IterationTraining(PlannedTraining):
    local_steps: Count = Field(1, description="optimiser steps of a local iteration")


class FedsllmCell(FedsllmKeys, CellSection):
    """FedsLLM from a model, a cell and devices."""

    training: IterationTraining = Field(description="a local iteration")


FILE = FedsllmProblem


def read(mapping: Mapping[str, Any]) -> LocalTraining:
    """The problem in SI units. Raises InputError, in one sentence, for anything it cannot mean."""
    file = check(FedsllmProblem, mapping)
    file.require_shannon()
    clients = file.clients
    return LocalTraining(
        links=read_links(clients, file.level("noise_psd_w_hz")),
        compute_delay_s=clients.number("compute_delay_s"),
        payload_bits=clients.number("payload_bits"),
        bandwidth_hz=file.bandwidth_hz,
        a=file.a,
        v=file.v,
        names=clients.names,
        fixed_delay_s=clients.number("fixed_delay_s"),
    )


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
