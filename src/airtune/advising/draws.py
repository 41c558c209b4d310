"""Rounds of an experiment on its own channels, planned and charged without training.

Round t has the cohort, the batches, the channel and the silent clients of round t of a run with the
same seed, so its latency, bits and energy are those that the run charges, as far as they follow
from shapes: a planner that uses what clients report of their training plans as it does before the
first report.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from airtune.advising.opening import Opened
from airtune.errors import InfeasibleError
from airtune.federated.charging.charge import expected_round
from airtune.federated.charging.costs import ChargedRound
from airtune.federated.context import RoundContext, RoundStart
from airtune.federated.method import Planner
from airtune.federated.records.checkpoint import ServerState
from airtune.federated.records.record import ClientRecord, RoundRecord
from airtune.federated.round import start_round, waiting_round
from airtune.round_plan import ClientPlan

IN_VAIN = 5
_IN_ROUND = re.compile(r"^In round \d+: ")
WAITING = "waiting"
"""Of a round's latency, what its straggler spent on none of its own stages."""


@dataclass(frozen=True)
class MemoryUse:
    """Peak memory of a client beside what its device has for training [byte]."""

    client: int
    needed_bytes: float
    usable_bytes: float

    @property
    def share(self) -> float:
        """Of the usable memory."""
        return self.needed_bytes / self.usable_bytes


@dataclass(frozen=True)
class DrawnRound:
    """One round as it will be charged; energy is that of all clients.

    `straggler` is the client that the round waits for (None: no client takes part), `stages_s` its
    stages, which add up to the latency, `stage` the one in which it is furthest behind the median
    client. `skipped` are reasons why clients take no part. `memory` is that of the client with the
    least room.
    """

    latency_s: float
    uplink_bytes: float
    downlink_bytes: float
    energy_j: float
    straggler: int | None
    stage: str
    stages_s: Mapping[str, float]
    skipped: Mapping[int, str]
    memory: MemoryUse | None
    planned_latency_s: float


def draw_rounds(opened: Opened, count: int) -> list[DrawnRound]:
    """The first `count` rounds, fewer where a trace or a recording ends before.

    Raises InfeasibleError where the first `IN_VAIN` rounds have no plan, all for the same reason:
    that is not the channel's.
    """
    context = opened.context
    state = ServerState({}, planner=context.method.planner.initial_state())
    samples = context.channel.samples
    drawn: list[DrawnRound] = []
    reasons: list[str | None] = []
    for index in range(count if samples is None else min(count, samples)):
        state = replace(state, rounds_done=index)
        start, reason = _start(context, state)
        reasons.append(reason)
        if len(reasons) == IN_VAIN and len(set(reasons)) == 1 and reason is not None:
            raise InfeasibleError(reason)
        charged = expected_round(context, start)
        drawn.append(_drawn(context, start, charged))
        state = _after(context, state, start, charged)
    return drawn


def _start(context: RoundContext, state: ServerState) -> tuple[RoundStart, str | None]:
    """The round as a run starts it; and why there is no plan for it, if there is none."""
    try:
        return start_round(context, state), None
    except InfeasibleError as error:
        return waiting_round(context, state, error), _IN_ROUND.sub("", str(error))


def uses_reports(planner: Planner) -> bool:
    """Whether the planner plans with what clients report of their training."""
    return type(planner).with_reports is not Planner.with_reports


def _drawn(context: RoundContext, start: RoundStart, charged: ChargedRound) -> DrawnRound:
    clients, latency = charged.clients, charged.latency
    straggler = clients[latency.straggler] if clients else None
    memory = [_memory(start, plan) for plan in start.plan.clients]
    return DrawnRound(
        latency_s=latency.latency_s,
        uplink_bytes=sum(entry.uplink_bits for entry in clients) / 8,
        downlink_bytes=charged.downlink_bits / 8,
        energy_j=sum(entry.energy_j for entry in clients),
        straggler=None if straggler is None else straggler.client,
        stage=latency.stage,
        stages_s=_stages(straggler, latency.latency_s),
        skipped=start.plan.skipped,
        memory=max(memory, key=lambda use: use.share, default=None),
        planned_latency_s=start.plan.predicted_latency_s,
    )


def _memory(start: RoundStart, plan: ClientPlan) -> MemoryUse:
    costs = start.costs
    return MemoryUse(plan.client, costs.memory_bytes(plan), costs.usable_memory_bytes(plan.client))


def _stages(straggler: ClientRecord | None, latency_s: float) -> dict[str, float]:
    """The straggler's stages [s]; of a split model also the main server and what comes from it."""
    if straggler is None:
        return {WAITING: latency_s}
    stages = {
        "broadcast": straggler.broadcast_s,
        "compute": straggler.compute_s,
        "upload": straggler.upload_s,
        "download": straggler.download_s or 0.0,
        "main server": straggler.server_s or 0.0,
    }
    # What is left but for rounding: waiting for other clients, or for the deadline.
    rest = latency_s - sum(stages.values())
    stages[WAITING] = rest if rest > 1e-9 * latency_s else 0.0
    return {name: seconds for name, seconds in stages.items() if seconds > 0}


def _after(
    context: RoundContext, state: ServerState, start: RoundStart, charged: ChargedRound
) -> ServerState:
    """The state after the round; the planner sees its record, whose losses are not known."""
    clients, latency = charged.clients, charged.latency
    record = RoundRecord(
        round=state.rounds_done + 1,
        virtual_time_s=state.clock.time_s + latency.latency_s,
        latency_s=latency.latency_s,
        planned_latency_s=start.plan.predicted_latency_s,
        straggler=clients[latency.straggler].client if clients else None,
        straggler_stage=latency.stage or None,
        train_loss=None,
        test_loss=float("nan"),
        uplink_bits=sum(entry.uplink_bits for entry in clients),
        downlink_bits=charged.downlink_bits,
        energy_j=sum(entry.energy_j for entry in clients),
        skipped={str(client): reason for client, reason in start.plan.skipped.items()},
        clients=list(clients),
    )
    return replace(
        state,
        clock=state.clock.charge(latency.latency_s, record.energy_j),
        planner=context.method.planner.after_round(state.planner, record),
    )
