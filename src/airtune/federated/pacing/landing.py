"""What ends in a server step: updates decoded and weighed, or given back to their clients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np
from torch import Tensor

from airtune.cost.latency import StageDelays, round_latency
from airtune.federated.backends.backend import ClientReport, ClientTask, reported
from airtune.federated.charging.costs import ChargedRound
from airtune.federated.checks.guard import asked
from airtune.federated.context import RoundContext
from airtune.federated.pacing.starting import Begun
from airtune.federated.records.carried import CarriedStates, with_fresh
from airtune.federated.records.in_flight import Flight, InFlight
from airtune.federated.records.record import LATE, ClientRecord
from airtune.federated.round import decoded, kept_by_clients, weighed_updates
from airtune.federated.server_step import Arrivals
from airtune.update.codec import Codec
from airtune.update.server import Update
from airtune.update.stale import stale_error
from airtune.update.weighting import Occasion, shares_of


@final
@dataclass
class Landed:
    """What ended in a step: of those whose updates count the updates, and what clients keep."""

    context: RoundContext
    begun: Begun
    ended: Mapping[int, Flight]
    received: Mapping[str, Tensor]
    carried: CarriedStates
    updates: list[Update] = field(default_factory=list)
    reports: dict[int, ClientReport] = field(default_factory=dict)
    said: dict[int, Sequence[float]] = field(default_factory=dict)
    errors: dict[int, float | None] = field(default_factory=dict)

    @classmethod
    def of(cls, context: RoundContext, begun: Begun, ended: Mapping[int, Flight]) -> "Landed":
        """Everything decoded, weighed, or given back."""
        state = begun.state
        landed = cls(context, begun, ended, state.adapter, with_fresh(state.carried, {}))
        versions = {flight.version for flight in ended.values() if not flight.is_silent}
        for version in sorted(versions):
            landed.take(_Group.of(context, begun, ended, version))
        landed.weigh()
        return landed

    @property
    def ages(self) -> dict[int, int]:
        """Server steps since the broadcast of each that answered."""
        now = self.begun.state.rounds_done
        return {n: now - one.version for n, one in self.ended.items() if not one.is_silent}

    @property
    def dropped(self) -> set[int]:
        """Whose updates are too old."""
        assert self.context.pacing is not None
        return {n for n, age in self.ages.items() if self.context.pacing.too_old(age)}

    def take(self, group: "_Group") -> None:
        """Decode what counts of those that began together, and give back what does not."""
        context, state, dropped = self.context, self.begun.state, self.dropped
        counted = [task for task in group.tasks if task.client not in dropped]
        with context.watch.stage("encode"):
            fresh = decoded(context, group.codec, counted, group.reports)
        self.updates += fresh
        self.reports |= group.reports
        self.said |= reported(group.codec, counted, group.reports, context.shapes)
        if group.version == state.rounds_done:
            self.received = group.received
        else:
            self.errors |= {
                update.client: stale_error(group.received, state.adapter, update.change)
                for update in fresh
            }
        self.give_back(group, [task for task in group.tasks if task.client in dropped])

    def give_back(self, group: "_Group", late: Sequence[ClientTask]) -> None:
        """What clients keep of updates that do not count: also what they sent."""
        kept = {task.client: self.carried.get(task.client, {}) for task in late}
        reports = {n: replace(group.reports[n], carried=carried) for n, carried in kept.items()}
        before = replace(self.begun.state, carried=self.carried)
        self.carried = kept_by_clients(self.context, before, group.codec, late, reports, ())

    def weigh(self) -> None:
        """Clients in ascending order, each update with its share."""
        self.updates.sort(key=lambda update: update.client)
        losses = {update.client: self.reports[update.client].train_loss for update in self.updates}
        now, weights = self.begun.state.rounds_done, self.context.weights
        occasion = Occasion(now, weights, losses, staleness=self.ages)
        self.updates = weighed_updates(self.context, self.updates, occasion)

    def records(self) -> list[ClientRecord]:
        """One for each task that ended."""
        ages, dropped = self.ages, self.dropped
        shares = {
            update.client: share
            for update, share in zip(self.updates, shares_of(self.updates), strict=True)
        }
        return [
            replace(
                flight.record,
                outcome=LATE if client in dropped else flight.record.outcome,
                staleness=ages.get(client),
                share=shares.get(client),
                stale_error=self.errors.get(client),
            )
            for client, flight in self.ended.items()
        ]

    def arrivals(self, latency_s: float, settled: Mapping[str, object]) -> Arrivals:
        """For the server's part of the step."""
        records = self.records()
        stages = np.array([[one.broadcast_s, one.compute_s, one.upload_s] for one in records])
        latency = replace(round_latency(StageDelays(*stages.T)), latency_s=latency_s)
        return Arrivals(
            self.begun.start,
            ChargedRound(records, latency, self.begun.downlink_bits),
            self.reports,
            self.updates,
            self.received,
            {update.client: self.ended[update.client].plan for update in self.updates},
            self.said,
            settled,
        )


@final
@dataclass(frozen=True)
class _Group:
    """The tasks of a step that began with the same broadcast, and their answers."""

    version: int
    tasks: Sequence[ClientTask]
    reports: Mapping[int, ClientReport]
    received: Mapping[str, Tensor]
    codec: Codec

    @classmethod
    def of(
        cls, context: RoundContext, begun: Begun, ended: Mapping[int, Flight], version: int
    ) -> "_Group":
        """As the server has them: payloads as they were sent."""
        method, under_way = context.method, begun.under_way
        flights = {
            client: flight
            for client, flight in ended.items()
            if flight.version == version and not flight.is_silent
        }
        tasks = [_task(context, under_way, client, one) for client, one in flights.items()]
        reports = {
            client: ClientReport(client, under_way.payload(client), flight.train_loss or 0.0, 0)
            for client, flight in flights.items()
        }
        first = tasks[0]
        with asked("downlink codec", method.downlink, first.round_index, first.client):
            received = method.downlink.decode(first.broadcast, context.shapes, first.plan)
        return cls(version, tasks, reports, received, method.codec.in_round(received))


def _task(context: RoundContext, under_way: InFlight, client: int, flight: Flight) -> ClientTask:
    weight = float(context.weights[client])
    broadcast = under_way.broadcast(client)
    return ClientTask(flight.task, client, flight.plan, broadcast, weight=weight)
