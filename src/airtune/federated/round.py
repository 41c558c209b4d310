"""One round: observe channel, plan, broadcast, tune, encode, charge, decode, aggregate, evaluate.

State in, state and record out. Nothing here reads a clock of the real world, writes a file, or
knows which method runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from airtune.cost.device import DeviceProfile
from airtune.cost.energy import client_energy
from airtune.cost.latency import (
    RoundLatency,
    StageDelays,
    compute_delay,
    round_latency,
    transfer_delay,
)
from airtune.errors import InfeasibleError
from airtune.federated.backend import Backend, ClientReport, ClientTask
from airtune.federated.charges import Charges, ClientCharge, RoundCharges
from airtune.federated.checkpoint import ServerState
from airtune.federated.cohort import CohortSettings, draw_cohort, draw_dropouts
from airtune.federated.method import Method, PlanningView
from airtune.quantities import FloatArray
from airtune.round_plan import ClientPlan, Plan
from airtune.tuning.evaluate import Evaluation
from airtune.update.aggregate import Update
from airtune.update.codec import Shapes
from airtune.wireless.channel import Channel, ChannelState

IN_TIME, LATE, SILENT = "in_time", "late", "silent"


@dataclass(frozen=True)
class RoundContext:
    """What stays the same from round to round. Arrays have the axis [client], all registered."""

    method: Method
    backend: Backend
    channel: Channel
    charges: Charges
    devices: Sequence[DeviceProfile]
    names: tuple[str, ...]
    weights: FloatArray
    tx_power_w: FloatArray
    bandwidth_hz: float
    cohort: CohortSettings
    rank: int
    shapes: Shapes
    deadline_s: float | None
    seed: int
    evaluate: Callable[[Mapping[str, Tensor]], Evaluation]


@dataclass(frozen=True)
class RoundStart:
    """What is settled before anybody trains."""

    cohort: NDArray[np.int64]
    silent: frozenset[int]
    truth: ChannelState
    charges: RoundCharges
    plan: Plan


@dataclass(frozen=True)
class RoundOutcome:
    """The next state, the record, and the test evaluation of a round."""

    state: ServerState
    record: dict[str, Any]
    evaluation: Evaluation


def broadcast_delays(
    state: ChannelState, clients: NDArray[np.int64], bits: int, bandwidth_hz: float
) -> FloatArray:
    """One multicast over the whole downlink band, at the worst rate among those it reaches [s].

    A client without signal never receives it (inf) and does not hold up the others.
    """
    rates = state.downlink().select(clients).rate(np.full(len(clients), bandwidth_hz))
    reached = rates > 0
    slowest = rates[reached].min() if reached.any() else 0.0
    return transfer_delay(np.full(len(clients), float(bits)), np.where(reached, slowest, 0.0))


def start_round(context: RoundContext, state: ServerState) -> RoundStart:
    """Draw the cohort, observe the channel and plan; what `--dry-run` shows of a round."""
    index = state.rounds_done
    cohort = draw_cohort(context.cohort, len(context.names), context.seed, index)
    observation = context.channel.observe(index)
    charges = context.charges.in_round(index)
    bits = charges.downlink_bits(_whole_plan(context, int(cohort[0])))
    arrival_s = broadcast_delays(observation.estimate, cohort, bits, context.bandwidth_hz)
    view = PlanningView(
        round_index=index,
        cohort=cohort,
        names=tuple(context.names[client] for client in cohort),
        uplink=observation.estimate.uplink(context.tx_power_w).select(cohort),
        bandwidth_hz=context.bandwidth_hz,
        tx_power_w=context.tx_power_w[cohort],
        weights=context.weights[cohort] / context.weights[cohort].sum(),
        rank=context.rank,
        broadcast_s=float(arrival_s.min()),
        deadline_s=context.deadline_s,
        costs=charges,
    )
    plan = context.method.planner.plan(view, state.planner)
    if not plan.clients:
        reasons = "; ".join(sorted(set(plan.skipped.values()))) or plan.message
        raise InfeasibleError(
            f"Round {index + 1} has no client to schedule ({reasons}): give more bandwidth, "
            "more transmit power or a later deadline."
        )
    silent = draw_dropouts(context.cohort, cohort, context.seed, index)
    return RoundStart(cohort, silent, observation.truth, charges, plan)


def _whole_plan(context: RoundContext, client: int) -> ClientPlan:
    return ClientPlan(client, 0.0, float(context.tx_power_w[client]), context.rank)


def run_round(context: RoundContext, state: ServerState) -> RoundOutcome:
    """Run one round to its record."""
    start = start_round(context, state)
    plans = {entry.client: entry for entry in start.plan.clients}
    whole = start.plan.clients[0]
    broadcast = context.method.downlink.encode(state.adapter, whole)
    tasks = [
        ClientTask(state.rounds_done, client, plan, broadcast, dict(state.carried.get(client, {})))
        for client, plan in plans.items()
        if client not in start.silent
    ]
    reports = {report.client: report for report in context.backend.run(tasks)}
    charged, latency = charge_clients(context, start, reports, start.charges.downlink_bits(whole))
    in_time = [charge.plan.client for charge in charged if charge.outcome == IN_TIME]
    received = context.method.downlink.decode(broadcast, context.shapes, whole)
    codec = context.method.codec.in_round(received)
    updates = [
        Update(
            client,
            float(context.weights[client]),
            codec.decode(reports[client].payload, context.shapes, plans[client]),
            codec.trained(plans[client]),
        )
        for client in in_time
    ]
    adapter, server = _server_side(context.method, state, updates)
    evaluation = context.evaluate(adapter)
    record = _record(context, state, start, charged, reports, latency, evaluation)
    carried = {**state.carried, **{r.client: r.carried for r in reports.values() if r.carried}}
    following = replace(
        state,
        adapter=adapter,
        rounds_done=state.rounds_done + 1,
        clock=state.clock.charge(latency.latency_s, record["energy_j"]),
        planner=context.method.planner.after_round(state.planner, record),
        carried=dict(sorted(carried.items())),
        server=server,
    )
    return RoundOutcome(following, record, evaluation)


def _server_side(
    method: Method, state: ServerState, updates: Sequence[Update]
) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
    """The next adapter and what the server optimiser remembers; without updates, as they were."""
    if not updates:
        return dict(state.adapter), state.server
    merged = method.aggregator.aggregate(state.adapter, updates)
    return method.server.step(state.adapter, merged, state.server)


def charge_clients(
    context: RoundContext,
    start: RoundStart,
    reports: Mapping[int, ClientReport],
    downlink_bits: int,
) -> tuple[list[ClientCharge], RoundLatency]:
    """Charge every scheduled client with the TRUE channel and the bytes really encoded.

    At a deadline work stops: charged are the seconds spent and the bits on the air by then. A
    silent client has received the broadcast and does nothing more.
    """
    plans = start.plan.clients
    clients = np.array([plan.client for plan in plans], dtype=np.int64)
    answers = [reports.get(plan.client) for plan in plans]
    bands = np.array([plan.bandwidth_hz for plan in plans])
    rate_bps = start.truth.uplink(context.tx_power_w).select(clients).rate(bands)
    flops = np.array(
        [start.charges.compute_flops(p) if r else 0.0 for p, r in zip(plans, answers, strict=True)]
    )
    bits = np.array(
        [
            start.charges.charged_bits(p, r.payload) if r else 0
            for p, r in zip(plans, answers, strict=True)
        ]
    )
    speeds = np.array([context.devices[client].training_flop_rate for client in clients])
    whole = StageDelays(
        broadcast_delays(start.truth, clients, downlink_bits, context.bandwidth_hz),
        compute_delay(flops, speeds),
        transfer_delay(bits, rate_bps),
    )
    _refuse_endless(context, start, whole)
    silent = np.array([answer is None for answer in answers])
    latency = _round_latency(whole, context.deadline_s, silent)
    spent = whole if context.deadline_s is None else whole.until(context.deadline_s)
    computed = np.divide(spent.compute_s, whole.compute_s, out=np.ones(len(plans)),
                         where=whole.compute_s > 0)  # fmt: skip
    sent = np.where(latency.late, np.floor(rate_bps * spent.upload_s), bits)
    charged = [
        ClientCharge(
            plan=plan,
            rate_bps=float(rate_bps[k]),
            broadcast_s=float(spent.broadcast_s[k]),
            compute_s=float(spent.compute_s[k]),
            upload_s=float(spent.upload_s[k]),
            uplink_bits=int(min(sent[k], bits[k])),
            flops=float(flops[k] * computed[k]),
            energy_j=client_energy(
                context.devices[plan.client],
                float(spent.compute_s[k]),
                float(spent.upload_s[k]),
                plan.tx_power_w,
            ),
            outcome=SILENT if silent[k] else LATE if latency.late[k] else IN_TIME,
        )
        for k, plan in enumerate(plans)
    ]
    return charged, latency


def _refuse_endless(context: RoundContext, start: RoundStart, delays: StageDelays) -> None:
    """Without a deadline, a client without signal would stop the clock for ever."""
    if context.deadline_s is not None:
        return
    number = start.charges.round_index + 1
    if not np.isfinite(delays.broadcast_s).all():
        raise InfeasibleError(
            f"In round {number} the broadcast cannot reach every client (one of them has no "
            "signal): set deadline_s, so that the round can end without it."
        )
    for plan, upload_s in zip(start.plan.clients, delays.upload_s, strict=True):
        if not np.isfinite(upload_s):
            raise InfeasibleError(
                f"In round {number} {context.names[plan.client]} has no uplink signal and would "
                "never finish: set deadline_s, so that the round can end without it."
            )


def _round_latency(
    delays: StageDelays, deadline_s: float | None, silent: NDArray[np.bool_]
) -> RoundLatency:
    """With a deadline the server waits until then for whoever fell silent.

    Without one, a silent client is noticed when its link goes down, and nobody waits.
    """
    latency = round_latency(delays, deadline_s)
    if deadline_s is not None and silent.any():
        return replace(latency, latency_s=deadline_s)
    return latency


def _record(
    context: RoundContext,
    state: ServerState,
    start: RoundStart,
    charged: Sequence[ClientCharge],
    reports: Mapping[int, ClientReport],
    latency: RoundLatency,
    evaluation: Evaluation,
) -> dict[str, Any]:
    losses = [(context.weights[r.client], r.train_loss) for r in reports.values()]
    total = sum(weight for weight, _ in losses)
    return {
        "round": state.rounds_done + 1,
        "virtual_time_s": state.clock.time_s + latency.latency_s,
        "latency_s": latency.latency_s,
        "planned_latency_s": start.plan.predicted_latency_s,
        "straggler": charged[latency.straggler].plan.client,
        "straggler_stage": latency.stage,
        "train_loss": float(sum(w * x for w, x in losses) / total) if losses else None,
        "test_loss": evaluation.loss,
        "uplink_bits": sum(charge.uplink_bits for charge in charged),
        "downlink_bits": start.charges.downlink_bits(start.plan.clients[0]),
        "energy_j": sum(charge.energy_j for charge in charged),
        "skipped": {str(client): reason for client, reason in start.plan.skipped.items()},
        "clients": [charge.record() for charge in charged],
    }
