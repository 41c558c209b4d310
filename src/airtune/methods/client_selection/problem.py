"""Client selection as a planning problem: who takes part, and each one's bandwidth.

The file is `SelectionFile`, or `SelectionCell` where the numbers follow from a model and a cell.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from airtune.allocation.bandwidth import airtime_s
from airtune.allocation.selection.problem import SelectionPlan, SelectionProblem
from airtune.allocation.selection.solvers import (
    SelectionSolution,
    exact_selection,
    greedy_selection,
    random_selection,
)
from airtune.allocation.solve import Solution
from airtune.planning.answer import closing, finite, heading
from airtune.planning.sections import (
    SMALLEST,
    NotNegative,
    NumbersSection,
    Positive,
    ProblemSection,
    WeightedCell,
    WeightedClient,
)
from airtune.planning.table import ClientTable, TableOf, read_links
from airtune.ranges import Range
from airtune.section import check

SOLVERS: dict[str, Callable[[SelectionProblem], SelectionSolution]] = {
    "exact": exact_selection,
    "greedy": greedy_selection,
    "random": random_selection,
}
_SHARE = Range(above=0, most=1, smallest=SMALLEST)


class SelectedClient(WeightedClient):
    fixed_delay_s: NotNegative = Field(0.0, description="before it computes: its broadcast [s]")
    compute_delay_s: NotNegative = Field(description="its training in a round [s]")
    payload_bits: NotNegative = Field(description="its update [bit]")


class SelectionKeys(ProblemSection):
    """The keys of its own, however the clients are given."""

    deadline_s: Positive | None = Field(
        None, description="on the round: the most weight that is in time takes part [s]"
    )
    weight_share: Annotated[float, _SHARE] | None = Field(
        None,
        description="of all clients' weight, that has to take part: the least deadline for it; one "
        "of the two is given",
    )


class SelectionFile(SelectionKeys, NumbersSection):
    """Client selection in explicit numbers."""

    bandwidth_hz: Positive = Field(description="the band that the clients share [Hz]")
    clients: Annotated[ClientTable, TableOf(SelectedClient)] = Field(description="one mapping each")


class SelectionCell(SelectionKeys, WeightedCell):
    """Client selection from a model, a cell and devices."""


FILE = SelectionFile


def read(mapping: Mapping[str, Any]) -> SelectionProblem:
    """The problem in SI units. Raises InputError, in one sentence, for anything it cannot mean."""
    file = check(SelectionFile, mapping)
    file.require_shannon()
    clients = file.clients
    return SelectionProblem(
        links=read_links(clients, file.level("noise_psd_w_hz")),
        bandwidth_hz=file.bandwidth_hz,
        fixed_delay_s=clients.number("fixed_delay_s") + clients.number("compute_delay_s"),
        payload_bits=clients.number("payload_bits"),
        weight=clients.number("weight"),
        deadline_s=file.deadline_s,
        weight_share=file.weight_share,
        names=clients.names,
    )


def answer(problem: SelectionProblem, solution: Solution[SelectionPlan]) -> dict[str, Any]:
    """What `airtune plan --json` prints; `clients` is null where there is no plan."""
    plan = solution.plan
    at_deadline = problem.deadline_s is not None
    return {
        **heading(solution),
        "taking_part": None if plan is None else int(np.count_nonzero(plan.chosen)),
        "weight_share": None if plan is None else plan.weight_share,
        "most_weight_share": finite(getattr(solution, "most_share", None)),
        "latency_s": None if plan is None else plan.latency_s,
        "lower_bound_s": None if at_deadline else finite(solution.lower_bound),
        "gap": _gap(solution),
        **closing(solution),
        "clients": None if plan is None else _clients(problem, plan),
    }


def _gap(solution: Solution[SelectionPlan]) -> float | None:
    """How far the plan may be from the optimum, relative to what is sought."""
    most: float | None = getattr(solution, "most_share", None)
    if most is None or solution.objective is None:
        return finite(solution.gap)
    return max(most / (1.0 - solution.objective) - 1.0, 0.0)


def _clients(problem: SelectionProblem, plan: SelectionPlan) -> list[dict[str, Any]]:
    """One row per client: whether it takes part, its bandwidth, and when it ends."""
    rate = problem.links.rate(plan.bandwidth_hz)
    upload_s = np.where(plan.chosen, airtime_s(problem.payload_bits, rate), np.nan)
    columns = {
        "weight": problem.weight,
        "bandwidth_hz": plan.bandwidth_hz,
        "rate_bps": rate,
        "start_s": problem.fixed_delay_s,
        "upload_s": upload_s,
        "finish_s": problem.fixed_delay_s + upload_s,
    }
    lists = {key: [finite(value) for value in values] for key, values in columns.items()}
    names = problem.names or [str(index) for index in range(len(problem))]
    return [
        {
            "name": name,
            "takes_part": bool(plan.chosen[index]),
            **{key: values[index] for key, values in lists.items()},
        }
        for index, name in enumerate(names)
    ]
