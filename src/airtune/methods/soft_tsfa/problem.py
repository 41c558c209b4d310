"""TSFA as a planning problem: ranks to send and bandwidth per client, energy against latency.

The file is `TsfaFile`, or `TsfaCell` where the numbers follow from a model and a cell
(`problem_file.py`).
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from airtune.allocation.solve import Solution
from airtune.allocation.sparsity.client_queues import ClientQueues, per_client_queues
from airtune.allocation.sparsity.lyapunov import (
    ChannelSource,
    Rounds,
    RoundSolver,
    least_mean_latency_s,
    least_reachable_target_s,
    run_rounds,
)
from airtune.allocation.sparsity.problem import SparsityPlan, SparsityProblem, upload_delay_s
from airtune.allocation.sparsity.solvers import dense, exact, fixed_sparsity
from airtune.errors import InputError
from airtune.files import write_text_atomic
from airtune.methods.soft_tsfa.problem_channel import ChannelChoice, channel_source, read_channel
from airtune.methods.soft_tsfa.problem_file import TsfaFile
from airtune.planning.answer import closing, finite, heading
from airtune.planning.sections import NOT_NEGATIVE
from airtune.planning.table import ClientTable, read_links, read_weights
from airtune.quantities import FloatArray, format_duration
from airtune.ranges import number_list
from airtune.section import check
from airtune.wireless.rate import Links

SILENT_S = 10.0
ROUND_GAP = 1e-3
"""Where the exact solver may stop in each of many simulated rounds."""
FILE = TsfaFile


@dataclass(frozen=True)
class TsfaProblem:
    """A round, and what only some solvers or the simulator look at.

    Attributes:
        virtual_queue: one number, or one per client [client].
        cn0_per_gain_hz: p / N0 [client], which turns a gain into cn0; NaN at a fixed efficiency.
    """

    one_round: SparsityProblem
    virtual_queue: float | FloatArray
    sparsity: float
    bandwidth_floor_hz: float
    channel: ChannelChoice
    cn0_per_gain_hz: FloatArray


def read(mapping: Mapping[str, Any]) -> TsfaProblem:
    """The problem in SI units. Raises InputError, in one sentence, for anything it cannot mean."""
    file = check(TsfaFile, mapping)
    clients, noise = file.clients, file.level("noise_psd_w_hz")
    queue = _queue(file.virtual_queue, len(clients))
    energy = clients.vectors("rank_energy")
    return TsfaProblem(
        SparsityProblem(
            links=read_links(clients, noise, file.rate_model),
            bandwidth_hz=file.bandwidth_hz,
            compute_delay_s=clients.number("compute_delay_s"),
            rank_energy=_padded(energy),
            rank_payload_bits=_payloads(clients, energy),
            latency_target_s=file.latency_target_s,
            v=file.v,
            virtual_queue=queue if isinstance(queue, float) else 0.0,
            fixed_payload_bits=clients.number("fixed_payload_bits"),
            weight=read_weights(clients),
            outage_latency_s=_or_nan(file.outage_latency_s),
            names=clients.names,
        ),
        queue,
        file.sparsity,
        _or_nan(file.bandwidth_floor_hz),
        read_channel(file.channel),
        clients.level("tx_power_w") / noise,
    )


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def _queue(value: Any, clients: int) -> float | FloatArray:
    if np.ndim(value) == 0:
        return float(value)
    return number_list(value.tolist(), "virtual_queue", NOT_NEGATIVE, clients)


def _payloads(clients: ClientTable, energy: list[FloatArray]) -> FloatArray:
    """Bits of each rank [client, rank], or [client, 1] where every client's ranks are equal."""
    key = "rank_payload_bits"
    rows = []
    for index, (bits, ranks) in enumerate(zip(clients.vectors(key), energy, strict=True)):
        length = 1 if bits.ndim == 0 else len(ranks)
        row = np.atleast_1d(bits).tolist()
        rows.append(number_list(row, clients.label(key, index), NOT_NEGATIVE, length))
    if all(len(row) == 1 for row in rows):
        return np.array(rows)
    return _padded([np.broadcast_to(row, len(own)) for row, own in zip(rows, energy, strict=True)])


def _padded(rows: list[FloatArray]) -> FloatArray:
    """Rows of unequal length as one array [client, rank], NaN behind the shorter ones."""
    table = np.full((len(rows), max(len(row) for row in rows)), np.nan)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return table


def _single(problem: TsfaProblem) -> SparsityProblem:
    """The round of a solver with one queue for all clients."""
    if not isinstance(problem.virtual_queue, float):
        remedy = "or choose the solver per-client-queues"
        raise InputError("virtual_queue", "a list", "one number for this solver", remedy)
    return problem.one_round


def _per_client(problem: TsfaProblem) -> Solution[SparsityPlan]:
    clients = len(problem.one_round.links)
    queue = np.broadcast_to(np.asarray(problem.virtual_queue, dtype=np.float64), (clients,))
    queues = ClientQueues(queue, problem.bandwidth_floor_hz)
    return per_client_queues(problem.one_round, queues)


SOLVERS: dict[str, Callable[[TsfaProblem], Solution[SparsityPlan]]] = {
    "exact": lambda problem: exact(_single(problem)),
    "per-client-queues": _per_client,
    "fixed-sparsity": lambda problem: fixed_sparsity(_single(problem), problem.sparsity),
    "dense": lambda problem: dense(_single(problem)),
}


def answer(problem: TsfaProblem, solution: Solution[SparsityPlan]) -> dict[str, Any]:
    """What `airtune plan --json` prints; `clients` is null where there is no plan."""
    plan = solution.plan
    queue: Any = None
    if plan is not None:
        queue = plan.virtual_queue_next
        queue = queue.tolist() if isinstance(queue, np.ndarray) else queue
    return {
        **heading(solution),
        "latency_s": None if plan is None else finite(plan.latency_s),
        "objective": finite(solution.objective),
        "objective_lower_bound": finite(solution.lower_bound),
        "gap": finite(solution.gap),
        "virtual_queue_next": queue,
        **closing(solution),
        "clients": None if plan is None else _clients(problem.one_round, plan),
    }


def _clients(problem: SparsityProblem, plan: SparsityPlan) -> list[dict[str, Any]]:
    """One row per client: its decisions and its stage delays; one in outage sends nothing."""
    ranks = np.count_nonzero(~np.isnan(problem.rank_energy), axis=1)
    columns = {
        "bandwidth_hz": plan.bandwidth_hz.tolist(),
        "kept_ranks": plan.kept_ranks(),
        "sparsity": (1.0 - plan.kept.sum(axis=1) / ranks).tolist(),
        "in_outage": plan.skipped.tolist(),
        "rate_bps": problem.links.rate(plan.bandwidth_hz).tolist(),
        "compute_s": np.where(plan.skipped, 0.0, problem.compute_delay_s).tolist(),
        "upload_s": upload_delay_s(problem, plan).tolist(),
    }
    names = problem.names or [str(index) for index in range(len(ranks))]
    return [
        {"name": name, **{key: values[index] for key, values in columns.items()}}
        for index, name in enumerate(names)
    ]


def _round_solver(problem: TsfaProblem, name: str | None) -> RoundSolver:
    """The solver of each of many rounds; no bounds are proven where they would go unread."""
    solvers: dict[str, RoundSolver] = {
        "exact": lambda one: exact(one, ROUND_GAP),
        "fixed-sparsity": lambda one: fixed_sparsity(one, problem.sparsity, prove=False),
        "dense": lambda one: dense(one, prove=False),
    }
    if name is not None and name not in solvers:
        raise InputError("--solver with --rounds", name, f"one of {', '.join(solvers)}")
    return solvers[name or "exact"]


def _saying(channel: ChannelSource, rounds: int, say: Callable[[str], None]) -> ChannelSource:
    """The channel, with a word on where a long simulation is every `SILENT_S` seconds."""
    last = time.monotonic()

    def observed(index: int) -> Links:
        nonlocal last
        if time.monotonic() - last >= SILENT_S:
            last = time.monotonic()
            say(f"still simulating: round {index + 1} of {rounds}")
        return channel(index)

    return observed


def simulate(
    problem: TsfaProblem,
    rounds: int,
    trace: Path | None = None,
    solver: str | None = None,
    say: Callable[[str], None] = lambda _sentence: None,
) -> dict[str, Any]:
    """Many rounds over changing channels, with the queue carried along.

    Args:
        trace: where to write one row a round, as csv.
        solver: of each round; `exact` by default. A queue per client is not simulated.
        say: called every few seconds with the progress. It passes the rounds once to plan
            them, once for the least mean latency, and where that misses the target some more.

    Returns:
        The mean latency and its target, the overshoot Q_T / T, outages, dropped energy, and
        whether any planner could have held the target on these channels.
    """
    template = _single(problem)
    drawn = channel_source(
        problem.channel, template.links, problem.cn0_per_gain_hz, tuple(template.names)
    )
    channel = _saying(drawn, rounds, say)
    table = run_rounds(template, rounds, channel, _round_solver(problem, solver))
    least = least_mean_latency_s(template, rounds, channel)
    # No planner holds a target so short that the outage rule skips every client.
    reachable = least <= template.latency_target_s and table.empty_rounds < rounds
    smallest = None
    own_limit = not np.isnan(template.outage_latency_s)
    if not reachable and not (own_limit and table.empty_rounds == rounds):
        smallest = least_reachable_target_s(template, rounds, channel, least)
    if trace is not None:
        write_text_atomic(trace, _csv(table))
    return {
        "message": _summary(table, smallest, reachable, template.outage_limit_s, solver or "exact"),
        "solver": solver or "exact",
        "rounds": rounds,
        "clients": table.clients,
        "mean_latency_s": table.mean_latency_s,
        "latency_target_s": template.latency_target_s,
        "overshoot_limit_s": table.overshoot_limit_s,
        "least_mean_latency_s": least,
        "reachable": reachable,
        "least_reachable_target_s": smallest,
        "mean_dropped_energy": float(table.dropped_energy.mean()),
        "outage_share": table.outage_share,
        "empty_rounds": table.empty_rounds,
        "outage_latency_s": finite(template.outage_limit_s),
        "virtual_queue_next": table.final_queue,
    }


def _summary(
    table: Rounds, smallest_target_s: float | None, reachable: bool, limit_s: float, solver: str
) -> str:
    """One sentence: whether the mean latency meets the target, and if not, why."""
    mean, target = format_duration(table.mean_latency_s), format_duration(table.latency_target_s)
    limit = format_duration(limit_s)
    if table.empty_rounds == len(table):
        remedy = (
            "raise outage_latency_s"
            if smallest_target_s is None
            else f"the smallest target that can be held is {format_duration(smallest_target_s)}"
        )
        return (
            "Every client is in outage in every round: none can send one rank over the whole band "
            f"within the outage limit of {limit}, which each round waits in vain, for the target "
            f"of {target}; {remedy}."
        )
    waits = ""
    if table.empty_rounds:
        waits = (
            f"; in {table.empty_rounds} of {len(table)} rounds every client was in outage, and the "
            f"round waited {limit} without an update"
        )
    if not reachable:
        smallest = (
            "no target can be, for no client has a signal in too many rounds"
            if smallest_target_s is None
            else f"with one rank from every client the smallest target that can is "
            f"{format_duration(smallest_target_s)}"
        )
        return (
            f"The target of {target} cannot be reached: {smallest}; the mean latency was "
            f"{mean}{waits}."
        )
    if table.mean_latency_s <= table.latency_target_s:
        return f"The mean latency of {mean} meets the target of {target}{waits}."
    over = table.mean_latency_s / table.latency_target_s - 1.0
    cause = (
        "the queue is still filling, and more rounds or a smaller v bring it down"
        if solver == "exact"
        else f"{solver} does not heed the queue"
    )
    return f"The mean latency of {mean} is {over:.1%} above the target of {target}: {cause}{waits}."


def _csv(table: Rounds) -> str:
    columns = {
        "latency_s": table.latency_s,
        "virtual_queue": table.virtual_queue,
        "dropped_energy": table.dropped_energy,
        "outages": table.outages.astype(int),
        "ranks_sent": table.ranks_sent.astype(int),
    }
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    lines = [f"{index}," + ",".join(map(repr, row)) for index, row in enumerate(rows)]
    return "\n".join(["round," + ",".join(columns), *lines]) + "\n"
