"""SflLLM as a planning problem: subchannels, power, split point and rank, least total delay.

The file is `SflllmFile`, or `SflllmCell` where the numbers follow from a model and a cell
(`problem_file.py`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from airtune.allocation.solve import Solution
from airtune.allocation.split.alternatives import (
    BASELINES,
    WAYS,
    Blocks,
    solve_blocks,
    solve_greedy,
)
from airtune.allocation.split.joint import solve_joint
from airtune.allocation.split.problem import SplitCandidate, SplitPlan, SplitTraining
from airtune.allocation.subchannels.power import Uplink, measure
from airtune.errors import InputError
from airtune.methods.sflllm.problem_file import (
    BlocksSection,
    CandidateSection,
    FederatedServer,
    SflllmFile,
)
from airtune.planning.answer import closing, finite, heading
from airtune.planning.table import ClientTable, read_downlink
from airtune.quantities import FloatArray, db_to_linear
from airtune.section import check

FILE = SflllmFile
DRAWS = "sflllm"
"""The purpose of random choices."""


@dataclass(frozen=True)
class SflllmProblem:
    """The numbers of split training, and what the baselines need besides."""

    training: SplitTraining
    seed: int = 0
    blocks: Blocks | None = None


def _joint(problem: SflllmProblem) -> Solution[SplitPlan]:
    _refuse_blocks(problem, "joint")
    return solve_joint(problem.training)


def _greedy(problem: SflllmProblem) -> Solution[SplitPlan]:
    _refuse_blocks(problem, "greedy")
    return solve_greedy(problem.training)


def _baseline(name: str, problem: SflllmProblem) -> Solution[SplitPlan]:
    _refuse_blocks(problem, name)
    return solve_blocks(problem.training, BASELINES[name], problem.seed, name, purpose=DRAWS)


def _chosen_blocks(problem: SflllmProblem) -> Solution[SplitPlan]:
    if problem.blocks is None:
        allowed = f"a mapping with any of {', '.join(WAYS)} for solver blocks"
        raise InputError("blocks", "missing", allowed)
    return solve_blocks(problem.training, problem.blocks, problem.seed, "blocks", purpose=DRAWS)


SOLVERS: dict[str, Callable[[SflllmProblem], Solution[SplitPlan]]] = {
    "joint": _joint,
    "greedy": _greedy,
    **{name: partial(_baseline, name) for name in BASELINES},
    "blocks": _chosen_blocks,
}


def _refuse_blocks(problem: SflllmProblem, solver: str) -> None:
    """Blocks beside a solver that decides them itself would be ignored in silence."""
    if problem.blocks is not None:
        allowed = f"left out: solver {solver} decides every block itself"
        raise InputError("blocks", "given", allowed, "choose solver blocks")


def read(mapping: Mapping[str, Any]) -> SflllmProblem:
    """The problem in SI units. Raises InputError, in one sentence, for anything it cannot mean."""
    file = check(SflllmFile, mapping)
    file.require_shannon()
    clients, noise = file.clients, file.level("noise_psd_w_hz")
    server, federated_server = file.main_server, file.federated_server
    client_rate = clients.number("flop_rate")
    candidates = tuple(
        _candidate(row, file.batch_size, server.flop_rate, client_rate) for row in file.candidates
    )
    _refuse_duplicates(candidates)
    power = clients.level("power_max_w")
    training = SplitTraining(
        local_steps=file.local_steps,
        main=_uplink(server, clients, "main_gain", power, noise),
        federated=_uplink(federated_server, clients, "federated_gain", power, noise),
        candidates=candidates,
        downlink_rate_bps=read_downlink(
            clients, needed=any(candidate.gradient_bits > 0 for candidate in candidates)
        ),
        names=clients.names,
        round_trip_s=file.round_trip_s,
    )
    return SflllmProblem(training, file.seed, _blocks(file.blocks))


def _candidate(
    row: CandidateSection, batch: int, server_rate: float, client_rate: FloatArray
) -> SplitCandidate:
    """Seconds and bits of a local step, from FLOPs and bits per sample and rates [FLOP/s]."""
    server_flops = row.server_forward_flops + row.server_backward_flops
    return SplitCandidate(
        split_point=row.split_point,
        rank=row.rank,
        rounds=row.rounds,
        client_forward_s=batch * row.client_forward_flops / client_rate,
        client_backward_s=batch * row.client_backward_flops / client_rate,
        server_s=len(client_rate) * batch * server_flops / server_rate,
        activation_bits=batch * row.activation_bits,
        gradient_bits=batch * row.gradient_bits,
        adapter_bits=row.adapter_bits,
    )


def _refuse_duplicates(candidates: tuple[SplitCandidate, ...]) -> None:
    """The answer names a candidate by split point and rank, so these must tell it apart."""
    seen: set[tuple[int, int]] = set()
    for candidate in candidates:
        pair = (candidate.split_point, candidate.rank)
        if pair in seen:
            shown = f"split_point {pair[0]} with rank {pair[1]} twice"
            raise InputError("candidates", shown, "a list with one row per split point and rank")
        seen.add(pair)


def _uplink(
    server: FederatedServer,
    clients: ClientTable,
    gain_key: str,
    power_w: FloatArray,
    noise_w_hz: float,
) -> Uplink:
    width: FloatArray = server.subchannel_bandwidth_hz
    gain = _gains(clients, gain_key, len(width))
    with np.errstate(divide="ignore", over="ignore"):
        noise_to_gain = noise_w_hz / gain
    return Uplink(width, noise_to_gain, power_w, server.level("total_power_w"))


def _gains(clients: ClientTable, key: str, subchannels: int) -> FloatArray:
    """Linear power gains [client, subchannel], given as `key` or as `key_db`."""
    in_decibels = clients.has(f"{key}_db")
    if in_decibels and clients.has(key):
        raise InputError(f"{key}_db", "given", f"left out beside {key}")
    name = key if clients.has(key) else f"{key}_db"
    rows = []
    for index, given in enumerate(clients.vectors(name)):
        if given.ndim and len(given) != subchannels:
            allowed = f"one number or a list of {subchannels}"
            raise InputError(clients.label(name, index), f"a list of {len(given)}", allowed)
        rows.append(np.broadcast_to(given, subchannels))
    values = np.stack(rows)
    return values if name == key else db_to_linear(values)


def _blocks(section: BlocksSection | None) -> Blocks | None:
    return None if section is None else Blocks(**section.model_dump())


def answer(problem: SflllmProblem, solution: Solution[SplitPlan]) -> dict[str, Any]:
    """What `airtune plan --json` prints; plan entries are null where there is no plan."""
    plan = solution.plan
    chosen = None if plan is None else problem.training.candidates[plan.candidate]
    return {
        **heading(solution),
        "total_delay_s": finite(solution.objective),
        "split_point": None if chosen is None else chosen.split_point,
        "rank": None if chosen is None else chosen.rank,
        "lower_bound_s": finite(solution.lower_bound),
        "gap": finite(solution.gap),
        **closing(solution),
        "clients": None if plan is None else _clients(problem.training, plan),
    }


def _clients(training: SplitTraining, plan: SplitPlan) -> list[dict[str, Any]]:
    """One row per client: its subchannels, densities and stage delays (of one local step; the
    adapter's of one round)."""
    main_bps, _ = measure(training.main, plan.main.owner, plan.main.psd_w_per_hz)
    other_bps, _ = measure(training.federated, plan.federated.owner, plan.federated.psd_w_per_hz)
    stages = training.delays(training.candidates[plan.candidate], main_bps, other_bps)
    rows = []
    for client in range(training.clients):
        row: dict[str, Any] = {
            "name": training.names[client] if len(training.names) else str(client)
        }
        for link in ("main", "federated"):
            chosen = getattr(plan, link)
            owned = np.flatnonzero(chosen.owner == client)
            row[f"{link}_subchannels"] = owned.tolist()
            row[f"{link}_psd_w_per_hz"] = chosen.psd_w_per_hz[owned].tolist()
        row |= {
            stage: float(np.broadcast_to(delay, (training.clients,))[client])
            for stage, delay in vars(stages).items()
        }
        rows.append(row)
    return rows
