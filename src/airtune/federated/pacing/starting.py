"""The beginning of a server step: those that wait are planned for, receive the adapter, and train.

A task is trained when it begins, since all that it depends on is known then; its update counts
when it arrives. The broadcast goes to those that wait, over the whole downlink, after broadcasts
before it. On the uplink a client keeps its share of the band until its update has arrived, so that
a planner divides what is left of the band; with processor sharing nothing is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from airtune.federated.backends.backend import ClientReport, ClientTask
from airtune.federated.charging.charge import charge_round
from airtune.federated.charging.costs import ChargedRound
from airtune.federated.context import RoundContext, RoundStart, draw_cohort
from airtune.federated.pacing.own_tasks import at_own_tasks, own_dropouts
from airtune.federated.pacing.rules import Pacing
from airtune.federated.records.checkpoint import ServerState
from airtune.federated.records.in_flight import Flight, InFlight
from airtune.federated.records.record import ClientRecord
from airtune.federated.round import bound_codec, kept_by_clients, start_or_wait, tasks_of
from airtune.round_plan import ClientPlan
from airtune.seeds import generator


@final
@dataclass(frozen=True)
class Begun:
    """The state after the tasks of a step have begun.

    `start` is their plan; `downlink_bits` are those of the broadcast.
    """

    state: ServerState
    under_way: InFlight
    start: RoundStart
    downlink_bits: int


def begin_tasks(context: RoundContext, pacing: Pacing, state: ServerState) -> Begun:
    """Plan for those that wait, broadcast to them and train them."""
    under_way = state.in_flight or InFlight()
    members = tuple(_waiting(context, state, under_way).tolist())
    own = replace(
        at_own_tasks(context, under_way.begun),
        cohort=replace(context.cohort, members=members),
        kept_hz=_kept_hz(pacing, under_way),
    )
    with context.watch.stage("plan"):
        start = start_or_wait(own, state)
        silent = own_dropouts(context, under_way.begun, members)
        start = replace(start, silent=silent)
    begun = {n: under_way.begun.get(n, 0) + 1 for n in members}
    counted = replace(under_way, begun=dict(sorted({**under_way.begun, **begun}.items())))
    if not start.plan.clients:
        return Begun(state, counted, start, 0)
    tasks, reports = _trained(own, state, under_way, start)
    with context.watch.stage("plan"):
        charged = charge_round(own, start, reports)
        took_off = _took_off(own, pacing, state, counted, start, charged, tasks, reports)
    return Begun(
        _with_kept(own, state, start, tasks, reports), took_off, start, charged.downlink_bits
    )


def _waiting(context: RoundContext, state: ServerState, under_way: InFlight) -> NDArray[np.int64]:
    """Clients whose next task begins now, ascending: all that are idle, or a draw of them.

    A step ends with a task, so that there is always one. With `cohort.size` so many tasks are under
    way at any time; where none is, the draw is that of a synchronous round.
    """
    idle = np.array(
        [n for n in range(len(context.names)) if n not in under_way.flights], dtype=np.int64
    )
    size = context.cohort.size
    if size is None:
        return idle
    if len(idle) == len(context.names):
        return draw_cohort(context.cohort, len(idle), context.seed, state.rounds_done)
    draws = generator(context.seed, "cohort", state.rounds_done)
    wanted = min(size - len(under_way.flights), len(idle))
    return np.sort(draws.choice(idle, size=wanted, replace=False)).astype(np.int64)


def _kept_hz(pacing: Pacing, under_way: InFlight) -> float:
    """The part of the band that tasks under way keep."""
    if pacing.processor_sharing:
        return 0.0
    return sum(flight.plan.bandwidth_hz for flight in under_way.flights.values())


def _trained(
    own: RoundContext, state: ServerState, under_way: InFlight, start: RoundStart
) -> tuple[Sequence[ClientTask], Mapping[int, ClientReport]]:
    """The tasks, each under its client's own number, and their answers."""
    with own.watch.stage("encode"):
        tasks = [
            replace(
                task,
                round_index=under_way.begun.get(task.client, 0),
                schedule_index=state.rounds_done,
            )
            for task in tasks_of(own, state, start)
        ]
    with own.watch.stage("tune"):
        reports = {report.client: report for report in own.backend.run(tasks)} if tasks else {}
    return tasks, reports


def _took_off(
    own: RoundContext,
    pacing: Pacing,
    state: ServerState,
    under_way: InFlight,
    start: RoundStart,
    charged: ChargedRound,
    tasks: Sequence[ClientTask],
    reports: Mapping[int, ClientReport],
) -> InFlight:
    """All tasks under way, those that begin now among them."""
    now_s = state.clock.time_s
    waits_s = max(under_way.downlink_free_s - now_s, 0.0)
    flights = dict(under_way.flights)
    plans = {plan.client: plan for plan in start.plan.clients}
    for record in charged.clients:
        count = under_way.begun[record.client] - 1
        made = _flight(
            own, record, plans[record.client], (count, state.rounds_done, now_s, waits_s)
        )
        report = reports.get(record.client)
        if report is not None:
            made = replace(made, train_loss=report.train_loss)
            made = _sending(own, start, made) if pacing.processor_sharing else made
        flights[record.client] = made
    received_s = max(record.broadcast_s for record in charged.clients)
    sent = {
        task.client: (reports[task.client].payload, task.broadcast)
        for task in tasks
        if task.client in reports
    }
    return replace(
        under_way.with_sent(sent),
        flights=dict(sorted(flights.items())),
        downlink_free_s=now_s + (waits_s + received_s),
    )


def _flight(
    own: RoundContext,
    record: ClientRecord,
    plan: ClientPlan,
    when: tuple[int, int, float, float],
) -> Flight:
    """A task whose times are settled: `when` is its count, version, start and wait [s]."""
    count, version, now_s, waits_s = when
    record = replace(record, broadcast_s=waits_s + record.broadcast_s, version=version)
    lasts_s = record.broadcast_s + record.compute_s + record.upload_s
    return Flight(count, version, now_s, lasts_s, now_s + lasts_s, record, plan, None)


def _sending(own: RoundContext, start: RoundStart, flight: Flight) -> Flight:
    """The task with its upload still to be timed, on a band that it shares."""
    transfer, bits = start.costs.transfer, np.array(flight.record.uplink_bits)
    computed_s = flight.record.broadcast_s + flight.record.compute_s
    return replace(
        flight,
        lasts_s=None,
        arrives_s=None,
        ready_s=flight.started_s + computed_s + float(transfer.lead_s(bits)),
        left_bits=float(transfer.air_bits(bits)),
    )


def _with_kept(
    own: RoundContext,
    state: ServerState,
    start: RoundStart,
    tasks: Sequence[ClientTask],
    reports: Mapping[int, ClientReport],
) -> ServerState:
    """The state with what clients keep of their tasks, as if every update came to count."""
    if not tasks:
        return state
    _, codec = bound_codec(own, state, tasks, start.plan)
    carried = kept_by_clients(own, state, codec, tasks, reports, reports.keys())
    return replace(state, carried=carried)
