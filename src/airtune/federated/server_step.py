"""The server's part of a round: merge what arrived, step, evaluate, record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from airtune.federated.backends.backend import ClientReport
from airtune.federated.charging.costs import ChargedRound
from airtune.federated.checks.guard import (
    LESS,
    asked,
    check_finite,
    check_record,
    check_reported,
    check_tensors,
    check_test_loss,
    plain_state,
    where_finite,
)
from airtune.federated.context import RoundContext, RoundStart
from airtune.federated.method import Exchange, Method
from airtune.federated.records.checkpoint import ServerState
from airtune.federated.records.record import RoundRecord
from airtune.round_plan import MAIN_SERVER, ClientPlan
from airtune.tuning.evaluate import ClientEvaluation, Evaluation
from airtune.update.server import ServerContext, Update, norm


@dataclass(frozen=True)
class RoundOutcome:
    """The next state, the record, and the test evaluation of a round."""

    state: ServerState
    record: RoundRecord
    evaluation: Evaluation


@dataclass(frozen=True)
class Arrivals:
    """What the server merges in one step, and what it took.

    `received` is the adapter that training began from, `said` what clients reported beside their
    updates, `carried` what clients keep after it; `settled` are fields of the record that other
    steps than rounds have.
    """

    start: RoundStart
    charged: ChargedRound
    reports: Mapping[int, ClientReport]
    updates: Sequence[Update]
    received: Mapping[str, Tensor]
    plans: Mapping[int, ClientPlan]
    said: Mapping[int, Sequence[float]]
    settled: Mapping[str, Any] = field(default_factory=dict)
    carried: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)


def server_step(context: RoundContext, state: ServerState, arrivals: Arrivals) -> RoundOutcome:
    """Merge, evaluate and record; the next state but for what clients keep."""
    with context.watch.stage("aggregate"):
        received = received_by(arrivals.charged, context.deadline_s)
        adapter, server = _server_side(context.method, state, arrivals.updates, received)
    with context.watch.stage("evaluate"):
        evaluation = _evaluated(context, adapter, arrivals.carried)
        check_test_loss(evaluation.loss, state.rounds_done)
    record = _record(context, state, arrivals, evaluation)
    said, updates = arrivals.said, arrivals.updates
    check_reported(said, state.rounds_done)
    losses = _losses_of(evaluation)
    server_report = arrivals.reports.get(MAIN_SERVER)
    trained = {} if server_report is None else server_report.measured
    exchange = Exchange(arrivals.received, updates, adapter, arrivals.plans, said, losses, trained)
    measured = _measured(context, state, exchange)
    record = with_shares(record, updates, arrivals.start.inclusion)
    record = replace(record, measured=measured, **arrivals.settled)
    check_record(record, state.rounds_done)
    following = replace(
        state,
        adapter=adapter,
        rounds_done=state.rounds_done + 1,
        clock=state.clock.charge(record.latency_s, record.energy_j),
        planner=_planner_state(context, state, record, said),
        server=server,
    )
    return RoundOutcome(following, record, evaluation)


def _evaluated(
    context: RoundContext,
    adapter: Mapping[str, Tensor],
    carried: Mapping[int, Mapping[str, Tensor]],
) -> Evaluation:
    """Test loss after the round, with what clients keep of their own, if they do."""
    if context.evaluate_own is None:
        return context.evaluate(adapter)
    return context.evaluate_own(adapter, carried)


def _losses_of(evaluation: Evaluation) -> Mapping[int, float]:
    """Each client's loss with its own part of the adapter; nothing where clients have none."""
    return evaluation.of_clients if isinstance(evaluation, ClientEvaluation) else {}


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


def with_shares(
    record: RoundRecord, updates: Sequence[Update], inclusion: Mapping[int, float]
) -> RoundRecord:
    """The record with probabilities of the clients drawn, and shares of those who were weighed."""
    shares = {update.client: update.share for update in updates if update.share is not None}
    if not shares and not inclusion:
        return record
    clients = [
        replace(entry, share=shares.get(entry.client), inclusion=inclusion.get(entry.client))
        for entry in record.clients
    ]
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
    remembers = method.aggregator.changes_base or method.aggregator.sums_coefficients
    if not updates and not remembers:
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
    context: RoundContext, state: ServerState, arrivals: Arrivals, evaluation: Evaluation
) -> RoundRecord:
    start, charged = arrivals.start, arrivals.charged
    clients, latency = charged.clients, charged.latency
    reports = arrivals.reports
    trained = {n: reports[n].train_loss for entry in clients if (n := entry.client) in reports}
    total = sum(context.weights[client] for client in trained)
    norms = {update.client: norm(update.change) for update in arrivals.updates}
    own = _losses_of(evaluation)
    return RoundRecord(
        round=state.rounds_done + 1,
        virtual_time_s=state.clock.time_s + latency.latency_s,
        latency_s=latency.latency_s,
        planned_latency_s=start.plan.predicted_latency_s,
        planned_energy_j=start.plan.predicted_energy_j,
        straggler=clients[latency.straggler].client if clients else None,
        straggler_stage=latency.stage or None,
        train_loss=float(sum(context.weights[n] * x for n, x in trained.items()) / total)
        if trained
        else None,
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
        learning_rate=context.learning_rate and context.learning_rate(state.rounds_done),
        clients=[
            replace(
                entry,
                train_loss=trained.get(entry.client),
                update_norm=norms.get(entry.client),
                own_test_loss=own.get(entry.client),
            )
            for entry in clients
        ],
    )
