"""One round: observe channel, plan, broadcast, tune, encode, charge, decode, aggregate, evaluate.

State in, state and record out. Nothing here reads a clock of the real world, writes a file, or
knows which method runs. (`watch` is told which stage begins; nothing that it measures comes back.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor

from airtune.errors import InfeasibleError
from airtune.federated.backends.backend import ClientReport, ClientTask, carried_over, reported
from airtune.federated.charging.charge import broadcast_delays, charge_round, downlink_rates
from airtune.federated.charging.costs import ChargedRound
from airtune.federated.checks.capabilities import check_decisions
from airtune.federated.checks.feasibility import check_plan
from airtune.federated.checks.guard import (
    LESS,
    OTHER_FORMAT,
    asked,
    check_finite,
    check_record,
    check_reported,
    check_tensors,
    check_test_loss,
    party,
    plain_plan,
    plain_state,
    where_finite,
)
from airtune.federated.context import RoundContext, RoundStart, draw_cohort, draw_dropouts
from airtune.federated.idle import (
    NO_SIGNAL,
    SILENT_CELL,
    idle_plan,
    idle_seconds,
    no_client_can_send,
    without_unreachable,
)
from airtune.federated.method import Exchange, Method
from airtune.federated.records.carried import with_fresh
from airtune.federated.records.checkpoint import ServerState
from airtune.federated.records.record import RoundRecord
from airtune.federated.view import PlanningView
from airtune.round_plan import MAIN_SERVER, ClientPlan, Plan
from airtune.tuning.base_change import changes_of
from airtune.tuning.evaluate import Evaluation
from airtune.update.codec import Codec
from airtune.update.server import ServerContext, Update
from airtune.update.weighting import Occasion, weighed


@dataclass(frozen=True)
class RoundOutcome:
    """The next state, the record, and the test evaluation of a round."""

    state: ServerState
    record: RoundRecord
    evaluation: Evaluation


def planning_view(
    context: RoundContext, index: int, server: Mapping[str, Tensor] = MappingProxyType({})
) -> PlanningView:
    """What a planner sees of a round: its cohort and costs, and the channel as estimated.

    `server` is what the server remembers, on which the broadcast may depend.
    """
    cohort = draw_cohort(context.cohort, len(context.names), context.seed, index)
    observation = context.channel.observe(index, cohort)
    reached = downlink_rates(observation.estimate, cohort, context.bandwidth_hz) > 0
    costs = context.costs.in_round(index).to_cohort(
        remembered(server), [int(client) for client in cohort[reached]]
    )
    bits = costs.downlink_bits(_whole_plan(context, int(cohort[0])))
    arrival_s = broadcast_delays(
        observation.estimate, cohort, bits, context.bandwidth_hz, costs.transfer
    )
    return PlanningView(
        round_index=index,
        cohort=cohort,
        names=tuple(context.names[client] for client in cohort),
        uplink=observation.estimate.uplink(context.tx_power_w).select(cohort),
        bandwidth_hz=context.bandwidth_hz,
        tx_power_w=context.tx_power_w[cohort],
        weights=context.weights[cohort] / context.weights[cohort].sum(),
        rank=context.rank,
        broadcast_s=float(arrival_s.min()),
        downlink_bps=downlink_rates(observation.estimate, cohort, context.bandwidth_hz),
        deadline_s=context.deadline_s,
        costs=costs,
    )


def start_round(context: RoundContext, state: ServerState) -> RoundStart:
    """Draw the cohort, observe the channel and plan; what `--dry-run` shows of a round.

    The plan has no clients where none can send. Raises InfeasibleError as the planner does.
    """
    view = planning_view(context, state.rounds_done, state.server)
    if no_client_can_send(view):
        return _round_start(context, view, idle_plan(view, NO_SIGNAL, SILENT_CELL))
    planner = context.method.planner
    with asked("planner", planner, view.round_index):
        plan = plain_plan(planner.plan(view, state.planner))
        check_decisions(context.method, plan, context.rank, view.round_index + 1)
        check_plan(view, plan, context.method.split)
    return _round_start(context, view, plan)


def start_or_wait(context: RoundContext, state: ServerState) -> RoundStart:
    """`start_round`; a round for which there is no plan waits for the next one.

    A cohort or a channel that no plan can serve may be followed by one that has a plan.
    """
    try:
        return start_round(context, state)
    except InfeasibleError as error:
        view = planning_view(context, state.rounds_done, state.server)
        return _round_start(context, view, idle_plan(view, str(error).rstrip("."), str(error)))


def _round_start(context: RoundContext, view: PlanningView, plan: Plan) -> RoundStart:
    """The plan on the true channel, without clients that no broadcast or update would reach."""
    index = view.round_index
    truth = context.channel.observe(index, view.cohort).truth
    if context.deadline_s is None and plan.clients:
        plan = without_unreachable(context, view.costs, truth, plan)
    idle_s = 0.0
    if not plan.clients:
        idle_s = idle_seconds(context, view)
        reasons = {int(c): plan.skipped.get(int(c), plan.message) for c in view.cohort}
        plan = replace(plan, skipped=reasons, predicted_latency_s=idle_s)
    silent = draw_dropouts(context.cohort, view.cohort, context.seed, index)
    return RoundStart(view.cohort, silent, truth, view.costs, plan, idle_s)


def _whole_plan(context: RoundContext, client: int) -> ClientPlan:
    return ClientPlan(client, 0.0, float(context.tx_power_w[client]), context.rank)


def tasks_of(context: RoundContext, state: ServerState, start: RoundStart) -> list[ClientTask]:
    """Tasks with the encoded broadcast: clients in ascending order, then the main server, if any.

    The main server has the adapter itself, so what it is given is never charged.
    """
    downlink, plan = start.costs.model.downlink, start.plan
    if not plan.clients:
        return []
    with asked("downlink codec", downlink, state.rounds_done):
        broadcast = downlink.encode(state.adapter, plan.broadcast)
    parties = [(entry, broadcast) for entry in plan.clients if entry.client not in start.silent]
    if parties and plan.main_server is not None:
        parties.append((plan.main_server, downlink.encode(state.adapter, plan.main_server)))
    return [
        ClientTask(
            state.rounds_done,
            entry.client,
            entry,
            received,
            dict(state.carried.get(entry.client, {})),
            weight=0.0 if entry.client == MAIN_SERVER else float(context.weights[entry.client]),
            base=changes_of(state.adapter),
        )
        for entry, received in parties
    ]


def run_round(
    context: RoundContext, state: ServerState, start: RoundStart | None = None
) -> RoundOutcome:
    """Run one round to its record; `start` where the round is planned already."""
    stage = context.watch.stage
    with stage("plan"):
        start = start or start_or_wait(context, state)
    with stage("encode"):
        tasks = tasks_of(context, state, start)
    with stage("tune"):
        reports = {report.client: report for report in context.backend.run(tasks)} if tasks else {}
    with stage("plan"):
        charged = charge_round(context, start, reports)
    arrived = [task for task in tasks if task.client in charged.in_time]
    with stage("encode"):
        received, codec = _received(context, start, tasks)
        updates = _weighed(context, state, _updates(context, codec, arrived, reports), reports)
    with stage("aggregate"):
        heard = received_by(charged, context.deadline_s)
        adapter, server = _server_side(context.method, state, updates, heard)
    with stage("evaluate"):
        evaluation = context.evaluate(adapter)
        check_test_loss(evaluation.loss, state.rounds_done)
    record = _record(context, state, start, charged, reports, evaluation)
    said = reported(codec, arrived, reports, context.shapes)
    check_reported(said, state.rounds_done)
    plans = {task.client: task.plan for task in arrived}
    measured = _measured(context, state, Exchange(received, updates, adapter, plans, said))
    record = replace(with_shares(record, updates), measured=measured)
    check_record(record, state.rounds_done)
    kept = carried_over(codec, tasks, reports, charged.in_time, context.shapes)
    for client, carried in kept.items():
        check_finite(carried, f"what {party(client)} keeps", state.rounds_done, LESS)
    following = replace(
        state,
        adapter=adapter,
        rounds_done=state.rounds_done + 1,
        clock=state.clock.charge(charged.latency.latency_s, record.energy_j),
        planner=_planner_state(context, state, record, said),
        carried=with_fresh(state.carried, kept),
        server=server,
    )
    return RoundOutcome(following, record, evaluation)


def _planner_state(
    context: RoundContext,
    state: ServerState,
    record: RoundRecord,
    said: Mapping[int, Sequence[float]],
) -> dict[str, Any]:
    planner = context.method.planner
    with asked("planner", planner, state.rounds_done):
        following = planner.after_round(planner.with_reports(state.planner, said), record)
        return dict(plain_state(following))


def _received(
    context: RoundContext, start: RoundStart, tasks: Sequence[ClientTask]
) -> tuple[Mapping[str, Tensor], Codec]:
    """The broadcast as clients decode it, and the codec bound to it; nothing if all are silent."""
    method = context.method
    if not tasks:
        return {}, method.codec
    received = method.downlink.decode(tasks[0].broadcast, context.shapes, start.plan.broadcast)
    return received, method.codec.in_round(received)


def _updates(
    context: RoundContext,
    codec: Codec,
    tasks: Sequence[ClientTask],
    reports: Mapping[int, ClientReport],
) -> list[Update]:
    """What arrived in time, decoded, in the order of the tasks."""
    updates = []
    for task in tasks:
        with asked("codec", codec, task.round_index, task.client):
            payload, plan = reports[task.client].payload, task.plan
            change = codec.decode(payload, context.shapes, plan)
            check_tensors(change, context.shapes, part=context.method.split is not None)
            trained, sent = codec.trained(plan), codec.sent(payload, context.shapes, plan)
        what = f"the update of {party(task.client)}, as it arrived in its number format,"
        check_finite(change, what, task.round_index, OTHER_FORMAT)
        updates.append(Update(task.client, task.weight, change, trained, sent))
    return updates


def _weighed(
    context: RoundContext,
    state: ServerState,
    updates: Sequence[Update],
    reports: Mapping[int, ClientReport],
) -> list[Update]:
    """The updates with the shares that the method's weighting gives them, if it has one."""
    losses = {update.client: reports[update.client].train_loss for update in updates}
    occasion = Occasion(state.rounds_done, context.weights, losses)
    with asked("weighting", context.method.weighting, state.rounds_done):
        return weighed(context.method.weighting, updates, occasion)


def with_shares(record: RoundRecord, updates: Sequence[Update]) -> RoundRecord:
    """The record with the shares of those whose updates were weighed."""
    shares = {update.client: update.share for update in updates if update.share is not None}
    if not shares:
        return record
    clients = [replace(entry, share=shares.get(entry.client)) for entry in record.clients]
    return replace(record, clients=clients)


def _measured(
    context: RoundContext, state: ServerState, exchange: Exchange
) -> Mapping[str, Any] | None:
    """The method's own measurements, where it makes any; None for what is not a finite number."""
    measure = context.method.measure
    if measure is None:
        return None
    with asked("measure", measure, state.rounds_done):
        measured: Mapping[str, Any] = where_finite(measure(exchange))
        return measured


def _server_side(
    method: Method, state: ServerState, updates: Sequence[Update], received: tuple[int, ...]
) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
    """The next adapter and what the server remembers; without updates, mostly as they were."""
    index = state.rounds_done
    if not updates and not method.aggregator.changes_base:
        return dict(state.adapter), state.server
    context = ServerContext(index, received, remembered(state.server))
    with asked("aggregator", method.aggregator, index):
        merged, known = method.aggregator.aggregate_in(state.adapter, updates, context)
        check_tensors(merged, state.adapter)
    check_finite(merged, "the aggregated adapter", index, LESS)
    with asked("server optimiser", method.server, index):
        adapter, memory = method.server.step(state.adapter, merged, state.server)
    what = "the adapter after the server's step"
    check_finite({**adapter, **memory}, what, index, f"lower server.learning_rate, or {LESS}")
    return adapter, {**memory, **{MERGE + name: tensor for name, tensor in known.items()}}


MERGE = "merge/"
"""What the names of an aggregator's memory begin with, among those of the server."""


def remembered(server: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the aggregator remembers."""
    return {
        name.removeprefix(MERGE): tensor
        for name, tensor in server.items()
        if name.startswith(MERGE)
    }


def received_by(charged: ChargedRound, deadline_s: float | None) -> tuple[int, ...]:
    """Clients that have the whole broadcast: those of the round whom it reached by its deadline."""
    late = np.inf if deadline_s is None else deadline_s
    return tuple(entry.client for entry in charged.clients if entry.broadcast_s < late)


def _record(
    context: RoundContext,
    state: ServerState,
    start: RoundStart,
    charged: ChargedRound,
    reports: Mapping[int, ClientReport],
    evaluation: Evaluation,
) -> RoundRecord:
    clients, latency = charged.clients, charged.latency
    heard = [reports[entry.client] for entry in clients if entry.client in reports]
    losses = [(context.weights[report.client], report.train_loss) for report in heard]
    total = sum(weight for weight, _ in losses)
    return RoundRecord(
        round=state.rounds_done + 1,
        virtual_time_s=state.clock.time_s + latency.latency_s,
        latency_s=latency.latency_s,
        planned_latency_s=start.plan.predicted_latency_s,
        straggler=clients[latency.straggler].client if clients else None,
        straggler_stage=latency.stage or None,
        train_loss=float(sum(w * x for w, x in losses) / total) if losses else None,
        test_loss=evaluation.loss,
        uplink_bits=sum(entry.uplink_bits for entry in clients),
        downlink_bits=charged.downlink_bits,
        energy_j=sum(entry.energy_j for entry in clients),
        server_s=charged.server_s,
        server_flops=charged.server_flops,
        server_energy_j=charged.server_energy_j,
        skipped={str(client): reason for client, reason in start.plan.skipped.items()},
        plan=where_finite(start.plan.extras) or None,
        idle_s=None if clients else latency.latency_s,
        clients=list(clients),
    )
