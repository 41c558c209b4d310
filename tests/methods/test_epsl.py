"""epsl end to end on the built-in model: charged as planned, exact in its limits, resumed."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from airtune import Experiment
from airtune.errors import InputError
from airtune.experiment.reading import read_config
from airtune.experiment.world import World, build_world
from airtune.federated.charging.charge import expected_round
from airtune.federated.charging.split_charge import split_rates
from airtune.federated.round import start_round
from tests.cli.conftest import quick
from tests.cli.test_run import fingerprint
from tests.methods.elsewhere import refuses_deployment

AVERAGED = "epsl.client_halves=averaged"
KEPT = ("training.local_steps=2", "training.keep_optimizer=true", "training.batch_size=4")


def settings(*changes: str) -> list[str]:
    return quick("method=epsl", "data.score_rows=0", *changes)[1::2]


def run_of(folder: Path, *changes: str) -> Any:
    return Experiment.load(None, settings(*changes)).run(folder)


def world_of(*changes: str) -> World:
    return build_world(read_config(None, settings(*changes)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run_of(tmp_path_factory.mktemp("epsl") / "run", *KEPT, "cell.round_trip_s=0.01")


def test_the_plan_is_charged(run: Any) -> None:
    for record in run.records:
        assert record.latency_s == record.planned_latency_s > 0
        assert record.measured["backward_rows"] == 2 + 3 * 2
        assert 0 < record.measured["cosine"] < 1
        for entry in record.clients:
            assert entry.adapter_bits == 0


def test_one_message_for_all_is_sent_once(run: Any) -> None:
    """Each client receives it, and the downlink is charged with it once; its airtime is that of
    the slowest client over the whole band."""
    world = run.world
    start = start_round(world.context, world.unmeasured_start())
    split, record = start.costs.split, run.records[0]
    assert split is not None
    steps = split.messages_of(start.plan.clients)
    shared = [step.shared for step in steps[0]]
    assert all(shared)
    assert all([step.shared for step in client] == shared for client in steps)
    own = [sum(step.gradient for step in client) for client in steps]
    received = [entry.cut_downlink_bits for entry in record.clients]
    assert received == [bits + sum(shared) for bits in own]
    assert record.downlink_bits == sum(own) + sum(shared)
    rates = start.truth.downlink().rate(torch.full((3,), 3e6).numpy())
    for entry, client, rate in zip(record.clients, steps, rates, strict=True):
        # Two messages a step, each with a round trip of 10 ms.
        seconds = sum(step.gradient for step in client) / (rate * entry.downlink_share)
        seconds += sum(shared) / rates.min() + 4 * 0.01
        assert entry.stages_s["gradient"] == pytest.approx(seconds, rel=1e-9)


def test_the_servers_rows_by_hand(run: Any) -> None:
    """Forward K b + m rows, backward m + K (b - m): each with the widths and labels of its rows."""
    from airtune.tuning.split.pairing import paired
    from airtune.workload.step import Step

    world = run.world
    start = start_round(world.context, world.unmeasured_start())
    split = start.costs.split
    assert split is not None
    point = start.plan.clients[0].split_point or 0
    flops = 0.0
    for step in range(2):
        shapes = [split.shapes(plan.client)[step] for plan in start.plan.clients]
        pairing = paired([shape.each for shape in shapes if shape.each], 0.5)
        assert pairing is not None
        mean = Step(2, pairing.width, label_tokens=pairing.label_tokens)
        found = world.work.split_flops(mean, point)
        flops += found.server_forward + found.server_backward
        flops += found.head_forward + found.head_backward
        for client, shape in enumerate(shapes):
            for rows, backward in ((pairing.rows[client], 0), (pairing.rest(client, 4), 1)):
                part = shape.of_rows(rows)
                size = Step(part.rows, part.width, label_tokens=part.label_tokens)
                found = world.work.split_flops(size, point)
                flops += found.server_forward + found.head_forward
                flops += backward * (found.server_backward + found.head_backward)
    assert run.records[0].server_flops == pytest.approx(flops, rel=1e-9)


def test_without_aggregation_it_is_the_method_with_own_halves(tmp_path: Path) -> None:
    """phi = 0: parallel split learning, byte for byte but for what is measured."""
    ours = run_of(tmp_path / "ours", *KEPT, "epsl.aggregation_ratio=0")
    theirs = Experiment.load(
        None, quick("method=hsfl", "data.score_rows=0", *KEPT, "hsfl.cuts=common")[1::2]
    ).run(tmp_path / "theirs")
    for one, other in zip(ours.records, theirs.records, strict=True):
        mine, yours = dict(one), dict(other)
        measured = mine.pop("measured")
        assert measured["cosine"] == 1.0
        assert measured["backward_rows"] == 12
        assert yours.pop("measured") == {
            key: measured[key] for key in ("mean_client_loss", "worst_client_loss")
        }
        assert mine == yours
    for client in range(3):
        for name, value in theirs.state.carried[client].items():
            assert torch.equal(ours.state.carried[client][name], value)


def test_one_client_is_the_same_at_every_ratio(tmp_path: Path) -> None:
    alone = ("clients.count=1", "clients.devices=[laptop-cpu]", *KEPT)
    runs = [
        run_of(tmp_path / str(ratio), *alone, f"epsl.aggregation_ratio={ratio}") for ratio in (0, 1)
    ]
    for name in ("rounds.jsonl", "adapter/adapter_model.safetensors"):
        one, other = ((run.folder.path / name).read_bytes() for run in runs)
        assert one == other


def test_a_plan_is_never_longer_with_more_aggregated() -> None:
    latency, server = [], []
    for ratio in (0, 0.25, 0.5, 0.75, 1):
        world = world_of(*KEPT, f"epsl.aggregation_ratio={ratio}", "epsl.split_point=2")
        start = start_round(world.context, world.unmeasured_start())
        latency.append(start.plan.predicted_latency_s)
        split = start.costs.split
        assert split is not None
        bound = start.plan.lower_bound_s
        assert bound is not None
        assert 0.9 * latency[-1] < bound <= latency[-1] * (1 + 1e-12)
        server.append(sum(split.mean_path_s([0, 1, 2], 2)[1]))
    assert all(later <= earlier for earlier, later in pairwise(latency))
    assert latency[-1] < 0.95 * latency[0]
    assert server[0] == 0.0 < server[-1]


def test_charged_as_another_model(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", *KEPT, "charge_as=gpt2", "rounds=1")
    (record,) = run.records
    assert record.latency_s == record.planned_latency_s > 0


@pytest.mark.parametrize("changes", [(), ("cohort.dropout=0.4", "clients.count=4")])
def test_resumed_to_the_same_bytes(changes: tuple[str, ...], tmp_path: Path) -> None:
    small = ("epsl.gradient_dtype=int8", "epsl.activation_dtype=int8", "rounds=3")
    whole = run_of(tmp_path / "whole", *KEPT, *small, *changes)
    run_of(tmp_path / "short", *KEPT, *small, *changes, "rounds=1")
    Experiment.resume(tmp_path / "short", more_rounds=2)
    assert fingerprint(tmp_path / "short") == fingerprint(whole.folder.path)


def test_a_deadline_within_the_gradients_counts_what_came_down() -> None:
    """The message for all comes first, then each client's own; both begin with a round trip."""
    heads = ("cell.overhead_share=0.25", "cell.round_trip_s=0.05", "training.batch_size=4")
    world = world_of(*heads)
    start = start_round(world.context, world.unmeasured_start())
    split, plans = start.costs.split, start.plan.clients
    assert split is not None
    messages = split.messages_of(plans)
    rates = split_rates(world.context, split, start.truth, plans)
    line = split.timeline(plans, rates, messages, [0, 0, 0], 0)
    begin_s = line.seconds[: line.stages.index("gradient")].sum(axis=0).max()
    shared, own = messages[0][0].shared, [steps[0].gradient for steps in messages]
    shared_s = 1.25 * shared / rates.broadcast_bps

    def charged(after_s: float) -> tuple[int, list[int]]:
        context = replace(world.context, deadline_s=float(begin_s) + after_s)
        done = expected_round(context, start)
        return done.downlink_bits, [entry.cut_downlink_bits or 0 for entry in done.clients]

    assert charged(0.03) == (0, [0, 0, 0])
    down, received = charged(0.05 + 0.5 * shared_s)
    assert down == pytest.approx(shared / 2, abs=1)
    assert received == pytest.approx([shared / 2] * 3, abs=1)
    down, received = charged(0.05 + shared_s + 0.04)
    assert (down, received) == (shared, [shared] * 3)
    fastest_s = min(1.25 * bits / rate for bits, rate in zip(own, rates.gradient_bps, strict=True))
    down, received = charged(0.05 + shared_s + 0.05 + 0.5 * fastest_s)
    half_s = 0.5 * fastest_s / 1.25
    parts = [half_s * rate for rate in rates.gradient_bps]
    assert received == pytest.approx([shared + part for part in parts], abs=1)
    assert down == pytest.approx(shared + sum(parts), abs=3)


def test_the_cosine_is_measured_beside_the_training(tmp_path: Path) -> None:
    """Without it the same bytes are learned and charged, with LoRA's dropout as well."""
    runs = [
        run_of(tmp_path / what, *KEPT, "adapter.dropout=0.3", f"epsl.cosine={what}")
        for what in ("measured", "off")
    ]
    for one, other in zip(*(run.records for run in runs), strict=True):
        mine, theirs = dict(one), dict(other)
        assert mine.pop("measured")["cosine"] < 1
        assert theirs.pop("measured")["cosine"] is None
        assert mine == theirs


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    for changes, message in (
        (("epsl.aggregation_ratio=1.5",), r"epsl\.aggregation_ratio is 1\.5"),
        (("epsl.aggregate_every=2",), r"epsl\.aggregate_every is 2"),
        (("epsl.downlink_dtype=bf16",), r"epsl\.downlink_dtype is bf16.*client_halves is averaged"),
        (("epsl.cuts=own",), r"epsl\.cuts is not a key"),
        (("epsl.aggregate_every=2",), r"set epsl\.client_halves=averaged\."),
        (("tuner=split",), r"tuner is split.*leaves client halves at the clients, for epsl"),
        ((AVERAGED, "tuner=split"), r"tuner is split.*formats, labels and aggregation of epsl"),
        ((AVERAGED, "tuner=split", "epsl.cosine=off"), r"epsl\.cosine is off.*tuner is that of"),
        ((AVERAGED, "planner=sflllm", "epsl.split_point=2"), r"epsl\.split_point is 2.*planner is"),
        (
            (AVERAGED, "planner={use: sflllm, split_points: own}"),
            r"planner is sflllm.*same split point for all clients, for epsl",
        ),
        (
            (AVERAGED, "epsl.aggregate_every=2", "server.optimizer=adam"),
            r"server\.optimizer is adam.*none with epsl\.aggregate_every above 1",
        ),
    ):
        with pytest.raises(InputError, match=message):
            run_of(tmp_path / "run", *changes)
        assert not (tmp_path / "run").exists()

    for change in ("epsl.aggregation_ratio=0.5", "epsl.aggregation_ratio=0"):
        message = r"method is epsl, and epsl\.\w+ is .*other machines"
        refuses_deployment(settings(change), message)
