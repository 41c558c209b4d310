"""What a planner is given of a round: the cohort, the channel as estimated, the costs."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from airtune.federated.charging.charge import broadcast_delays, downlink_rates
from airtune.federated.charging.costs import RoundCosts
from airtune.federated.checks.guard import asked
from airtune.federated.context import RoundContext, draw_cohort
from airtune.federated.idle import no_client_can_send
from airtune.federated.sampling import Sampler
from airtune.federated.server_step import remembered
from airtune.federated.view import PlanningView
from airtune.round_plan import ClientPlan


def planning_view(
    context: RoundContext,
    index: int,
    server: Mapping[str, Tensor] = MappingProxyType({}),
    planner: Mapping[str, Any] | None = None,
) -> PlanningView:
    """What a planner sees of a round: its cohort and costs, and the channel as estimated.

    `server` is what the server remembers, on which the broadcast may depend; `planner` the
    planner's state (None: its first), on which its own draw of the cohort may.
    """
    costs = context.costs.in_round(index)
    sampler, clients = context.method.planner, len(context.names)
    if not isinstance(sampler, Sampler):
        cohort = draw_cohort(context.cohort, clients, context.seed, index)
        return _view(context, costs, cohort, server)
    view = _view(context, costs, np.arange(clients, dtype=np.int64), server)
    if no_client_can_send(view):
        return view
    with asked("sampler", sampler, index):
        known = context.method.planner.initial_state() if planner is None else planner
        draw = sampler.draw(view, known)
        if not set(draw.cohort.tolist()) <= set(view.cohort.tolist()):
            raise ValueError("it drew a client that there is not")
    return replace(_view(context, costs, draw.cohort, server), draw=draw)


def _view(
    context: RoundContext,
    costs: RoundCosts,
    cohort: NDArray[np.int64],
    server: Mapping[str, Tensor],
) -> PlanningView:
    observation = context.channel.observe(costs.round_index, cohort)
    downlink_bps = downlink_rates(observation.estimate, cohort, context.bandwidth_hz)
    reached = [int(client) for client in cohort[downlink_bps > 0]]
    costs = costs.to_cohort(remembered(server), reached)
    first = int(cohort[0])
    plan = ClientPlan(first, 0.0, float(context.tx_power_w[first]), context.rank)
    arrival_s = broadcast_delays(
        observation.estimate,
        cohort,
        costs.downlink_bits(plan),
        context.bandwidth_hz,
        costs.transfer,
    )
    return PlanningView(
        round_index=costs.round_index,
        cohort=cohort,
        names=tuple(context.names[client] for client in cohort),
        uplink=observation.estimate.uplink(context.tx_power_w, cohort),
        bandwidth_hz=context.free_hz,
        tx_power_w=context.tx_power_w[cohort],
        weights=context.weights[cohort] / context.weights[cohort].sum(),
        rank=context.rank,
        broadcast_s=float(arrival_s.min()),
        downlink_bps=downlink_bps,
        deadline_s=context.deadline_s,
        costs=costs,
    )
