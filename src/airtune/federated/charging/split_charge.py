"""What a split round took: the cohort's stages on the true channel, with the bytes really sent."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from airtune.cost.device import client_energy
from airtune.cost.latency import (
    RoundLatency,
    TransferModel,
    furthest_behind,
    missed,
    straggler_of,
)
from airtune.cost.timeline import SERVER, STAGES, WAIT, Timeline
from airtune.federated.backends.backend import ClientReport
from airtune.federated.charging.costs import ChargedRound
from airtune.federated.charging.split_costs import RoundRates, SplitRoundCosts
from airtune.federated.context import RoundContext, RoundStart
from airtune.federated.records.record import IN_TIME, LATE, SILENT, ClientRecord, decisions
from airtune.round_plan import ClientPlan, SubchannelShare
from airtune.tuning.split.model import StepBits
from airtune.wireless.channel import ChannelState

MAIN_UPLINK, MAIN_DOWNLINK = ("activations", "hidden_gradient"), ("hidden", "gradient")
COMPUTING = ("forward", "head", "backward")


@dataclass(frozen=True)
class _Round:
    """The round as it was: whole stages, those spent by the deadline, and the bits behind them.

    `sending` has, of the seconds spent, those of every segment without a message's round trip; it
    is read for segments that carry a message alone. `begun` [segment, client]: what takes no time,
    as on a link that is not charged, was done as well where it begins by the deadline.
    """

    whole: Timeline
    spent: Timeline
    sending: Timeline
    transfer: TransferModel
    messages: Mapping[int, Sequence[StepBits]]
    adapter_bits: Mapping[int, int]
    rates: RoundRates
    begun: NDArray[np.bool_]

    def heard(self, position: int, client: int) -> int:
        """Bits that a client received of messages that are sent once for all."""
        return sum(
            self._down(k, position, client)[0]
            for k, stage in enumerate(self.whole.stages)
            if stage == "gradient" and client in self.messages and self.begun[k, position]
        )

    def _down(self, segment: int, position: int, client: int) -> tuple[int, int]:
        """Bits of a step's gradients that came down: of the message for all clients, which comes
        first, and of the client's own."""
        step = self.messages[client][self.whole.step[segment]]
        spent_s = float(self.spent.seconds[segment, position])
        if spent_s == self.whole.seconds[segment, position]:
            return step.shared, step.gradient
        shared_bps, own_bps = self.rates.broadcast_bps, float(self.rates.gradient_bps[position])
        shared_s = float(self.transfer.delay_s(step.shared, shared_bps))
        return (
            self._received(step.shared, min(spent_s, shared_s), shared_bps),
            self._received(step.gradient, spent_s - shared_s, own_bps),
        )

    def _received(self, bits: int, spent_s: float, rate_bps: float) -> int:
        """Of a message of so many bits, those received in so many seconds of it."""
        whole_s = float(self.transfer.delay_s(bits, rate_bps))
        if spent_s >= whole_s or bits == 0:
            return bits
        sending_s = float(self.transfer.sending_s(spent_s))
        return int(bits * sending_s / float(self.transfer.sending_s(whole_s)))

    def sent(self, position: int, client: int) -> Counter[str]:
        """Bits sent by stage; of a message that the deadline cut, the part that was."""
        bits: Counter[str] = Counter()
        for k, (stage, step) in enumerate(zip(self.whole.stages, self.whole.step, strict=True)):
            spent, whole = self.spent.seconds[k, position], self.whole.seconds[k, position]
            if not self.begun[k, position]:
                continue
            if stage == "gradient" and client in self.messages:
                bits[stage] += sum(self._down(k, position, client))
                continue
            if stage == "adapter":
                full = self.adapter_bits.get(client, 0)
            elif stage in (*MAIN_UPLINK, *MAIN_DOWNLINK) and client in self.messages:
                full = int(getattr(self.messages[client][step], stage))
            else:
                continue
            if spent == whole:
                bits[stage] += full
                continue
            sending = self.sending.seconds[k, position]
            bits[stage] += int(full * sending / self.transfer.sending_s(whole))
        return bits


def charge_split_round(
    context: RoundContext, start: RoundStart, reports: Mapping[int, ClientReport]
) -> ChargedRound:
    """Charge the clients of a split round.

    A silent client received the broadcast and did nothing more; the others trained without it,
    on the subchannels that they were planned with. At a deadline all clients stop.
    """
    costs = start.costs.split
    assert costs is not None, "a plan with a main server belongs to a method that splits"
    plans = start.plan.clients
    silent = np.array([plan.client not in reports for plan in plans])
    done = _as_it_was(context, start, costs, reports, silent)
    latency = _latency(done.whole, context.deadline_s, silent)
    clients = []
    for k, plan in enumerate(plans):
        outcome = SILENT if silent[k] else LATE if latency.late[k] else IN_TIME
        clients.append(_charge(context, costs, plan, k, done, outcome))
    down = sum(entry.cut_downlink_bits or 0 for entry in clients)
    heard = [done.heard(k, plan.client) for k, plan in enumerate(plans)]
    down -= sum(heard) - max(heard)
    down += start.costs.downlink_bits(start.plan.broadcast)
    busy_s = float(done.spent.of(SERVER).max())
    flops, energy_j = busy_s * costs.system.server_flop_rate, busy_s * costs.system.server_power_w
    return ChargedRound(clients, latency, down, busy_s, flops, energy_j)


def split_rates(
    context: RoundContext, costs: SplitRoundCosts, truth: ChannelState, plans: Sequence[ClientPlan]
) -> RoundRates:
    """What the planned subchannels, powers and shares are worth on this channel."""
    clients = np.array([plan.client for plan in plans], dtype=np.int64)
    return costs.rates(
        plans,
        truth.uplink(context.tx_power_w, clients),
        context.tx_power_w[clients],
        context.bandwidth_hz,
        truth.downlink(clients).rate(np.full(len(plans), context.bandwidth_hz)),
    )


def _as_it_was(
    context: RoundContext,
    start: RoundStart,
    costs: SplitRoundCosts,
    reports: Mapping[int, ClientReport],
    silent: NDArray[np.bool_],
) -> _Round:
    plans, parts = start.plan.clients, start.costs
    rates = split_rates(context, costs, start.truth, plans)
    active = [plan for plan in plans if plan.client in reports]
    predicted = parts.model.as_other_model
    known: Sequence[Sequence[StepBits]] = (
        costs.messages_of(active) if predicted else [reports[p.client].cut for p in active]
    )
    messages = {p.client: steps for p, steps in zip(active, known, strict=True)}
    bits = {p.client: parts.charged_bits(p, reports[p.client].payload) for p in active}
    broadcast_bits = parts.downlink_bits(start.plan.broadcast)
    whole = _with_silent(costs, active, rates, messages, bits, broadcast_bits, silent)
    spent = whole if context.deadline_s is None else whole.until(context.deadline_s)
    sending = replace(spent, seconds=costs.transfer.sending_s(spent.seconds))
    limit_s = np.inf if context.deadline_s is None else context.deadline_s
    in_time = ~missed(whole.finish_s, limit_s)
    begun = in_time | (np.cumsum(whole.seconds, axis=0) - whole.seconds < limit_s)
    return _Round(whole, spent, sending, costs.transfer, messages, bits, rates, begun)


def _with_silent(
    costs: SplitRoundCosts,
    active: Sequence[ClientPlan],
    rates: RoundRates,
    messages: Mapping[int, Sequence[StepBits]],
    adapter_bits: Mapping[int, int],
    broadcast_bits: int,
    silent: NDArray[np.bool_],
) -> Timeline:
    """The active clients' stages beside silent ones, which only receive the broadcast."""
    broadcast_s = costs.broadcast_s(broadcast_bits, rates)
    if not active:
        return Timeline(("broadcast",), (-1,), np.full((1, len(silent)), broadcast_s))
    part = costs.timeline(
        active,
        rates.select(~silent),
        [messages[plan.client] for plan in active],
        [adapter_bits[plan.client] for plan in active],
        broadcast_bits,
    )
    seconds = np.zeros((len(part.stages), len(silent)))
    seconds[:, ~silent] = part.seconds
    seconds[0, silent] = broadcast_s
    return Timeline(part.stages, part.step, seconds)


def _latency(whole: Timeline, deadline_s: float | None, silent: NDArray[np.bool_]) -> RoundLatency:
    """The end of the round, and whose own stages, without waiting, took longest."""
    limit_s = np.inf if deadline_s is None else deadline_s
    late = missed(whole.finish_s, limit_s)
    own = whole.own_stages()
    straggler = straggler_of(own)
    waits = deadline_s is not None and (late.any() or silent.any())
    latency_s = limit_s if waits else float(whole.finish_s.max())
    stage = STAGES[furthest_behind(own, straggler)]
    return RoundLatency(float(latency_s), straggler, stage, late)


def _charge(
    context: RoundContext,
    costs: SplitRoundCosts,
    plan: ClientPlan,
    position: int,
    done: _Round,
    outcome: str,
) -> ClientRecord:
    device = context.devices[plan.client]
    stages = {name: float(done.spent.of(name)[position]) for name in (*STAGES, SERVER, WAIT)}
    sent = done.sent(position, plan.client)
    main_s = sum(stages[name] for name in MAIN_UPLINK)
    sending_s = {n: float(done.sending.of(n)[position]) for n in (*MAIN_UPLINK, "adapter")}
    compute_s = sum(stages[name] for name in COMPUTING)
    federated_w = power_of(plan.federated, costs.system.federated.width_hz(context.bandwidth_hz))
    cut_up = sum(sent[name] for name in MAIN_UPLINK)
    return ClientRecord(
        **decisions(plan),
        outcome=outcome,
        rate_bps=float(done.rates.main_bps[position]),
        broadcast_s=stages["broadcast"],
        compute_s=compute_s,
        upload_s=main_s + stages["adapter"],
        uplink_bits=cut_up + sent["adapter"],
        flops=compute_s * device.training_flop_rate,
        energy_j=client_energy(
            device, compute_s, sum(sending_s[name] for name in MAIN_UPLINK), plan.tx_power_w
        )
        + client_energy(device, 0.0, sending_s["adapter"], federated_w),
        download_s=sum(stages[name] for name in MAIN_DOWNLINK),
        server_s=stages[SERVER],
        wait_s=stages[WAIT],
        stages_s={name: stages[name] for name in STAGES},
        cut_uplink_bits=cut_up,
        cut_downlink_bits=sum(sent[name] for name in MAIN_DOWNLINK),
        adapter_bits=sent["adapter"],
        federated_rate_bps=(
            None if plan.federated is None else float(done.rates.federated_bps[position])
        ),
    )


def power_of(share: SubchannelShare | None, width_hz: float) -> float:
    """The power that a client radiates on its subchannels of one link [W]."""
    return 0.0 if share is None else width_hz * sum(share.psd_w_per_hz)
