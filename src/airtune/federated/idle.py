"""Clients that a round leaves out because their link carries nothing, and rounds without clients.

A round in which no client can send is charged its waiting time, recorded as skipped, and the next
one follows. It lasts `deadline_s` where there is one; else as long as the planner waits for clients
in outage; else until the channel's next sample, `cell.round_interval_s` later, so that several such
rounds add up to the time until a client can send again. Planners first select the clients that can
meet the deadline (`Reach`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from airtune.allocation.solve import Status
from airtune.cost.latency import RoundLatency
from airtune.errors import InputError
from airtune.federated.charging.costs import ChargedRound, RoundCosts
from airtune.federated.charging.split_charge import split_rates
from airtune.federated.checks.guard import asked
from airtune.federated.context import RoundContext, RoundStart
from airtune.federated.view import PlanningView
from airtune.quantities import FloatArray
from airtune.round_plan import ClientPlan, Plan
from airtune.wireless.channel import ChannelState
from airtune.wireless.rate import Links

NO_SIGNAL = "has no signal in this round"
SILENT_CELL = "no client has a signal"
NO_UPLINK = "has no uplink at its share of the band in this round"
LOOKED_AT = 10_000
_LEAST_BPS = 1e-9
"""Below this rate a single bit takes decades."""


def mute(uplink_bps: FloatArray, downlink_bps: FloatArray) -> NDArray[np.bool_]:
    """Clients whose link carries nothing in one of the directions."""
    return ~((uplink_bps > _LEAST_BPS) & (downlink_bps > _LEAST_BPS))


def no_client_can_send(view: PlanningView) -> bool:
    """Whether no client of the cohort has a link, by the planner's estimate."""
    return bool(mute(view.uplink.limit_bps(), view.downlink_bps).all())


def first_views(view: Callable[[int], PlanningView], count: int) -> list[PlanningView]:
    """The first `count` rounds in which any client can send; fewer where a replayed channel ends.

    A trace may begin with a long idle stretch, of which `LOOKED_AT` rounds are searched. Raises
    InputError where there is no such round.
    """
    views: list[PlanningView] = []
    for index in range(LOOKED_AT):
        try:
            seen = view(index)
        except InputError:
            if index == 0:
                raise
            break
        if not no_client_can_send(seen):
            views.append(seen)
        if len(views) == count:
            break
    if not views:
        raise InputError(
            "cell", "without a client in reach in the first rounds", "able to carry an update"
        )
    return views


def idle_plan(view: PlanningView, reason: str, message: str) -> Plan:
    """The plan of a round that waits: every client of the cohort is left out for one reason."""
    skipped = {int(client): reason for client in view.cohort}
    return Plan((), 0.0, None, Status.INFEASIBLE, message, skipped)


def without_unreachable(
    context: RoundContext, costs: RoundCosts, truth: ChannelState, plan: Plan
) -> Plan:
    """The plan without clients that would never finish, on the true channel and with no deadline.

    Such a client gets no broadcast or cannot send its update, so it is not waited for, and nothing
    is charged for it. Its share of the band stays unused.
    """
    skipped = _unreachable(context, costs, truth, plan)
    if not skipped:
        return plan
    clients = tuple(entry for entry in plan.clients if entry.client not in skipped)
    return replace(
        plan,
        clients=clients,
        skipped=dict(sorted({**plan.skipped, **skipped}.items())),
        main_server=plan.main_server if clients else None,
    )


def planned_links(context: RoundContext, truth: ChannelState, plans: Sequence[ClientPlan]) -> Links:
    """The true uplinks of clients with a share of one band, at the powers that they are planned.

    In the order of the plans.
    """
    powers = context.tx_power_w.copy()
    for entry in plans:
        powers[entry.client] = entry.tx_power_w
    clients = np.array([entry.client for entry in plans], dtype=np.int64)
    return truth.uplink(powers, clients)


def _unreachable(
    context: RoundContext, costs: RoundCosts, truth: ChannelState, plan: Plan
) -> Mapping[int, str]:
    """Client -> reason."""
    plans = plan.clients
    clients = np.array([entry.client for entry in plans], dtype=np.int64)
    down_bps = truth.downlink(clients).rate(np.full(len(plans), context.bandwidth_hz))
    if plan.main_server is not None and costs.split is not None:
        rates = split_rates(context, costs.split, truth, plans)
        sends = np.array([entry.federated is not None for entry in plans])
        up_bps = np.where(sends, np.minimum(rates.main_bps, rates.federated_bps), rates.main_bps)
        down_bps = np.minimum(down_bps, rates.gradient_bps)
    else:
        bands = np.array([entry.bandwidth_hz for entry in plans])
        up_bps = planned_links(context, truth, plans).rate(bands)
    limit_bps = truth.uplink(context.tx_power_w, clients).limit_bps()
    return {
        int(clients[k]): NO_SIGNAL if mute(limit_bps, down_bps)[k] else NO_UPLINK
        for k in np.flatnonzero(mute(up_bps, down_bps))
    }


def idle_seconds(context: RoundContext, view: PlanningView) -> float:
    """How long a round without clients lasts [s]; see the module."""
    if context.deadline_s is not None:
        return context.deadline_s
    planner = context.method.planner
    with asked("planner", planner, view.round_index):
        own_s = planner.idle_s(view)
        if own_s is not None and not 0 < own_s < np.inf:
            raise ValueError(f"it answered {own_s} s for a round without clients")
    return context.sample_interval_s if own_s is None else own_s


def charge_idle_round(start: RoundStart) -> ChargedRound:
    """Waiting time, and nothing else."""
    latency = RoundLatency(start.idle_s, 0, "", np.zeros(0, dtype=np.bool_))
    server = None if start.costs.split is None else 0.0
    return ChargedRound((), latency, 0, server, server, server)


@dataclass(frozen=True)
class Reach:
    """Positions in the cohort that are planned for, and the others with the reason.

    `links` and `names` are those of the kept clients, `names` for solvers' messages;
    `broadcast_s` is the delay of the broadcast to them alone.
    """

    kept: list[int]
    links: Links
    names: list[str]
    skipped: dict[int, str]
    broadcast_s: float

    @classmethod
    def of(cls, view: PlanningView, plans: Sequence[ClientPlan] = ()) -> "Reach":
        """Leave out clients that cannot make the deadline with the whole band to themselves.

        `plans` are the loads to judge by, one for each client of the cohort; by default all of it.
        Without a deadline, those without signal are left out.
        """
        skipped = _out_of_reach(view, plans)
        kept = [i for i, client in enumerate(view.cohort) if int(client) not in skipped]
        names = [view.names[i].removeprefix("client ") for i in kept]
        links = view.uplink.select(np.array(kept, dtype=np.intp))
        return cls(kept, links, names, skipped, view.broadcast_to(kept))

    def empty_plan(self) -> Plan:
        """The plan of a round in which no client can be reached."""
        return Plan((), 0.0, None, Status.INFEASIBLE, "no client can be reached", self.skipped)


def _out_of_reach(view: PlanningView, plans: Sequence[ClientPlan]) -> dict[int, str]:
    silent = mute(view.uplink.limit_bps(), view.downlink_bps)
    if view.deadline_s is None:
        return {int(view.cohort[i]): NO_SIGNAL for i in np.flatnonzero(silent)}
    plans = plans or [view.full_plan(position) for position in range(len(view.cohort))]
    fixed_s = view.broadcast_s + np.array([view.costs.compute_s(plan) for plan in plans])
    bits = np.array([view.costs.payload_bits(plan) for plan in plans], dtype=np.float64)
    whole_band = view.uplink.rate(np.full(len(plans), view.bandwidth_hz))
    alone_s = fixed_s + view.costs.transfer.delay_s(bits, whole_band)
    return {
        int(view.cohort[i]): f"cannot finish within {view.deadline_s:g} s at any share of the band"
        for i in np.flatnonzero(silent | (alone_s > view.deadline_s))
    }
