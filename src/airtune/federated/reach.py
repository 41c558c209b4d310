"""Who can take part in a round at all, which every planner asks first."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from airtune.allocation.solve import Status
from airtune.cost.latency import transfer_delay
from airtune.federated.idle import NO_SIGNAL, mute
from airtune.federated.view import PlanningView
from airtune.round_plan import ClientPlan, Plan
from airtune.wireless.rate import Links


@dataclass(frozen=True)
class Reach:
    """Positions in the cohort that are planned for, and the others with the reason.

    `links` and `names` are those of the kept clients, `names` as solvers' messages want them;
    `broadcast_s` is the delay of the broadcast to them alone.
    """

    kept: list[int]
    links: Links
    names: list[str]
    skipped: dict[int, str]
    broadcast_s: float

    @classmethod
    def of(cls, view: PlanningView, plans: Sequence[ClientPlan] = ()) -> "Reach":
        """Leave out whoever cannot make the deadline with the whole band to itself.

        `plans` are the loads to judge by, one for each client of the cohort; by default all of it.
        Without a deadline, those without signal are left out.
        """
        skipped = _out_of_reach(view, plans)
        kept = [i for i, client in enumerate(view.cohort) if int(client) not in skipped]
        names = [view.names[i].removeprefix("client ") for i in kept]
        links = view.uplink.select(np.array(kept, dtype=np.intp))
        return cls(kept, links, names, skipped, view.broadcast_to(kept))

    def nobody(self) -> Plan:
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
    alone_s = fixed_s + transfer_delay(bits, whole_band)
    return {
        int(view.cohort[i]): f"cannot finish within {view.deadline_s:g} s at any share of the band"
        for i in np.flatnonzero(silent | (alone_s > view.deadline_s))
    }
