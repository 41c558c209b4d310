"""What a round took: seconds, bits and joules of every client, as it really was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from airtune.cost.device import client_energy
from airtune.cost.latency import (
    RoundLatency,
    StageDelays,
    TransferModel,
    compute_delay,
    round_latency,
)
from airtune.federated.backends.backend import ClientReport
from airtune.federated.charging.costs import ChargedRound, RoundCosts
from airtune.federated.charging.split_charge import charge_split_round
from airtune.federated.context import RoundContext, RoundStart
from airtune.federated.idle import charge_idle_round, planned_links, without_unreachable
from airtune.federated.records.record import IN_TIME, LATE, SILENT, ClientRecord, decisions
from airtune.quantities import FloatArray
from airtune.round_plan import ClientPlan
from airtune.tuning.split.model import StepBits
from airtune.wireless.channel import ChannelState


def downlink_rates(
    state: ChannelState, clients: NDArray[np.int64], bandwidth_hz: float
) -> FloatArray:
    """Rates [client] at which each could receive over the whole downlink band, bit/s."""
    return state.downlink(clients).rate(np.full(len(clients), bandwidth_hz))


def broadcast_delays(
    state: ChannelState,
    clients: NDArray[np.int64],
    bits: int,
    bandwidth_hz: float,
    transfer: TransferModel,
) -> FloatArray:
    """One multicast over the whole downlink band, at the worst rate among those it reaches [s].

    A client without signal never receives it (inf) and does not hold up the others.
    """
    rates = downlink_rates(state, clients, bandwidth_hz)
    reached = rates > 0
    slowest = rates[reached].min() if reached.any() else 0.0
    return transfer.delay_s(np.full(len(clients), float(bits)), np.where(reached, slowest, 0.0))


def charge_round(
    context: RoundContext, start: RoundStart, reports: Mapping[int, ClientReport]
) -> ChargedRound:
    """Charge every scheduled client with the TRUE channel and the bytes really encoded.

    At a deadline work stops: charged are the seconds spent and the bits sent by then. A silent
    client has received the broadcast and does nothing more. A round without clients is
    charged its waiting time.
    """
    if not start.plan.clients:
        return charge_idle_round(start)
    if start.plan.main_server is not None:
        return charge_split_round(context, start, reports)
    return _charge_clients(context, start, reports)


def expected_charges(context: RoundContext, start: RoundStart) -> Sequence[ClientRecord]:
    """What the round's clients will be charged if all answer as predicted, and with no deadline.

    Clients that would then never finish are left out.
    """
    plan = without_unreachable(context, start.costs, start.truth, start.plan)
    start = replace(start, plan=plan, silent=frozenset())
    return expected_round(replace(context, deadline_s=None), start).clients


def expected_round(context: RoundContext, start: RoundStart) -> ChargedRound:
    """What the round will be charged if its clients answer as predicted, but for silent ones."""
    split = start.costs.split
    answering = [plan for plan in start.plan.clients if plan.client not in start.silent]
    payloads = _predicted_payloads(start.costs, answering)
    messages: Sequence[Sequence[StepBits]] = (
        [()] * len(answering) if split is None else split.messages_of(answering)
    )
    reports = {
        plan.client: ClientReport(
            plan.client,
            payload,
            train_loss=0.0,
            label_tokens=0,
            cut=tuple(steps),
        )
        for plan, payload, steps in zip(answering, payloads, messages, strict=True)
    }
    return charge_round(context, start, reports)


def _predicted_payloads(costs: RoundCosts, plans: Sequence[ClientPlan]) -> list[bytes]:
    """Payloads of the predicted lengths: parts of one buffer, since only their lengths are read.

    Empty where another model is charged, whose payloads are never encoded.
    """
    if costs.model.as_other_model:
        return [b""] * len(plans)
    lengths = [costs.payload_bits(plan) // 8 for plan in plans]
    buffer = memoryview(bytes(max(lengths, default=0)))
    return [cast(bytes, buffer[:length]) for length in lengths]


def _charge_clients(
    context: RoundContext, start: RoundStart, reports: Mapping[int, ClientReport]
) -> ChargedRound:
    """Every client on its own: broadcast, computing, upload."""
    plans = start.plan.clients
    downlink_bits = start.costs.downlink_bits(start.plan.broadcast)
    done = _as_done(context, start, [reports.get(plan.client) for plan in plans], downlink_bits)
    silent = np.array([plan.client not in reports for plan in plans])
    latency = _round_latency(done.whole, context.deadline_s, silent)
    charged = []
    for k, plan in enumerate(plans):
        outcome = SILENT if silent[k] else LATE if latency.late[k] else IN_TIME
        charged.append(_record(context, start.costs, plan, k, done, outcome))
    return ChargedRound(charged, latency, downlink_bits)


@dataclass(frozen=True)
class _Done:
    """A round's work [client]: whole stages, those spent by the deadline, and what they carry.

    `sending_s` is the part of the upload spent by the deadline in which bits were sent.
    """

    whole: StageDelays
    spent: StageDelays
    sending_s: FloatArray
    flops: FloatArray
    bits: FloatArray
    rate_bps: FloatArray


def _as_done(
    context: RoundContext,
    start: RoundStart,
    answers: Sequence[ClientReport | None],
    downlink_bits: int,
) -> _Done:
    """Work and bits of the clients that answered, on the true channel."""
    plans, costs = start.plan.clients, start.costs
    clients = np.array([plan.client for plan in plans], dtype=np.int64)
    bands = np.array([plan.bandwidth_hz for plan in plans])
    rate_bps = planned_links(context, start.truth, plans).rate(bands)
    pairs = list(zip(plans, answers, strict=True))
    flops = np.array([costs.compute_flops(plan) if answer else 0.0 for plan, answer in pairs])
    bits = np.array(
        [costs.charged_bits(plan, answer.payload) if answer else 0 for plan, answer in pairs]
    )
    speeds = np.array(
        [context.devices[plan.client].training_flop_rate * plan.speed for plan in plans]
    )
    whole = StageDelays(
        broadcast_delays(start.truth, clients, downlink_bits, context.bandwidth_hz, costs.transfer),
        compute_delay(flops, speeds),
        costs.transfer.delay_s(bits, rate_bps),
    )
    spent = whole if context.deadline_s is None else whole.until(context.deadline_s)
    return _Done(whole, spent, costs.transfer.sending_s(spent.upload_s), flops, bits, rate_bps)


def _record(
    context: RoundContext,
    costs: RoundCosts,
    plan: ClientPlan,
    k: int,
    done: _Done,
    outcome: str,
) -> ClientRecord:
    """One client's entry; at a deadline, the share of the work done and the bits sent by then."""
    spent, whole_s = done.spent, float(done.whole.compute_s[k])
    compute_s, sending_s = float(spent.compute_s[k]), float(done.sending_s[k])
    computed = compute_s / whole_s if whole_s > 0 else 1.0
    bits = sent = done.bits[k]
    if outcome == LATE:
        sent = np.floor(costs.transfer.sent_bits(done.rate_bps[k] * sending_s))
    return ClientRecord(
        **decisions(plan),
        outcome=outcome,
        rate_bps=float(done.rate_bps[k]),
        broadcast_s=float(spent.broadcast_s[k]),
        compute_s=compute_s,
        upload_s=float(spent.upload_s[k]),
        uplink_bits=int(min(sent, bits)),
        flops=float(done.flops[k] * computed),
        energy_j=client_energy(
            context.devices[plan.client], compute_s, sending_s, plan.tx_power_w, plan.speed
        ),
    )


def _round_latency(
    delays: StageDelays, deadline_s: float | None, silent: NDArray[np.bool_]
) -> RoundLatency:
    """With a deadline the server waits until then for silent clients.

    Without one, a silent client is noticed when its link goes down, and the server does not wait.
    """
    latency = round_latency(delays, deadline_s)
    if deadline_s is not None and silent.any():
        return replace(latency, latency_s=deadline_s)
    return latency
