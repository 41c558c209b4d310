"""One server step without synchronous rounds: begin, wait for updates, merge, evaluate, record.

State in, state and record out, as in a round, whose parts it uses. Every task that begins is under
way until it ends: its update is merged, dropped because it is too old, or lost because its client
fell silent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from torch import Tensor

from airtune.cost.latency import StageDelays, round_latency
from airtune.federated.backends.backend import ClientReport, ClientTask, reported
from airtune.federated.charging.charge import charge_round
from airtune.federated.charging.costs import ChargedRound
from airtune.federated.checks.guard import asked
from airtune.federated.context import RoundContext
from airtune.federated.pacing.clock import Elapsed, until_step
from airtune.federated.pacing.starting import Begun, begin_tasks
from airtune.federated.records.carried import CarriedStates, with_fresh
from airtune.federated.records.checkpoint import ServerState
from airtune.federated.records.in_flight import Flight
from airtune.federated.records.record import LATE, ClientRecord
from airtune.federated.round import decoded, kept_by_clients, weighed_updates
from airtune.federated.server_step import Arrivals, RoundOutcome, server_step
from airtune.update.codec import Codec
from airtune.update.server import Update
from airtune.update.stale import stale_error
from airtune.update.weighting import Occasion, shares_of


def run_step(context: RoundContext, state: ServerState) -> RoundOutcome:
    """Run one server step to its record."""
    assert context.pacing is not None, "synchronous rounds are run_round's"
    begun = begin_tasks(context, context.pacing, state)
    if not begun.under_way.flights:
        return _idle_step(context, begun)
    flights = begun.under_way.flights
    elapsed = until_step(context, context.pacing, state.clock.time_s, flights)
    landed = _landed(context, begun, elapsed)
    settled = {
        "virtual_time_s": elapsed.time_s,
        "started": [plan.client for plan in begun.start.plan.clients],
        "in_flight": len(elapsed.flights),
    }
    if not begun.start.plan.clients:
        settled["planned_latency_s"] = 0.0
    outcome = server_step(context, begun.state, landed.arrivals(begun, elapsed, settled))
    under_way = replace(begun.under_way, flights=elapsed.flights).without(elapsed.ended.keys())
    following = replace(
        outcome.state,
        clock=replace(outcome.state.clock, time_s=elapsed.time_s),
        carried=landed.carried,
        in_flight=under_way,
    )
    return replace(outcome, state=following)


def _idle_step(context: RoundContext, begun: Begun) -> RoundOutcome:
    """Nobody is under way, and nobody can begin: the waiting of an idle round."""
    charged = charge_round(context, begun.start, {})
    settled = {"started": [], "in_flight": 0}
    arrivals = Arrivals(begun.start, charged, {}, [], {}, {}, {}, settled)
    outcome = server_step(context, begun.state, arrivals)
    return replace(outcome, state=replace(outcome.state, in_flight=begun.under_way))


@final
@dataclass(frozen=True)
class _Landed:
    """What ended in a step: records, and of those whose updates count the updates."""

    records: Sequence[ClientRecord]
    reports: Mapping[int, ClientReport]
    updates: Sequence[Update]
    received: Mapping[str, Tensor]
    said: Mapping[int, Sequence[float]]
    carried: CarriedStates

    def arrivals(self, begun: Begun, elapsed: Elapsed, settled: Mapping[str, object]) -> Arrivals:
        """For the server's part of the step."""
        stages = np.array(
            [[entry.broadcast_s, entry.compute_s, entry.upload_s] for entry in self.records]
        )
        latency = round_latency(StageDelays(*stages.T))
        latency = replace(latency, latency_s=elapsed.latency_s)
        plans = {client: flight.plan for client, flight in elapsed.ended.items()}
        return Arrivals(
            begun.start,
            ChargedRound(self.records, latency, begun.downlink_bits),
            self.reports,
            self.updates,
            self.received,
            {update.client: plans[update.client] for update in self.updates},
            self.said,
            settled,
        )


def _landed(context: RoundContext, begun: Begun, elapsed: Elapsed) -> _Landed:
    """Decode what counts, weigh it, and give clients back what does not."""
    assert context.pacing is not None
    now = begun.state.rounds_done
    ages = {
        client: now - flight.version
        for client, flight in elapsed.ended.items()
        if not flight.is_silent
    }
    dropped = {client for client, age in ages.items() if context.pacing.too_old(age)}
    updates: list[Update] = []
    received: Mapping[str, Tensor] = begun.state.adapter
    reports: dict[int, ClientReport] = {}
    said: dict[int, Sequence[float]] = {}
    errors: dict[int, float | None] = {}
    carried = with_fresh(begun.state.carried, {})
    for version in sorted({elapsed.ended[client].version for client in ages}):
        clients = [client for client in ages if elapsed.ended[client].version == version]
        group = _Group.of(context, begun, elapsed.ended, clients)
        counted = [task for task in group.tasks if task.client not in dropped]
        with context.watch.stage("encode"):
            fresh = decoded(context, group.codec, counted, group.reports)
        updates += fresh
        reports |= group.reports
        said |= reported(group.codec, counted, group.reports, context.shapes)
        received = group.received if version == now else received
        if version < now:
            errors |= {
                update.client: stale_error(group.received, begun.state.adapter, update.change)
                for update in fresh
            }
        late = [task for task in group.tasks if task.client in dropped]
        carried = kept_by_clients(
            context, replace(begun.state, carried=carried), group.codec, late, group.reports, ()
        )
    updates.sort(key=lambda update: update.client)
    losses = {update.client: reports[update.client].train_loss for update in updates}
    occasion = Occasion(now, context.weights, losses, staleness=ages)
    weighed = weighed_updates(context, updates, occasion)
    shares = dict(zip([update.client for update in weighed], shares_of(weighed), strict=True))
    records = [
        replace(
            flight.record,
            outcome=LATE if client in dropped else flight.record.outcome,
            staleness=ages.get(client),
            share=shares.get(client),
            stale_error=errors.get(client),
        )
        for client, flight in elapsed.ended.items()
    ]
    return _Landed(records, reports, weighed, received, said, carried)


@final
@dataclass(frozen=True)
class _Group:
    """The tasks of a step that began with the same broadcast, and their answers."""

    tasks: Sequence[ClientTask]
    reports: Mapping[int, ClientReport]
    received: Mapping[str, Tensor]
    codec: Codec

    @classmethod
    def of(
        cls, context: RoundContext, begun: Begun, ended: Mapping[int, Flight], clients: list[int]
    ) -> "_Group":
        """As the server has them: payloads as they were sent."""
        method, carried, under_way = context.method, begun.state.carried, begun.under_way
        tasks = [
            ClientTask(
                ended[client].task,
                client,
                ended[client].plan,
                under_way.broadcast(client),
                weight=float(context.weights[client]),
            )
            for client in clients
        ]
        reports = {
            client: ClientReport(
                client,
                under_way.payload(client),
                ended[client].train_loss or 0.0,
                0,
                dict(carried.get(client, {})),
            )
            for client in clients
        }
        first = tasks[0]
        with asked("downlink codec", method.downlink, first.round_index, first.client):
            received = method.downlink.decode(first.broadcast, context.shapes, first.plan)
        return cls(tasks, reports, received, method.codec.in_round(received))
