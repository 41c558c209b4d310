"""sampled_lora as a planning problem: who takes part, with which probability and rank."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from airtune.allocation.bandwidth import airtime_s
from airtune.allocation.sampling.problem import SamplingPlan, SamplingProblem
from airtune.allocation.sampling.solvers import SOLVERS as SOLVERS
from airtune.allocation.solve import Solution
from airtune.errors import InputError
from airtune.methods.sampled_lora.terms import rank_choices, variance_terms
from airtune.planning.answer import closing, finite, heading
from airtune.planning.sections import (
    Count,
    NotNegative,
    NumbersSection,
    Positive,
    Share,
    WeightedClient,
)
from airtune.planning.table import ClientTable, TableOf, read_links, read_weights
from airtune.section import check


class SampledClient(WeightedClient):
    fixed_delay_s: NotNegative = Field(0.0, description="before it computes: its broadcast [s]")
    compute_delay_s: NotNegative = Field(description="its training in a round [s]")
    payload_bits: Positive = Field(description="its update with all ranks [bit]")
    update_norm: Positive = Field(1.0, description="norm of its update, of which ratios count")


class SampledProblem(NumbersSection):
    """sampled_lora in explicit numbers."""

    bandwidth_hz: Positive = Field(
        description="the band that the clients of a round share on average [Hz]"
    )
    rank: Count = Field(1, description="of the adapter")
    least_rank: Count | None = Field(
        None, description="least number of random ranks that a client may train; null: all"
    )
    alignment: Share = Field(0.5, description="mean cosine of the clients' updates")
    clients: Annotated[ClientTable, TableOf(SampledClient)] = Field(description="one mapping each")


FILE = SampledProblem


def read(mapping: Mapping[str, Any]) -> SamplingProblem:
    """The problem in SI units. Raises InputError, in one sentence, for anything it cannot mean."""
    file = check(SampledProblem, mapping)
    file.require_shannon()
    clients = file.clients
    ranks = _choices(file)
    weights = read_weights(clients)
    norms = clients.number("update_norm")
    variance, floor = variance_terms(weights, norms / norms.max(), ranks, file.alignment)
    whole = clients.number("payload_bits")
    before_s = clients.number("fixed_delay_s") + clients.number("compute_delay_s")
    return SamplingProblem(
        links=read_links(clients, file.level("noise_psd_w_hz")),
        bandwidth_hz=file.bandwidth_hz,
        payload_bits=whole[:, None] * np.array(ranks) / ranks[0],
        fixed_delay_s=np.repeat(before_s[:, None], len(ranks), axis=1),
        variance=variance,
        floor=floor,
        names=clients.names,
        ranks=ranks,
    )


def _choices(file: SampledProblem) -> tuple[int, ...]:
    if file.least_rank is not None and file.least_rank > file.rank:
        raise InputError("least_rank", file.least_rank, f"at most the rank, {file.rank}")
    return rank_choices(file.least_rank, file.rank)


def answer(problem: SamplingProblem, solution: Solution[SamplingPlan]) -> dict[str, Any]:
    """What `airtune plan --json` prints; plan entries are null where there is no plan."""
    plan = solution.plan
    return {
        **heading(solution),
        "expected_time_s": finite(solution.objective),
        "lower_bound_s": finite(solution.lower_bound),
        "gap": finite(solution.gap),
        "deadline_s": None if plan is None else plan.deadline_s,
        "expected_clients": None if plan is None else float(plan.inclusion.sum()),
        "expected_band_hz": None if plan is None else plan.expected_band_hz,
        "price_per_hz": None if plan is None else plan.price,
        **closing(solution),
        "clients": None if plan is None else _clients(problem, plan),
    }


def _clients(problem: SamplingProblem, plan: SamplingPlan) -> list[dict[str, Any]]:
    """One row per client: its decisions, and its delays in a round in which it takes part."""
    rows = np.arange(len(problem))
    rate = problem.links.rate(plan.bandwidth_hz)
    columns = {
        "probability": plan.inclusion,
        "rank": np.array(problem.ranks)[plan.option],
        "bandwidth_hz": plan.bandwidth_hz,
        "rate_bps": rate,
        "before_upload_s": problem.fixed_delay_s[rows, plan.option],
        "upload_s": airtime_s(problem.payload_bits[rows, plan.option], rate),
    }
    lists = {key: values.tolist() for key, values in columns.items()}
    names = problem.names or [str(index) for index in range(len(problem))]
    return [
        {"name": name, **{key: values[index] for key, values in lists.items()}}
        for index, name in enumerate(names)
    ]
