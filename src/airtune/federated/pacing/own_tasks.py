"""A round whose clients are each at a task of their own: channel and batches by their own counts.

Every draw of a client is keyed by (seed, purpose, its own task count, client), so that neither the
speed of other clients nor the order of arrivals changes what it draws: its k-th task has the
batches, the channel and the chance to fall silent of the k-th round of a synchronous run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from airtune.federated.context import RoundContext, draw_dropouts
from airtune.federated.facts import ClientFacts
from airtune.federated.idle import planned_links
from airtune.round_plan import ClientPlan
from airtune.update.cut import CutShape
from airtune.wireless.attenuation import Clients
from airtune.wireless.channel import Channel, Observation
from airtune.wireless.rate import Links
from airtune.workload.step import Step


def at_own_tasks(context: RoundContext, begun: Mapping[int, int]) -> RoundContext:
    """The context in which each client is at its own task; `begun` counts those before."""
    return replace(
        context,
        channel=_own_channel(context, begun),
        costs=replace(context.costs, facts=_OwnFacts(context.costs.facts, begun)),
    )


def own_dropouts(
    context: RoundContext, begun: Mapping[int, int], clients: Sequence[int]
) -> frozenset[int]:
    """Clients that fall silent in the task that they begin now."""
    drawn = [
        draw_dropouts(context.cohort, np.array([client]), context.seed, begun.get(client, 0))
        for client in clients
    ]
    return frozenset().union(*drawn)


def own_links(context: RoundContext, task: int, plan: ClientPlan) -> Links:
    """The true uplink of one client at one of its tasks, at the power that it is planned."""
    alone = np.array([plan.client], dtype=np.int64)
    return planned_links(context, context.channel.observe(task, alone).truth, [plan])


def _own_channel(context: RoundContext, begun: Mapping[int, int]) -> Channel:
    """Each client's links are those of the round whose number is its own task count."""

    def observe(round_index: int, clients: Clients) -> Observation:
        assert clients is not None, "a round asks for its cohort"
        numbers = np.asarray(clients, dtype=np.int64)
        counts = np.array([begun.get(int(client), 0) for client in numbers])
        seen = context.channel.observe(int(counts[0]), numbers)
        for count in np.unique(counts[counts != counts[0]]):
            other, those = context.channel.observe(int(count), numbers), numbers[counts == count]
            seen = Observation(
                seen.truth.with_links_of(other.truth, those),
                seen.estimate.with_links_of(other.estimate, those),
            )
        return seen

    return Channel(len(context.names), observe, samples=context.channel.samples)


@final
@dataclass(frozen=True)
class _OwnFacts(ClientFacts):
    """Each client's batches are those of its own task; `round_index` decides nothing."""

    facts: ClientFacts
    begun: Mapping[int, int]

    def rows(self, client: int) -> int:
        return self.facts.rows(client)

    def longest_step(self, client: int) -> Step:
        return self.facts.longest_step(client)

    def step_shapes(self, client: int, round_index: int) -> Sequence[Step]:
        return self.facts.step_shapes(client, self.begun.get(client, 0))

    def cut_shapes(self, client: int, round_index: int) -> Sequence[CutShape]:
        raise NotImplementedError("a split model has synchronous rounds only")
