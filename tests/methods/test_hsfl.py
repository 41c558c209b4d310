"""hsfl end to end on the built-in model: own halves, own cuts, averaging after several rounds."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from airtune import Experiment
from airtune.errors import InputError
from airtune.experiment.reading import read_config
from airtune.experiment.run import Run
from airtune.experiment.world import World, build_world
from airtune.federated.charging.charge import expected_round
from airtune.federated.observation import planning_view
from airtune.federated.round import run_round, start_round
from airtune.federated.splitting.cut_search import CutSearch
from airtune.federated.splitting.round_problem import SplitProblem
from airtune.tuning.adapter import load_state
from airtune.tuning.evaluate import evaluate
from airtune.tuning.local import train_locally
from tests.cli.conftest import quick
from tests.cli.test_run import fingerprint
from tests.methods.elsewhere import refuses_deployment
from tests.methods.test_sflllm import own_devices

KEPT = ("training.local_steps=2", "training.keep_optimizer=true")
EVERY = ("hsfl.client_halves=averaged", "hsfl.cuts=common", "hsfl.aggregate_every=3")
AVERAGED = "hsfl.client_halves=averaged"
UNLIKE = (
    "clients.devices=[fast, slow, fast]",
    "hsfl.server_flop_rate=4e8",
    "hsfl.unusual_values=[server_flop_rate]",
    "cell.bandwidth_hz=30e6",
)


def settings(*changes: str) -> list[str]:
    return quick("method=hsfl", "data.score_rows=0", *changes)[1::2]


def run_of(folder: Path, *changes: str) -> Any:
    return Experiment.load(None, settings(*changes)).run(folder)


def world_of(*changes: str) -> World:
    return build_world(read_config(None, settings(*changes)))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run_of(tmp_path_factory.mktemp("hsfl") / "run", *KEPT)


def test_halves_never_travel_and_the_plan_is_charged(own: Any) -> None:
    for record in own.records:
        assert record.latency_s == record.planned_latency_s > 0
        for entry in record.clients:
            assert entry.adapter_bits == 0
            assert entry.uplink_bits == entry.cut_uplink_bits
            assert entry.stages_s is not None
            assert entry.stages_s["broadcast"] == entry.stages_s["adapter"] == 0.0
            assert entry.federated_subchannels is None
            assert entry.federated_rate_bps is None
        assert record.downlink_bits == sum(entry.cut_downlink_bits for entry in record.clients)


def test_losses_are_those_of_each_clients_own_half(own: Any) -> None:
    """By hand: the server's half beside each client's own, on the client's held-out rows."""
    from airtune.experiment.held_out import _batches, held_out_rows

    world, state, record = own.world, own.state, own.records[-1]
    total, tokens, losses = 0.0, 0, []
    for client, rows in enumerate(held_out_rows(world.config, world.tests, world.shards)):
        half = {
            name.removeprefix("own/"): value
            for name, value in state.carried[client].items()
            if name.startswith("own/")
        }
        assert half
        load_state(world.model, {**state.adapter, **half})
        found = evaluate(world.model, list(_batches(world.tests, rows, 10_000)))
        assert found.loss == pytest.approx(record.clients[client].own_test_loss, rel=1e-6)
        total, tokens = total + found.loss * found.label_tokens, tokens + found.label_tokens
        losses.append(found.loss)
    assert tokens == world.evaluate(state.adapter).label_tokens
    assert record.test_loss == pytest.approx(total / tokens, rel=1e-6)
    assert record.measured["mean_client_loss"] == pytest.approx(sum(losses) / 3, rel=1e-6)
    assert record.measured["worst_client_loss"] == pytest.approx(max(losses), rel=1e-6)
    assert Run(own.folder.path).evaluate()["tuned"]["test_loss"] == record.test_loss


def test_a_client_goes_on_from_its_own_half(own: Any) -> None:
    """One client alone, SGD: two rounds are the two centralised steps of its own batches."""
    changes = (
        "clients.count=1",
        "clients.devices=[laptop-cpu]",
        "training.max_grad_norm=0",
        "training.optimizer=sgd",
        "training.learning_rate=0.3",
    )
    world = world_of(*changes)
    state = world.unmeasured_start()
    whole = dict(state.adapter)
    for index in range(2):
        batches = world.side.batches(0, index)
        training = world.side.training.in_round(index)
        whole = train_locally(world.model, whole, batches, training, (0, index, 0)).state
        state = run_round(world.context, state).state
    held = {name.removeprefix("own/") for name in state.carried[0] if name.startswith("own/")}
    assert held
    for name, value in whole.items():
        mine = state.carried[0][f"own/{name}"] if name in held else state.adapter[name]
        assert (mine - value).abs().max() <= 2e-5 * max(1.0, float(value.abs().max())), name
    # What the server has of the clients' blocks is what it was before round 1.
    start = world.unmeasured_start().adapter
    assert all(torch.equal(state.adapter[name], start[name]) for name in held)


def test_averaged_halves_with_one_cut_are_the_averaging_split_method(tmp_path: Path) -> None:
    """All cuts equal, averaged in every round: the run of the method that averages."""
    ours = run_of(tmp_path / "ours", *KEPT, "hsfl.client_halves=averaged", "hsfl.split_point=2")
    theirs = Experiment.load(
        None, quick("method=sflllm", "data.score_rows=0", *KEPT, "sflllm.split_point=2")[1::2]
    ).run(tmp_path / "theirs")
    for one, other in zip(ours.records, theirs.records, strict=True):
        assert one.test_loss == other.test_loss
        assert one.train_loss == other.train_loss
        assert one.uplink_bits == other.uplink_bits
        assert one.downlink_bits == other.downlink_bits
        assert one.latency_s == pytest.approx(other.latency_s, rel=1e-8)
        assert one.measured is None
    for name, value in theirs.state.adapter.items():
        assert torch.equal(ours.state.adapter[name], value)


def test_averaging_every_round_is_averaging_after_one(tmp_path: Path) -> None:
    """A period of three rounds with a merge at its end; the mean comes down in the next round."""
    run = run_of(tmp_path / "run", *KEPT, *EVERY, "rounds=4")
    sent = [[entry.adapter_bits for entry in record.clients] for record in run.records]
    got = [record.clients[0].stages_s["broadcast"] > 0 for record in run.records]
    assert [all(bits) for bits in sent] == [False, False, True, False]
    assert not any(sum(bits) for bits in sent[:2])
    assert got == [True, False, False, True]
    own = [[entry.own_test_loss is not None for entry in r.clients] for r in run.records]
    assert own == [[True] * 3, [True] * 3, [False] * 3, [True] * 3]
    assert all(record.latency_s == record.planned_latency_s for record in run.records)


def test_a_merge_is_the_mean_of_the_halves_as_they_are() -> None:
    """By hand: each client's half after three rounds of its own, averaged by its examples."""
    world = world_of(*EVERY, "data.partition.kind=size", "data.partition.concentration=2")
    before = world.unmeasured_start()
    for _ in range(2):
        before = run_round(world.context, before).state
    state = run_round(world.context, before).state
    # The same last round once more, told that it is not the last: halves stay, and can be read.
    planner = replace(world.context.method.planner, aggregate_every=100)  # type: ignore[type-var]
    method = replace(world.context.method, planner=planner)
    kept = run_round(replace(world.context, method=method), before).state
    weights = world.context.weights / world.context.weights.sum()
    assert len(set(weights.tolist())) > 1
    names = [n.removeprefix("own/") for n in kept.carried[0] if n.startswith("own/")]
    assert names
    for name in names:
        halves = [kept.carried[client][f"own/{name}"].double() for client in range(3)]
        mean = sum(w * half for w, half in zip(weights, halves, strict=True))
        assert (state.adapter[name] - mean).abs().max() <= 1e-6
        assert (halves[0] - halves[1]).abs().max() > 1e-4
    assert not any(name.startswith("own/") for name in state.carried[0])


@pytest.mark.parametrize("halves", ["own", "averaged"])
def test_own_cuts_are_never_slower_than_a_common_one(halves: str, tmp_path: Path) -> None:
    changes = (own_devices(tmp_path), *UNLIKE, f"hsfl.client_halves={halves}")
    plans = {}
    for cuts in ("own", "common"):
        world = world_of(*changes, f"hsfl.cuts={cuts}")
        plans[cuts] = start_round(world.context, world.unmeasured_start()).plan
    points = [plan.split_point or 0 for plan in plans["own"].clients]
    assert points[0] == points[2] > points[1]
    own_s, common_s = (plans[cuts].predicted_latency_s for cuts in ("own", "common"))
    assert own_s < 0.95 * common_s
    assert plans["own"].lower_bound_s is not None
    assert 0 < plans["own"].lower_bound_s <= own_s
    # What is proven of own cuts holds for common ones as well.
    assert plans["own"].lower_bound_s <= common_s


def test_the_plan_against_all_cuts(tmp_path: Path) -> None:
    """The search is within 1 % of the best of all combinations, its bound below all of them."""
    world = world_of(own_devices(tmp_path), *UNLIKE)
    view = planning_view(world.context, 0)
    problem = SplitProblem(view, [0, 1, 2], gets_half=False, sends_half=False)
    search = CutSearch(problem, problem.points)
    found = search.own()
    every = [search._links.solve(p).latency_s for p in product(range(1, 6), repeat=3)]
    assert min(every) <= found.best.latency_s <= 1.01 * min(every)
    assert found.bound_s <= min(every) * (1 + 1e-12)
    assert found.bound_s > 0.3 * min(every)


def test_equal_clients_have_equal_cuts() -> None:
    """One client three times: the same device, batches and channel."""
    world = world_of("hsfl.main_subchannels=21", "hsfl.server_flop_rate=1e11")
    view = planning_view(world.context, 0)
    links = replace(view.uplink, cn0_hz=np.full(3, 1e9))  # type: ignore[type-var]
    alike = replace(
        view, cohort=np.zeros(3, dtype=np.int64), uplink=links, downlink_bps=np.full(3, 1e8)
    )
    problem = SplitProblem(alike, [0, 1, 2], gets_half=False, sends_half=False)
    assert len(set(CutSearch(problem, problem.points).own().best.points)) == 1


def test_a_clients_cut_stays_that_of_its_first_round(tmp_path: Path) -> None:
    """Although the channel and the cohort change."""
    changes = (own_devices(tmp_path), *UNLIKE, "clients.count=5", "cohort.size=2", "rounds=6")
    run = run_of(tmp_path / "run", *changes)
    cuts: dict[int, set[int]] = {}
    for record in run.records:
        assert record.latency_s == record.planned_latency_s
        for entry in record.clients:
            assert entry.split_point is not None
            cuts.setdefault(entry.client, set()).add(entry.split_point)
    assert len(cuts) > 2
    assert all(len(points) == 1 for points in cuts.values())
    assert len(set.union(*cuts.values())) > 1


@pytest.mark.parametrize(
    "changes",
    [
        ("rounds=3",),
        ("rounds=4", *EVERY),
        ("rounds=4", "cohort.size=2", "cohort.dropout=0.3"),
    ],
)
def test_resumed_to_the_same_bytes(changes: tuple[str, ...], tmp_path: Path) -> None:
    """Also in the middle of a period: halves and moments are in the checkpoint."""
    whole = run_of(tmp_path / "whole", *KEPT, *changes)
    rounds = len(whole.records)
    run_of(tmp_path / "short", *KEPT, *changes, "rounds=1")
    Experiment.resume(tmp_path / "short", more_rounds=1)
    Experiment.resume(tmp_path / "short", more_rounds=rounds - 2)
    assert fingerprint(tmp_path / "short") == fingerprint(whole.folder.path)


def test_what_a_late_client_trained_does_not_count_at_the_client_either() -> None:
    world = world_of("cell.csi_error_db=6")
    state = run_round(world.context, world.unmeasured_start()).state
    start = start_round(world.context, state)
    latest = 0.7 * start.plan.predicted_latency_s
    context = replace(world.context, deadline_s=latest)
    outcome = run_round(context, state, start)
    late = [entry.client for entry in outcome.record.clients if entry.outcome == "late"]
    assert late
    for client in range(3):
        kept = outcome.state.carried[client]
        same = all(torch.equal(kept[name], state.carried[client][name]) for name in kept)
        assert same == (client in late)


@pytest.mark.parametrize("labels_at", ["server", "client"])
def test_past_the_deadline_nothing_comes_down_on_a_free_link_either(labels_at: str) -> None:
    """The deadline is in the first upload: no message came down, although none takes any time."""
    world = world_of("hsfl.downlink=free", f"hsfl.labels_at={labels_at}", *KEPT)
    start = start_round(world.context, world.unmeasured_start())
    whole = expected_round(world.context, start)
    assert all(entry.cut_downlink_bits for entry in whole.clients)
    first = min((entry.stages_s or {})["activations"] for entry in whole.clients) / 2
    cut = expected_round(replace(world.context, deadline_s=first / 2), start)
    assert cut.downlink_bits == 0
    for entry, full in zip(cut.clients, whole.clients, strict=True):
        assert entry.cut_downlink_bits == 0
        assert 0 <= entry.uplink_bits < full.uplink_bits / 2


def test_the_folder_has_the_mean_of_the_clients_adapters(own: Any) -> None:
    from safetensors.torch import load_file

    world, state = own.world, own.state
    written = load_file(own.folder.adapter / "adapter_model.safetensors")
    weights = world.context.weights / world.context.weights.sum()
    for name in (n.removeprefix("own/") for n in state.carried[0] if n.startswith("own/")):
        halves = [state.carried[client][f"own/{name}"].double() for client in range(3)]
        mean = sum(w * half for w, half in zip(weights, halves, strict=True))
        assert (written[name].double() - mean).abs().max() <= 1e-6


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    for changes, message in (
        (("hsfl.aggregate_every=2",), r"hsfl\.aggregate_every is 2.*averaged and have one cut"),
        (("hsfl.aggregate_every=2", "hsfl.client_halves=averaged"), r"hsfl\.aggregate_every is 2"),
        ((*EVERY, "cohort.size=2"), r"cohort\.size is 2, but it must be null with hsfl"),
        (("hsfl.uplink_dtype=bf16",), r"hsfl\.uplink_dtype is bf16.*client_halves is averaged"),
        (("hsfl.split_point=2", "hsfl.cuts=common"), r"hsfl\.cuts is common.*split_point is null"),
        (("tuner=split",), r"tuner is split.*leaves client halves at the clients, for hsfl"),
        (("planner=sflllm",), r"planner is sflllm.*leaves client halves at the clients"),
        (("hsfl.cuts=best",), r"hsfl\.cuts is best"),
        ((*EVERY, "server.optimizer=momentum"), r"server\.optimizer is momentum.*none with hsfl"),
        (
            (AVERAGED, "planner=sflllm", "hsfl.cuts=common"),
            r"hsfl\.cuts is common.*planner is that",
        ),
        ((AVERAGED, "tuner=split", "hsfl.server_side=copies"), r"hsfl\.server_side is copies"),
        ((AVERAGED, "tuner=split", "hsfl.labels_at=client"), r"tuner is split.*labels and aggreg"),
        ((AVERAGED, "tuner=split", "hsfl.activation_dtype=bf16"), r"tuner is split.*formats"),
    ):
        with pytest.raises(InputError, match=message):
            run_of(tmp_path / "run", *changes)
        assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=r"hsfl\.split_point is 9, but it must be one of 1, 2"):
        run_of(tmp_path / "run", "hsfl.split_point=9")


def test_a_deployment_is_refused() -> None:
    for changes in ((), EVERY):
        message = r"method is hsfl, and hsfl\.\w+ is .*other machines"
        refuses_deployment(settings(*changes), message)


def test_records_are_json(own: Any) -> None:
    assert json.loads(json.dumps(own.records, default=dict)) == own.records
