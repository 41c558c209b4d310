"""fedlora: federated averaging of LoRA factors, with the band split equally or optimally.

FedAvg (McMahan et al., arXiv 1602.05629) on LoRA (Hu et al., arXiv 2106.09685). The latency-optimal
split of the band makes all clients finish together: `allocation/bandwidth.py`.
"""

from dataclasses import dataclass
from typing import final

import numpy as np

from airtune.allocation.bandwidth import equal_bandwidth, minmax_bandwidth
from airtune.errors import InfeasibleError, InputError
from airtune.federated.method import Method, Planner, PlannerState, PlanningView
from airtune.methods.reach import Reach
from airtune.round_plan import Plan
from airtune.tuning.tuner import FullTuner
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
        reach = Reach.of(view)
        if not reach.kept:
            return reach.nobody()
        plans = [view.full_plan(position) for position in reach.kept]
        fixed_s = view.broadcast_s + np.array([view.costs.compute_s(plan) for plan in plans])
        bits = np.array([view.costs.payload_bits(plan) for plan in plans], dtype=np.float64)
        solution = SOLVERS[self.bandwidth](
            reach.links, bits, fixed_s, view.bandwidth_hz, reach.names
        )
        if solution.plan is None:
            raise InfeasibleError(f"In round {view.round_index + 1}: {solution.message}")
        shares = solution.plan.bandwidth_hz
        return Plan(
            tuple(view.full_plan(i, float(shares[k])) for k, i in enumerate(reach.kept)),
            solution.plan.latency_s,
            solution.lower_bound,
            str(solution.status),
            solution.message,
            reach.skipped,
        )
