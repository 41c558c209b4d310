"""fedlora: federated averaging of LoRA factors, with the band split equally or optimally.

FedAvg (McMahan et al., arXiv 1602.05629) on LoRA (Hu et al., arXiv 2106.09685). The latency-optimal
split of the band makes all clients finish together: `allocation/bandwidth.py`.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from airtune.allocation.bandwidth import equal_bandwidth, minmax_bandwidth
from airtune.allocation.solve import Status
from airtune.cost.latency import transfer_delay
from airtune.errors import InfeasibleError, InputError
from airtune.federated.method import FullTuner, Method, Planner, PlannerState, PlanningView
from airtune.quantities import FloatArray
from airtune.round_plan import Plan
from airtune.update.aggregate import FactorMean
from airtune.update.codec import DenseCodec

SOLVERS = {"equal": equal_bandwidth, "minmax": minmax_bandwidth}


def fedlora(bandwidth: str, uplink_dtype: str, downlink_dtype: str) -> Method:
    """The composition: divide the band, train all, send all, average."""
    return Method(
        "fedlora",
        BandwidthPlanner(bandwidth),
        FullTuner(),
        DenseCodec(uplink_dtype),
        FactorMean(),
        DenseCodec(downlink_dtype),
    )


@final
@dataclass(frozen=True)
class BandwidthPlanner(Planner):
    """Everybody trains everything; only the band is divided: `minmax` or `equal`.

    A client that cannot make the deadline even with the whole band to itself is left out and
    said so; without a deadline, a client without signal is an error.
    """

    bandwidth: str = "minmax"

    def __post_init__(self) -> None:
        if self.bandwidth not in SOLVERS:
            raise InputError("fedlora.bandwidth", self.bandwidth, f"one of {', '.join(SOLVERS)}")

    def plan(self, view: PlanningView, state: PlannerState) -> Plan:
        plans = [view.full_plan(position) for position in range(len(view.cohort))]
        fixed_s = view.broadcast_s + np.array([view.costs.compute_s(plan) for plan in plans])
        bits = np.array([view.costs.payload_bits(plan) for plan in plans], dtype=np.float64)
        skipped = out_of_reach(view, fixed_s, bits)
        kept = [i for i, plan in enumerate(plans) if plan.client not in skipped]
        if not kept:
            return Plan((), 0.0, None, Status.INFEASIBLE, "no client can be reached", skipped)
        solution = SOLVERS[self.bandwidth](
            view.uplink.select(np.array(kept)),
            bits[kept],
            fixed_s[kept],
            view.bandwidth_hz,
            [view.names[i].removeprefix("client ") for i in kept],
        )
        if solution.plan is None:
            raise InfeasibleError(f"In round {view.round_index + 1}: {solution.message}")
        shares = solution.plan.bandwidth_hz
        return Plan(
            tuple(view.full_plan(i, float(shares[k])) for k, i in enumerate(kept)),
            solution.plan.latency_s,
            solution.lower_bound,
            str(solution.status),
            solution.message,
            skipped,
        )


def out_of_reach(view: PlanningView, fixed_s: FloatArray, bits: FloatArray) -> dict[int, str]:
    """Clients that cannot finish in time with the whole band, and why."""
    whole_band = view.uplink.rate(np.full(len(bits), view.bandwidth_hz))
    alone_s = fixed_s + transfer_delay(bits, whole_band)
    reachable: NDArray[np.bool_] = view.uplink.limit_bps() > 0
    if view.deadline_s is None:
        if not reachable.all():
            name = view.names[int(np.flatnonzero(~reachable)[0])]
            raise InfeasibleError(
                f"In round {view.round_index + 1} {name} has no uplink signal and would never "
                "finish: set deadline_s to go on without it, or raise its transmit power."
            )
        return {}
    return {
        int(view.cohort[i]): f"cannot finish within {view.deadline_s:g} s at any share of the band"
        for i in np.flatnonzero(~reachable | (alone_s > view.deadline_s))
    }
