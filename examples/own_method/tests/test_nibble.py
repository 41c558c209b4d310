"""The method by itself and in a run of airtune."""

from pathlib import Path

import numpy as np
import pytest
import torch
from airtune_nibble.codec import NibbleCodec
from airtune_nibble.planner import EqualAirtime

import airtune
from airtune.errors import InputError
from airtune.round_plan import ClientPlan
from airtune.update.codec import shapes_of

PLAN = ClientPlan(client=0, bandwidth_hz=1e6, tx_power_w=0.2, rank=2)
SMALL = {
    "rounds": 2,
    "seed": 3,
    "engine": "sequential",
    "threads": 1,
    "clients": {"count": 3},
    "adapter": {"rank": 2},
    "data": {"train_limit": 60, "test_limit": 6, "score_rows": 0},
    "training": {"local_steps": 1, "batch_size": 2},
    "cell": {"path_loss": "log_distance"},
}


def changes() -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    plain = {"b": torch.randn(3, 5, generator=draw), "a": torch.randn(7, generator=draw)}
    return [
        plain,
        {name: 1e-9 * value for name, value in plain.items()},
        {name: 1e9 * value for name, value in plain.items()},
        {name: torch.zeros_like(value) for name, value in plain.items()},
        {"one": torch.tensor([-3.0])},
    ]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("change", changes())
def test_codec(change: dict[str, torch.Tensor], bits: int) -> None:
    codec = NibbleCodec(bits)
    payload = codec.encode(change, PLAN)
    assert 8 * len(payload) == codec.payload_bits(shapes_of(change), PLAN)
    decoded = codec.decode(payload, shapes_of(change), PLAN)
    assert shapes_of(decoded) == shapes_of(change)
    assert codec.encode(decoded, PLAN) == payload
    for name, value in change.items():
        # The least power of two that fits is below 2 max / levels; half of it is the error.
        bound = float(value.abs().max()) / (2 ** (bits - 1) - 1)
        assert float((decoded[name] - value).abs().max()) <= bound


def test_a_damaged_payload_is_refused() -> None:
    change = changes()[0]
    with pytest.raises(InputError, match="payload is"):
        NibbleCodec().decode(b"\0" * 5, shapes_of(change), PLAN)


def test_a_run(tmp_path: Path) -> None:
    runs = {
        bits: airtune.Experiment(method="nibble", nibble={"bits": bits}, **SMALL).run(
            tmp_path / str(bits)
        )
        for bits in (4, 8)
    }
    dense = airtune.Experiment(method="fedlora", **SMALL).run(tmp_path / "dense")
    for bits, run in runs.items():
        for record in run.records:
            assert record.latency_s == pytest.approx(record.planned_latency_s)
            assert sum(entry.bandwidth_hz for entry in record.clients) == pytest.approx(3e6)
        ratio = run.records[0].uplink_bits / dense.records[0].uplink_bits
        assert ratio == pytest.approx(bits / 32, rel=0.02)
    # The first round starts from the same adapter and batches; what is averaged differs.
    assert runs[4].records[0].train_loss == dense.records[0].train_loss
    assert runs[4].records[0].test_loss != dense.records[0].test_loss


def test_shares_make_airtimes_equal_at_a_fixed_efficiency() -> None:
    from types import SimpleNamespace

    from airtune.wireless.rate import FixedEfficiencyLinks

    links = FixedEfficiencyLinks(np.array([1.0, 2.0, 4.0]))
    view = SimpleNamespace(
        cohort=np.arange(3),
        bandwidth_hz=7e6,
        uplink=links,
        deadline_s=None,
        downlink_bps=np.ones(3),
        names=("client 0", "client 1", "client 2"),
        broadcast_to=lambda kept: 0.0,
        costs=SimpleNamespace(payload_bits=lambda plan: 4e6),
        full_plan=lambda k, band=0.0: ClientPlan(k, band, 0.2, 2),
        latency_s=lambda clients: 0.0,
    )
    plan = EqualAirtime().plan(view, {})  # type: ignore[arg-type]
    bands = np.array([entry.bandwidth_hz for entry in plan.clients])
    np.testing.assert_allclose(bands, [4e6, 2e6, 1e6])
    np.testing.assert_allclose(4e6 / links.rate(bands), 1.0)


def test_a_wrong_option_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"nibble\.bits is 5"):
        airtune.Experiment(method="nibble", nibble={"bits": 5})
