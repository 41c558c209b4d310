"""Protocol heads and round trips in every method without a split: planned, charged, re-derived."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airtune import Experiment
from airtune.federated.round import start_round
from tests.cli.conftest import quick

HEADS = ("cell.overhead_share=0.25", "cell.round_trip_s=0.05")
METHODS = {
    "minmax": ("method=fedlora",),
    "random": ("method=fedlora", "fedlora.bandwidth=random"),
    "jcpba": ("method=jcpba",),
    "jcpba-equal": ("method=jcpba", "jcpba.solver=equal", "charge_as=gpt2"),
    "tsfa": ("method=soft_tsfa", "adapter.rank=4", "cell.bandwidth_hz=2e5"),
    "tsfa-global": ("method=soft_tsfa", "soft_tsfa.selection=global", "cell.bandwidth_hz=2e5"),
    "hetlora": ("method=hetlora",),
    "ffa_lora": ("method=ffa_lora",),
    "centralised": ("method=centralised",),
}


def first_round(folder: Path, *changes: str) -> tuple[Any, Any]:
    """The record of round 1 and what was settled before it."""
    run = Experiment.load(None, quick("rounds=1", *HEADS, *changes)[1::2]).run(folder / "run")
    world = run.world
    return run.records[0], start_round(world.context, world.unmeasured_start())


def assert_by_hand(record: Any, start: Any, band_hz: float) -> None:
    """Every client's seconds and joules, from the bits in the record and the true channel."""
    scheduled = [entry["client"] for entry in record["clients"]]
    down_bps = start.truth.downlink().rate(np.full(len(start.truth), band_hz))[scheduled]
    for entry in record["clients"]:
        # Payloads and rates are recorded without heads and trips.
        bits = start.costs.payload_bits(start.plan.clients[scheduled.index(entry["client"])])
        assert entry["uplink_bits"] == bits
        airtime_s = 1.25 * bits / entry["rate_bps"]
        assert entry["upload_s"] == pytest.approx(0.05 + airtime_s, rel=1e-9)
        broadcast_s = 0.05 + 1.25 * record["downlink_bits"] / down_bps.min()
        assert entry["broadcast_s"] == pytest.approx(broadcast_s, rel=1e-9)
        power_w = start.costs.model.devices[entry["client"]].computing_power_w
        joules = power_w * entry["compute_s"] + entry["tx_power_w"] / 0.35 * airtime_s
        assert entry["energy_j"] == pytest.approx(joules, rel=1e-9)


SLOW = ("random", "hetlora", "jcpba-equal", "tsfa-global", "ffa_lora", "centralised")
"""Planned and charged in the test that crosses all parts as well, without heads."""


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(changes, id=name, marks=pytest.mark.slow if name in SLOW else ())
        for name, changes in METHODS.items()
    ],
)
def test_planned_is_charged(changes: tuple[str, ...], tmp_path: Path) -> None:
    record, start = first_round(tmp_path, *changes)
    assert record["latency_s"] == pytest.approx(record["planned_latency_s"], rel=1e-9)
    assert_by_hand(record, start, 2e5 if "cell.bandwidth_hz=2e5" in changes else 3e6)
    bound_s = start.plan.lower_bound_s
    assert bound_s is None or 0 < bound_s <= record["latency_s"] * (1 + 1e-9)
    planned = record.plan
    assert planned is None or planned["objective_lower_bound"] <= planned["objective"]


def test_a_wrong_estimate_is_charged_on_the_true_channel(tmp_path: Path) -> None:
    record, start = first_round(tmp_path, "method=jcpba", "cell.csi_error_db=6")
    assert record["latency_s"] != pytest.approx(record["planned_latency_s"], rel=1e-3)
    assert_by_hand(record, start, 3e6)
