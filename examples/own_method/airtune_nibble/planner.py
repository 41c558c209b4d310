"""The planner: a division of the band by which all uploads take about as long."""

from dataclasses import dataclass
from typing import final

import numpy as np

from airtune.federated.idle import Reach
from airtune.federated.method import Planner, PlannerState
from airtune.federated.view import PlanningView
from airtune.round_plan import Plan


@final
@dataclass(frozen=True)
class EqualAirtime(Planner):
    """`b_n = B s_n / sum_m s_m` with `s_n = payload_n / eta_n`.

    eta_n is the spectral efficiency of client n [bit/s/Hz] at equal shares of the band B [Hz]. At a
    fixed efficiency every upload would take `sum_n s_n / B` seconds; eta falls with the bandwidth,
    so airtimes are only about equal. Left out: computing delays, which `fedlora` considers.
    """

    def plan(self, view: PlanningView, state: PlannerState) -> Plan:
        # Clients without a signal are left out, with the reason.
        reach = Reach.of(view)
        if not reach.kept:
            return reach.empty_plan()
        count = len(reach.kept)
        loads = [view.full_plan(position) for position in reach.kept]
        bits = np.array([view.costs.payload_bits(load) for load in loads], dtype=np.float64)
        equal_hz = np.full(count, view.bandwidth_hz / count)
        airtime_hz_s = bits / (reach.links.rate(equal_hz) / equal_hz)
        shares_hz = view.bandwidth_hz * airtime_hz_s / airtime_hz_s.sum()
        clients = tuple(
            view.full_plan(position, float(share))
            for position, share in zip(reach.kept, shares_hz, strict=True)
        )
        return Plan(
            clients,
            # airtune checks this prediction: it is what the clock is charged with on this channel.
            predicted_latency_s=view.latency_s(clients),
            lower_bound_s=None,  # a heuristic: nothing is proven about it
            status="feasible",
            message="the band is divided for equal airtime",
            skipped=reach.skipped,
        )
