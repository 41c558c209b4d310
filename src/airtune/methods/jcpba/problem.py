"""JCPBA as a planning problem: pruning rate and bandwidth per client, least round latency.

The file is `JcpbaProblem`, or `JcpbaCell` where the numbers follow from a model and a cell.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import Field

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
from airtune.planning.answer import closing, finite, heading
from airtune.planning.sections import (
    NotNegative,
    NumbersSection,
    Positive,
    ProblemSection,
    Share,
    WeightedCell,
    WeightedClient,
)
from airtune.planning.table import ClientTable, TableOf, read_links, read_weights
from airtune.section import check
from airtune.wireless.cqi import CqiLinks

SOLVERS: dict[str, Callable[[PruningProblem], Solution[PruningPlan]]] = {
    "exact": exact_pruning,
    "bcd": alternating_pruning,
    "equal": equal_shares_pruning,
    "uniform-pruning": uniform_pruning,
    "no-pruning": without_pruning,
    "none": without_anything,
}


class Prunable(ProblemSection):
    """A quantity of a client at pruning rate rho: fixed + (1 - rho) prunable."""

    fixed: NotNegative = Field(0.0, description="what pruning does not change")
    prunable: NotNegative = Field(description="what is left of it at pruning rate rho: 1 - rho")


class JcpbaClient(WeightedClient):
    fixed_delay_s: NotNegative = Field(0.0, description="before it computes: its broadcast [s]")
    pruning_rate_min: Share = Field(0.0, description="least rate, for what its memory holds")
    compute_delay_s: Prunable = Field(description="its training in a round [s]")
    payload_bits: Prunable = Field(description="its update [bit]")


class JcpbaKeys(ProblemSection):
    """The keys of its own, however the clients are given."""

    pruning_rate_max: Share = Field(description="no client is pruned further")
    pruning_budget: NotNegative = Field(
        description="the mean pruning rate (by weight) may not exceed it"
    )


class JcpbaProblem(JcpbaKeys, NumbersSection):
    """JCPBA in explicit numbers."""

    bandwidth_hz: Positive = Field(description="the band that the clients share [Hz]")
    clients: Annotated[ClientTable, TableOf(JcpbaClient)] = Field(description="one mapping each")


class JcpbaCell(JcpbaKeys, WeightedCell):
    """JCPBA from a model, a cell and devices."""


FILE = JcpbaProblem


def read(mapping: Mapping[str, Any]) -> PruningProblem:
    """The problem in SI units. Raises InputError, in one sentence, for anything it cannot mean."""
    file = check(JcpbaProblem, mapping)
    clients = file.clients
    compute = clients.nested("compute_delay_s")
    payload = clients.nested("payload_bits")
    links = read_links(clients, file.level("noise_psd_w_hz"), file.rate_model)
    teeth = links if isinstance(links, CqiLinks) else None
    return PruningProblem(
        links=links.envelope() if isinstance(links, CqiLinks) else links,
        bandwidth_hz=file.bandwidth_hz,
        pruning_budget=file.pruning_budget,
        pruning_rate_max=file.pruning_rate_max,
        weight=read_weights(clients),
        fixed_delay_s=clients.number("fixed_delay_s"),
        fixed_compute_s=compute.number("fixed"),
        prunable_compute_s=compute.number("prunable"),
        fixed_bits=payload.number("fixed"),
        prunable_bits=payload.number("prunable"),
        pruning_rate_min=clients.number("pruning_rate_min"),
        names=clients.names,
        teeth=teeth,
    )


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
    rate = problem.sending.rate(plan.bandwidth_hz)
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
