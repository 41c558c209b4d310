"""fedsl end to end on the built-in model: thinned messages, pruned halves, rare averaging."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from airtune import Experiment
from airtune.errors import InfeasibleError, InputError
from airtune.experiment.reading import read_config
from airtune.experiment.world import World, build_world
from airtune.federated.round import run_round, start_round
from airtune.methods.plan import from_cell, plan
from airtune.update.means import merge_halves
from airtune.update.server import Update
from airtune.workload.step import Step
from airtune.workload.transformer import workload
from tests.cli.conftest import quick
from tests.cli.test_run import fingerprint
from tests.methods.elsewhere import refuses_deployment
from tests.planning.cell_cases import FEDSL, changed

KEPT = ("training.local_steps=2", "training.keep_optimizer=true")
THIN = ("fedsl.cut_dropout=0.4", "fedsl.activation_dtype=int8")


def settings(*changes: str) -> list[str]:
    return quick("method=fedsl", "data.score_rows=0", *changes)[1::2]


def run_of(folder: Path, *changes: str) -> Any:
    return Experiment.load(None, settings(*changes)).run(folder)


def world_of(*changes: str) -> World:
    return build_world(read_config(None, settings(*changes)))


def test_with_nothing_left_out_it_is_the_averaging_split_method(tmp_path: Path) -> None:
    """p = 0, I = 1, no pruning, whole gradients: the run of the method that averages halves."""
    ours = run_of(tmp_path / "ours", *KEPT, "fedsl.split_point=2", "fedsl.gradient_dtype=fp32")
    theirs = Experiment.load(
        None, quick("method=sflllm", "data.score_rows=0", *KEPT, "sflllm.split_point=2")[1::2]
    ).run(tmp_path / "theirs")
    for one, other in zip(ours.records, theirs.records, strict=True):
        for key in ("test_loss", "train_loss", "uplink_bits", "downlink_bits"):
            assert one[key] == other[key]
        assert one.latency_s == pytest.approx(other.latency_s, rel=1e-8)
    for name, value in theirs.state.adapter.items():
        assert torch.equal(ours.state.adapter[name], value)


@pytest.mark.parametrize(
    "changes",
    [
        THIN,
        ("fedsl.pruning_rate=0.5",),
        (*THIN, "fedsl.pruning_rate=0.3", "fedsl.aggregate_every=2", "fedsl.uplink_dtype=int8"),
        ("fedsl.latency_target_s=0.2",),
        ("fedsl.latency_target_s=0.1", "cell.round_trip_s=0.001", "cell.overhead_share=0.1"),
        (*THIN, "charge_as=gpt2", "fedsl.pruning_rate=0.3"),
    ],
)
def test_the_plan_is_charged(changes: tuple[str, ...], tmp_path: Path) -> None:
    """Bits and seconds are known before training, whatever is left out."""
    run = run_of(tmp_path / "run", *KEPT, *changes)
    for record in run.records:
        assert record.latency_s == record.planned_latency_s > 0
        for entry in record.clients:
            assert entry.uplink_bits == entry.cut_uplink_bits + entry.adapter_bits
    assert run.records[-1].test_loss < run.summary["start_test_loss"]


def test_shares_and_formats_keep_the_target(tmp_path: Path) -> None:
    """The nearer the target, the less crosses the cut; a bound says what no plan can do."""
    errors, latency = [], []
    for target in (0.25, 0.12, 0.09):
        world = world_of(*KEPT, f"fedsl.latency_target_s={target}", "fedsl.split_point=1")
        made = start_round(world.context, world.unmeasured_start()).plan
        assert made.predicted_latency_s <= target
        error, bound = made.extras["cut_error"], made.extras["cut_error_bound"]
        assert error is not None
        assert bound is not None
        assert bound <= error + 1e-9
        errors.append(error)
        latency.append(made.predicted_latency_s)
        kept = [1 - entry.cut_dropout for entry in made.clients]
        formats = {"fp32": 0.0, "bf16": 2.0**-14 / 12, "int8": 2 * np.log(128) / (4 * 127**2)}
        weights = world.context.weights / world.context.weights.sum()
        by_hand = sum(
            w * ((1 + formats[entry.cut_format or ""]) / share - 1)
            for w, share, entry in zip(weights, kept, made.clients, strict=True)
        )
        assert error == pytest.approx(by_hand, rel=1e-9, abs=1e-12)
    assert errors[0] < errors[1] < errors[2]
    assert latency[2] < latency[0]
    world = world_of(*KEPT, "fedsl.latency_target_s=0.01")
    outcome = run_round(world.context, world.unmeasured_start())
    assert not outcome.record.clients
    reason = next(iter(outcome.record.skipped.values()))
    assert "where only 10.2 % of a token cross the cut as int8, the round takes" in reason
    assert "longer than fedsl.latency_target_s, 0.01 s" in reason


def test_a_longer_target_is_never_worse_and_bounds_hold_for_every_plan() -> None:
    """Steps of very different lengths: a plan that keeps a target is no better than its bound."""
    found = []
    for target in (0.055, 0.06, 0.065, 0.0873, 0.09, 0.095, 0.3):
        world = world_of(
            "training.local_steps=4",
            "training.batch_size=1",
            "fedsl.split_point=1",
            f"fedsl.latency_target_s={target}",
        )
        try:
            made = start_round(world.context, world.unmeasured_start()).plan
        except InfeasibleError:
            found.append((target, target, np.inf, np.inf))
            continue
        error, bound = made.extras["cut_error"], made.extras["cut_error_bound"]
        assert error is not None
        assert bound is not None
        found.append((target, made.predicted_latency_s, error, bound))
        share = min(1 - entry.cut_dropout for entry in made.clients)
        assert share >= 0.1
    assert [np.isinf(error) for _, _, error, _ in found] == [True, *[False] * 6]
    for (_, _, one, _), (_, _, other, _) in pairwise(found):
        assert other <= one
    for target, _, _, bound in found[1:]:
        for _, latency_s, error, _ in found:
            assert latency_s > target or bound <= error * (1 + 1e-12) + 1e-15


def test_a_record_says_what_crossed(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", "fedsl.latency_target_s=0.07", "rounds=1")
    (record,) = run.records
    assert {entry.cut_format for entry in record.clients} <= {"fp32", "bf16", "int8"}
    assert record.plan is not None
    assert set(record.plan) == {"cut_error", "cut_error_bound"}


def test_pruned_halves_compute_and_send_less() -> None:
    """Of the client's blocks a half of the units is left, counted by the workload of that slice."""
    whole, half = (
        world_of("fedsl.split_point=3"),
        world_of("fedsl.split_point=3", "fedsl.pruning_rate=0.5"),
    )
    starts = [start_round(world.context, world.unmeasured_start()) for world in (whole, half)]
    costs = [start.costs.split for start in starts]
    assert costs[0] is not None
    assert costs[1] is not None
    shape = costs[1].shapes(0)[0]
    size = Step(shape.rows, shape.width)
    parts = workload(half.architecture, half.work.adapter, size, 0.5).parts[:4]
    found = costs[1].flops(0, 3)[0]
    assert found.client_forward == sum(part.forward_flops for part in parts)
    assert found.client_backward == sum(part.backward_flops for part in parts)
    assert found.client_forward < 0.7 * costs[0].flops(0, 3)[0].client_forward
    assert found.server_forward == costs[0].flops(0, 3)[0].server_forward
    bits = [start.costs.payload_bits(start.plan.clients[0]) for start in starts]
    assert bits[1] < 0.8 * bits[0]
    assert costs[1].memory_bytes(0, 3) < costs[0].memory_bytes(0, 3)
    # What comes down is the whole half.
    down = [start.costs.downlink_bits(start.plan.broadcast) for start in starts]
    assert down[0] == down[1]


def test_removed_units_stay_as_they_were(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", *KEPT, "fedsl.split_point=3", "fedsl.pruning_rate=0.5")
    world, state = run.world, run.state
    kept = world.context.method.codec.trained(
        start_round(world.context, world.unmeasured_start()).plan.clients[0]
    )
    assert kept is not None
    start, removed = world.unmeasured_start().adapter, 0
    for name in kept:
        if any(f".{block}." in name for block in range(3)):
            outside = ~kept[name]
            removed += int(outside.sum())
            assert torch.equal(state.adapter[name][outside], start[name][outside])
            if "lora_B" in name:
                assert (state.adapter[name][kept[name]] != start[name][kept[name]]).any()
    assert removed > 1000


def test_a_coordinate_is_the_mean_of_those_that_kept_it() -> None:
    """Two holders keep different halves of a tensor, a third client leaves it to the server."""
    start = {"x": torch.tensor([1.0, 1.0, 1.0, 1.0])}
    masks = [torch.tensor([True, True, False, False]), torch.tensor([False, True, False, True])]
    updates = [
        Update(n, weight, {"x": change * mask}, {"x": mask})
        for n, (weight, change, mask) in enumerate(
            zip((1.0, 3.0), (torch.tensor(4.0), torch.tensor(8.0)), masks, strict=True)
        )
    ]
    merged = merge_halves(start, [*updates, Update(2, 4.0, {})], {"x": torch.full((4,), 3.0)})
    expected = [(1 * 5 + 4 * 3) / 5, (1 * 5 + 3 * 9 + 4 * 3) / 8, 3.0, (3 * 9 + 4 * 3) / 7]
    assert merged["x"].tolist() == pytest.approx(expected)
    alone = merge_halves(start, updates, {})
    assert alone["x"].tolist() == pytest.approx([5.0, (5 + 27) / 4, 1.0, 9.0])


@pytest.mark.parametrize(
    "changes",
    [
        (*THIN, "fedsl.pruning_rate=0.3", "fedsl.aggregate_every=2"),
        ("fedsl.latency_target_s=0.12", "cohort.dropout=0.3"),
    ],
)
def test_resumed_to_the_same_bytes(changes: tuple[str, ...], tmp_path: Path) -> None:
    """Both ends draw the same masks after a resume, in the middle of a period as well."""
    whole = run_of(tmp_path / "whole", *KEPT, *changes, "rounds=3")
    run_of(tmp_path / "short", *KEPT, *changes, "rounds=1")
    Experiment.resume(tmp_path / "short", more_rounds=2)
    assert fingerprint(tmp_path / "short") == fingerprint(whole.folder.path)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    for changes, message in (
        (("fedsl.cut_dropout=1",), r"fedsl\.cut_dropout is 1"),
        (("fedsl.latency_target_s=1", *THIN[:1]), r"fedsl\.cut_dropout is 0\.4.*target_s is null"),
        (("fedsl.latency_target_s=1", THIN[1]), r"fedsl\.activation_dtype is int8"),
        (("fedsl.least_kept_share=0.3",), r"fedsl\.least_kept_share is 0\.3"),
        (("fedsl.aggregate_every=2", "cohort.size=2"), r"cohort\.size is 2"),
        (("fedsl.latency_target_s=1", "deadline_s=0.5"), r"target_s is 1.*most deadline_s, 0\.5"),
        (("planner=sflllm", "fedsl.latency_target_s=1"), r"latency_target_s is 1.*planner is that"),
        (("planner=sflllm", THIN[0]), r"fedsl\.cut_dropout is 0\.4.*planner is that of fedsl"),
        (("planner=sflllm", "fedsl.pruning_rate=0.5"), r"pruning_rate is 0\.5.*planner is that"),
        (("tuner=split",), r"tuner is split.*number formats, labels and aggregation of fedsl"),
        (("fedsl.aggregate_every=2", "server.optimizer=adam"), r"server\.optimizer is adam"),
        (("fedsl.pruning_rate=0.5", "codec=half"), r"codec is half.*honours pruning_rate"),
        (("fedsl.pruning_rate=0.5", "tuner=split"), r"tuner is split.*honours pruning_rate"),
    ):
        with pytest.raises(InputError, match=message):
            run_of(tmp_path / "run", *changes)
        assert not (tmp_path / "run").exists()

    refuses_deployment(settings(), r"method is fedsl, and its cut is planned.*other machines")


def test_the_problem_of_a_cell() -> None:
    made = plan(FEDSL)
    assert not isinstance(made, list)
    answer = made.answer
    assert max(row["up_s"] for row in answer["clients"]) + max(
        row["down_s"] for row in answer["clients"]
    ) <= 40.0 * (1 + 1e-9)
    short = plan(changed(FEDSL, "window_s", 0.01))
    assert not isinstance(short, list)
    assert short.answer["status"] == "infeasible"
    numbers = from_cell(FEDSL).numbers
    with pytest.raises(InputError, match="downlink_rate_bps of client 1"):
        clients = [dict(client) for client in numbers["clients"]]
        del clients[1]["downlink_rate_bps"]
        plan({**numbers, "clients": clients})
    with pytest.raises(InputError, match="least_kept_share is 2"):
        plan({**numbers, "least_kept_share": 2})


def test_dropout_of_the_adapter_reaches_pruned_halves() -> None:
    """A rate that removes no unit: the same halves as without pruning, with LoRA's dropout on."""
    states = []
    for rate in ("0", "1e-4"):
        world = world_of(*KEPT, "adapter.dropout=0.5", f"fedsl.pruning_rate={rate}")
        states.append(run_round(world.context, world.unmeasured_start()).state.adapter)
    whole, nothing_removed = states
    for name, value in whole.items():
        assert torch.allclose(nothing_removed[name], value, rtol=1e-4, atol=1e-6), name
