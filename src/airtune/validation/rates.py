"""Rates of links in a round: what the round is charged with, on the true channel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from airtune.federated.charging.charge import downlink_rates
from airtune.federated.charging.split_charge import split_rates
from airtune.federated.context import RoundContext, draw_cohort
from airtune.federated.idle import planned_links
from airtune.round_plan import ClientPlan
from airtune.validation.options import refuse_rate

Rates = Mapping[int, tuple[float, float]]
"""Client -> payload bit/s up and down."""


@dataclass(frozen=True)
class RoundLinks:
    """Rates of a round's links. `start` holds from the broadcast on; a split model's gradients go
    down at `gradient_bps` and its adapter goes up at `adapter_bps` [client]."""

    start: Rates
    gradient_bps: Mapping[int, float]
    adapter_bps: Mapping[int, float]

    @property
    def is_split(self) -> bool:
        """Whether rates change within the round."""
        return bool(self.gradient_bps)


def round_links(context: RoundContext, plans: Sequence[ClientPlan], round_index: int) -> RoundLinks:
    """Of a planned round: uplinks by each client's share of the band, downlinks by the multicast.

    The broadcast is one multicast at the worst client's rate, so that every client's link has that
    rate. Raises InputError for a rate that no link can have.
    """
    cohort = draw_cohort(context.cohort, len(context.names), context.seed, round_index)
    truth = context.channel.observe(round_index, cohort).truth
    costs = context.costs.in_round(round_index).split
    clients = [plan.client for plan in plans]
    if costs is not None:
        rates = split_rates(context, costs, truth, plans)
        up, down = rates.main_bps, rates.broadcast_bps
        split = rates.gradient_bps, rates.federated_bps
    else:
        chosen = np.array(clients, dtype=np.int64)
        bands = np.array([plan.bandwidth_hz for plan in plans])
        up = planned_links(context, truth, plans).rate(bands)
        down = float(downlink_rates(truth, chosen, context.bandwidth_hz).min())
        split = None
    links = RoundLinks(
        {client: (float(rate), float(down)) for client, rate in zip(clients, up, strict=True)},
        {} if split is None else dict(zip(clients, map(float, split[0]), strict=True)),
        {} if split is None else dict(zip(clients, map(float, split[1]), strict=True)),
    )
    _refuse_rates(links, round_index)
    return links


def _refuse_rates(links: RoundLinks, round_index: int) -> None:
    for client, rates in links.start.items():
        every = [*rates, *(m[client] for m in (links.gradient_bps, links.adapter_bps) if m)]
        for rate in every:
            refuse_rate(f"the rate of client {client} in round {round_index + 1}", rate)
