"""Latency and energy as a planning problem: bandwidth, CPU speed and transmit power per client.

The file is `EnergyFile`, or `EnergyCell` where the numbers follow from a model and a cell.
"""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from airtune.allocation.bandwidth import airtime_s
from airtune.allocation.energy.alternatives import equal_shares, full_power, harmony
from airtune.allocation.energy.exact import EnergySolution, exact_energy
from airtune.allocation.energy.problem import (
    LONGEST_S,
    EnergyPlan,
    EnergyProblem,
    upload_rate_bps,
)
from airtune.allocation.solve import Solution
from airtune.cost.device import AMPLIFIER_EFFICIENCY
from airtune.errors import InputError
from airtune.methods.latency_energy.front import front
from airtune.planning.answer import closing, finite, heading
from airtune.planning.sections import (
    LARGEST,
    POSITIVE,
    SMALLEST,
    CellSection,
    Dtype,
    LinkedClient,
    NotNegative,
    NumbersSection,
    PlannedClients,
    Positive,
    ProblemSection,
)
from airtune.planning.table import ClientTable, TableOf, read_links
from airtune.quantities import FloatArray
from airtune.ranges import Numbers, Range
from airtune.section import check
from airtune.wireless.cqi import CqiLinks

SOLVERS: dict[str, Callable[[EnergyProblem], EnergySolution]] = {
    "exact": exact_energy,
    "minmax": full_power,
    "equal": equal_shares,
    "harmony": harmony,
}
BESIDE_FRONT = ("minmax", "equal")
"""Solvers that `airtune pareto` shows beside the front."""
_WEIGHT = Range(
    least=0, smallest=SMALLEST, largest=LARGEST, infinity=1, note=" of at least 0 (.inf: energy)"
)
_EFFICIENCY = Range(above=0, most=1, smallest=SMALLEST)
_Delay = Annotated[float, Range(least=0, most=LONGEST_S, smallest=SMALLEST)]


class EnergyClient(LinkedClient):
    fixed_delay_s: _Delay = Field(0.0, description="before it computes: its broadcast [s]")
    compute_delay_s: _Delay = Field(description="its training in a round at full speed [s]")
    payload_bits: NotNegative = Field(description="its update [bit]")
    idle_power_w: NotNegative = Field(
        description="drawn while it waits, what slower computing cannot save [W]"
    )
    full_power_w: NotNegative = Field(description="drawn while it computes at full speed [W]")
    sending_power_w: NotNegative | None = Field(
        None,
        description="consumed while it sends at full transmit power [W]; null: transmit power over "
        "amplifier_efficiency",
    )
    budget_j: Positive | None = Field(None, description="its energy of a round [J]; null: no limit")


class EnergyKeys(ProblemSection):
    """The keys of its own, however the clients are given."""

    weight_s_per_j: Annotated[float, _WEIGHT] = Field(
        0.0,
        description="seconds of latency that a joule is worth; 0: the least latency, .inf: the "
        "least energy within deadline_s",
    )
    deadline_s: Positive | None = Field(None, description="limit of the latency [s]; null: none")
    budget_j: Positive | None = Field(
        None, description="limit of the energy of all clients together [J]; null: none"
    )
    client_budget_j: Positive | None = Field(
        None, description="limit of the energy of each client without one of its own [J]"
    )
    amplifier_efficiency: Annotated[float, _EFFICIENCY] = Field(
        AMPLIFIER_EFFICIENCY, description="radiated over consumed power of the power amplifiers"
    )


class EnergyFile(EnergyKeys, NumbersSection):
    """Latency and energy in explicit numbers."""

    bandwidth_hz: Positive = Field(description="the band that the clients share [Hz]")
    clients: Annotated[ClientTable, TableOf(EnergyClient)] = Field(description="one mapping each")


class EnergyCell(EnergyKeys, CellSection):
    """Latency and energy from a model, a cell and devices."""

    clients: PlannedClients = Field(default_factory=PlannedClients, description="who trains it")
    downlink_dtype: Dtype = Field("fp32", description="the broadcast adapter on the air")
    pruning_rate: Annotated[Any, Numbers(Range(least=0, below=1), one=True)] = Field(
        0.0, description="of the model that each client trains, one number or one per client"
    )


FILE = EnergyFile
__all__ = ["BESIDE_FRONT", "FILE", "SOLVERS", "answer", "front", "read"]


def read(mapping: Mapping[str, Any]) -> EnergyProblem:
    """The problem in SI units. Raises InputError, in one sentence, for anything it cannot mean."""
    file = check(EnergyFile, mapping)
    file.require_shannon()
    clients = file.clients
    weight = file.weight_s_per_j
    if math.isinf(weight) and file.deadline_s is None:
        raise InputError("deadline_s", "left out", "given where weight_s_per_j is .inf")
    links = read_links(clients, file.level("noise_psd_w_hz"))
    assert not isinstance(links, CqiLinks), "refused by require_shannon"
    return EnergyProblem(
        links=links,
        bandwidth_hz=file.bandwidth_hz,
        fixed_delay_s=clients.number("fixed_delay_s"),
        compute_s=clients.number("compute_delay_s"),
        payload_bits=clients.number("payload_bits"),
        idle_power_w=clients.number("idle_power_w"),
        full_power_w=clients.number("full_power_w"),
        sending_power_w=_sending_w(clients, file.amplifier_efficiency),
        tx_power_w=clients.level("tx_power_w"),
        client_budget_j=_budgets(clients, file.client_budget_j),
        names=clients.names,
        **weighed(file),
    )


def weighed(keys: EnergyKeys) -> dict[str, float]:
    """The weights and limits of a problem, from the keys of a file."""
    energy_alone = math.isinf(keys.weight_s_per_j)
    return {
        "time_weight": 0.0 if energy_alone else 1.0,
        "energy_weight": 1.0 if energy_alone else keys.weight_s_per_j,
        "deadline_s": math.inf if keys.deadline_s is None else keys.deadline_s,
        "budget_j": math.inf if keys.budget_j is None else keys.budget_j,
    }


def _sending_w(clients: ClientTable, efficiency: float) -> FloatArray:
    given = clients.number("sending_power_w")
    power = np.where(np.isnan(given), clients.level("tx_power_w") / efficiency, given)
    missing = np.flatnonzero(np.isnan(power))
    if len(missing):
        where = clients.label("sending_power_w", int(missing[0]))
        raise InputError(where, "left out", f"{POSITIVE.words} beside spectral_efficiency_bps_hz")
    return power


def _budgets(clients: ClientTable, common: float | None) -> FloatArray:
    own = clients.number("budget_j")
    return np.where(np.isnan(own), math.inf if common is None else common, own)


def answer(problem: EnergyProblem, solution: Solution[EnergyPlan]) -> dict[str, Any]:
    """What `airtune plan --json` prints; `clients` is null where there is no plan."""
    plan = solution.plan
    price = getattr(solution, "energy_price", None)
    weighted = problem.time_weight > 0
    return {
        **heading(solution),
        "latency_s": None if plan is None else plan.latency_s,
        "energy_j": None if plan is None else float(plan.energy_j.sum()),
        "cost_s" if weighted else "cost_j": finite(solution.objective),
        "lower_bound_s" if weighted else "lower_bound_j": finite(solution.lower_bound),
        "gap": finite(solution.gap),
        "joule_worth_s": finite(price) if weighted else None,
        **closing(solution),
        "clients": None if plan is None else _clients(problem, plan),
    }


def _clients(problem: EnergyProblem, plan: EnergyPlan) -> list[dict[str, Any]]:
    """One row per client: its decisions, its stage delays and its energy."""
    rate = upload_rate_bps(problem, plan.bandwidth_hz, plan.power_share)
    columns = {
        "bandwidth_hz": plan.bandwidth_hz,
        "speed": plan.speed,
        "tx_power_w": plan.power_share * problem.tx_power_w,
        "rate_bps": rate,
        "fixed_delay_s": problem.fixed_delay_s,
        "compute_s": problem.compute_s / plan.speed,
        "upload_s": airtime_s(problem.payload_bits, rate),
        "energy_j": plan.energy_j,
    }
    lists = {key: [finite(value) for value in values] for key, values in columns.items()}
    names = problem.names or [str(index) for index in range(len(problem))]
    return [
        {"name": name, **{key: values[index] for key, values in lists.items()}}
        for index, name in enumerate(names)
    ]
