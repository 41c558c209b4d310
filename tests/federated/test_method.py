"""The parts of a method and the view that a planner gets."""

import numpy as np
import pytest

from airtune.cost.latency import PAYLOAD_ALONE
from airtune.federated.bandwidth_planner import BandwidthPlanner
from airtune.federated.view import PlanningView
from airtune.round_plan import ClientPlan, Plan
from airtune.wireless.rate import ShannonLinks


class Costs:
    """Computing takes as many seconds as the client's number; every update is 1 Mbit."""

    transfer = PAYLOAD_ALONE

    def compute_s(self, plan: ClientPlan) -> float:
        return float(plan.client)

    def before_upload_s(self, plan: ClientPlan) -> float:
        return float(plan.client)

    def air_bits(self, plan: ClientPlan) -> float:
        return 1e6

    def payload_bits(self, plan: ClientPlan) -> int:
        return 1_000_000

    def downlink_bits(self, plan: ClientPlan) -> int:
        return 1_000_000


def view(cn0_hz: list[float], deadline_s: float | None = None) -> PlanningView:
    count = len(cn0_hz)
    return PlanningView(
        round_index=4,
        cohort=np.arange(count) + 2,
        names=tuple(f"client {c + 2} (fake)" for c in range(count)),
        uplink=ShannonLinks(np.array(cn0_hz)),
        bandwidth_hz=1e6,
        tx_power_w=np.full(count, 0.2),
        weights=np.full(count, 1 / count),
        rank=8,
        broadcast_s=0.5,
        deadline_s=deadline_s,
        costs=Costs(),  # type: ignore[arg-type]
        downlink_bps=np.full(count, 2e6),
    )


def finish_s(scene: PlanningView, plan: Plan) -> np.ndarray:
    """When each scheduled client ends, by the formulas written out."""
    assert isinstance(scene.uplink, ShannonLinks)
    cn0 = dict(zip(scene.cohort.tolist(), scene.uplink.cn0_hz, strict=True))
    return np.array(
        [
            0.5 + p.client + 1e6 / (p.bandwidth_hz * np.log2(1 + cn0[p.client] / p.bandwidth_hz))
            for p in plan.clients
        ]
    )


def test_minmax_ends_together_and_equal_shares_do_not() -> None:
    scene = view([1e7, 2e7, 4e7])
    best = BandwidthPlanner("minmax").plan(scene, {})
    ends = finish_s(scene, best)
    assert ends == pytest.approx(np.full(3, best.predicted_latency_s), rel=1e-9)
    assert sum(p.bandwidth_hz for p in best.clients) == pytest.approx(1e6)
    assert best.status == "optimal"
    equal = BandwidthPlanner("equal").plan(scene, {})
    assert [p.bandwidth_hz for p in equal.clients] == pytest.approx([1e6 / 3] * 3)
    assert finish_s(scene, equal).max() == pytest.approx(equal.predicted_latency_s)
    assert equal.lower_bound_s == pytest.approx(best.predicted_latency_s, rel=1e-6)


def test_hopeless_clients_are_left_out() -> None:
    scene = view([1e7, 0.0, 4e7], deadline_s=60.0)
    plan = BandwidthPlanner().plan(scene, {})
    assert [p.client for p in plan.clients] == [2, 4]
    assert plan.skipped == {3: "cannot finish within 60 s at any share of the band"}
    plan = BandwidthPlanner().plan(view([1e7, 0.0, 4e7]), {})
    assert [p.client for p in plan.clients] == [2, 4]
    assert plan.skipped == {3: "has no signal in this round"}


def test_a_deadline_below_the_computing_time_leaves_a_client_out() -> None:
    plan = BandwidthPlanner().plan(view([1e7, 2e7, 4e7], deadline_s=4.2), {})
    assert list(plan.skipped) == [4]
