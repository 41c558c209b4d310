"""What the three papers' methods are compared with, end to end on the built-in model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from airtune import Experiment
from airtune.errors import InputError
from airtune.experiment.reading import read_config
from airtune.experiment.world import build_world
from airtune.federated.checks.contracts import check_codec
from airtune.federated.records.checkpoint import read_checkpoint
from airtune.federated.round import start_round
from airtune.methods.ranks import ranks_by_speed
from airtune.round_plan import ClientPlan
from airtune.tuning.adapter import factor_pairs
from airtune.tuning.partial import first_ranks_mask
from airtune.update.codec import shapes_of
from airtune.update.means import ZeroPaddedMean, product_norm
from airtune.update.partial import FactorCodec, FirstRanksCodec
from airtune.update.server import Update
from tests.cli.conftest import quick
from tests.cli.test_run import fingerprint
from tests.update.adapters import MATRICES, product, random_factors


def settings(*changes: str) -> list[str]:
    return quick("adapter.rank=4", *changes)[1::2]


@pytest.mark.parametrize(
    "method",
    [
        ("method=hetlora", "training.keep_optimizer=true"),
        pytest.param(("method=ffa_lora",), marks=pytest.mark.slow),
        pytest.param(("method=centralised",), marks=pytest.mark.slow),
        ("method=fedlora", "fedlora.bandwidth=random"),
    ],
)
def test_planned_is_charged_and_resumed_to_the_same_bytes(
    method: tuple[str, ...], tmp_path: Path
) -> None:
    run = Experiment.load(None, settings(*method)).run(tmp_path / "whole")
    for record in run.records:
        assert record["latency_s"] == pytest.approx(record["planned_latency_s"], rel=1e-9)
    Experiment.load(None, settings("rounds=1", *method)).run(tmp_path / "short")
    Experiment.resume(tmp_path / "short", more_rounds=1)
    assert fingerprint(tmp_path / "short") == fingerprint(tmp_path / "whole")
    assert run.summary["final_test_loss"] < run.summary["start_test_loss"]


def adapters(run: Any) -> list[dict[str, torch.Tensor]]:
    folder = run.folder.checkpoints
    return [dict(read_checkpoint(path).state.adapter) for path in sorted(folder.iterdir())]


@pytest.mark.slow
def test_ffa_never_touches_a_and_sends_half(tmp_path: Path) -> None:
    run = Experiment.load(None, settings("method=ffa_lora")).run(tmp_path / "run")
    world = build_world(run.config)
    drawn = world.unmeasured_start().adapter
    final = run.state.adapter
    for pair in factor_pairs(drawn):
        assert torch.equal(final[pair.lora_a], drawn[pair.lora_a])
        assert not torch.equal(final[pair.lora_b], drawn[pair.lora_b])
    numbers = sum(x.numel() for name, x in drawn.items() if ".lora_B." in name)
    assert run.records[0]["clients"][0]["uplink_bits"] - 32 * numbers < 1000
    assert run.records[0]["downlink_bits"] - 32 * numbers < 1000


def test_hetlora_ranks_follow_the_devices() -> None:
    world = build_world(read_config(None, settings("method=hetlora", "hetlora.rank_min=1")))
    start = start_round(world.context, world.unmeasured_start())
    ranks = [plan.rank for plan in start.plan.clients]
    speeds = [device.training_flop_rate for device in world.devices]
    assert sorted(ranks) == [ranks[i] for i in np.argsort(speeds)]
    assert min(ranks) == 1
    assert max(ranks) == 4
    bits = [start.costs.payload_bits(plan) for plan in start.plan.clients]
    assert [bit > min(bits) for bit in bits] == [rank > 1 for rank in ranks]
    flops = start.costs.compute_flops
    weak = start.plan.clients[int(np.argmin(ranks))]
    whole = ClientPlan(weak.client, 0.0, 0.1, 4)
    assert flops(weak) < flops(whole)


def test_a_weak_client_leaves_the_later_ranks_alone() -> None:
    world = build_world(read_config(None, settings("method=hetlora")))
    tuner, side = world.context.method.tuner, world.side
    from airtune.tuning.tuner import TuningContext

    start = {
        name: torch.randn_like(x) * 0.02 for name, x in world.unmeasured_start().adapter.items()
    }
    context = TuningContext(side.model, side.batches(0, 0), side.training, 0, 0, {})
    result = tuner.tune(start, ClientPlan(0, 0.0, 0.1, 2), context)  # type: ignore[union-attr]
    for pair in factor_pairs(start):
        assert torch.equal(result.state[pair.lora_a][2:], start[pair.lora_a][2:])
        assert torch.equal(result.state[pair.lora_b][:, 2:], start[pair.lora_b][:, 2:])
        assert not torch.equal(result.state[pair.lora_b][:, :2], start[pair.lora_b][:, :2])


def test_zero_padded_mean_against_a_plain_twin() -> None:
    state = random_factors(0)
    shapes, updates, trained = shapes_of(state), [], []
    for client, rank in enumerate((1, 2, 4)):
        kept = first_ranks_mask(shapes, rank)
        change = {n: x * kept[n] for n, x in random_factors(client + 1).items()}
        updates.append(Update(client, 1.0 + client, change, kept))
        trained.append({n: (state[n] + change[n]) * kept[n] for n in state})
    norms = [sum(float(product(t, m).square().sum()) for m in MATRICES) ** 0.5 for t in trained]
    assert [product_norm(t) for t in trained] == pytest.approx(norms, rel=1e-5)
    merged = ZeroPaddedMean().aggregate(state, updates)
    for name in state:
        expected = sum(w / sum(norms) * t[name] for w, t in zip(norms, trained, strict=True))
        assert torch.allclose(merged[name], expected, atol=1e-5)


def test_before_anybody_has_a_product_all_count_alike() -> None:
    state = {n: torch.zeros_like(x) for n, x in random_factors(0).items()}
    change = {n: x * (".lora_A." in n) for n, x in random_factors(1).items()}
    merged = ZeroPaddedMean().aggregate(state, [Update(0, 1.0, change), Update(1, 1.0, state)])
    for name in state:
        assert torch.allclose(merged[name], 0.5 * change[name])


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_first_ranks_codec(dtype: str, rank: int) -> None:
    change, plan = random_factors(3), ClientPlan(0, 0.0, 0.1, rank)
    decoded = check_codec(FirstRanksCodec(dtype), change, plan, idempotent=dtype != "int8")
    for pair in factor_pairs(change):
        assert not decoded[pair.lora_a][rank:].any()
        if dtype == "fp32":
            assert torch.equal(decoded[pair.lora_b][:, :rank], change[pair.lora_b][:, :rank])


def test_factor_codec_fills_in_what_both_ends_know() -> None:
    change = random_factors(3)
    plan = ClientPlan(0, 0.0, 0.1, 4)
    decoded = check_codec(FactorCodec(".lora_B."), change, plan)
    check_codec(FactorCodec(".lora_B.", "int8"), change, plan, idempotent=False)
    known = {name: x for name, x in change.items() if ".lora_A." in name}
    codec = FactorCodec(".lora_B.", "fp32", known)
    whole = codec.decode(codec.encode(change, plan), shapes_of(change), plan)
    for pair in factor_pairs(change):
        assert not decoded[pair.lora_a].any()
        assert torch.equal(whole[pair.lora_a], change[pair.lora_a])
        assert torch.equal(whole[pair.lora_b], change[pair.lora_b])


def test_ranks_by_speed_at_the_ends_and_between() -> None:
    assert ranks_by_speed([1e9, 1e11, 1e10], 2, 32) == (2, 32, 8)
    assert ranks_by_speed([5e9, 5e9], 2, 16) == (16, 16)
    with pytest.raises(InputError, match=r"hetlora\.rank_min is 9"):
        ranks_by_speed([1.0], 9, 8, "hetlora.rank_min")


def test_random_bandwidth_fills_the_band_and_is_never_better() -> None:
    random = Experiment.load(None, settings("fedlora.bandwidth=random")).preview()
    best = Experiment.load(None, settings()).preview()
    used = sum(entry["bandwidth_hz"] for entry in random["clients"])
    assert used == pytest.approx(read_config(None, settings()).cell.bandwidth_hz)
    assert random["latency_s"] > best["latency_s"]
    assert random["lower_bound_s"] == pytest.approx(best["lower_bound_s"])


def test_centralised_is_one_client_with_all_the_steps(tmp_path: Path) -> None:
    world = build_world(read_config(None, settings("method=centralised", "rounds=1")))
    assert world.config.clients.count == 1
    assert world.config.training.local_steps == 3
    assert build_world(world.config).config == world.config
    assert world.shards.rows(0) == world.shards.train_rows > 0
