"""Tensors that stay at the clients: in no payload, kept and evaluated for each client."""

from pathlib import Path

import numpy as np
import pytest
import torch

from airtune import Experiment
from airtune.errors import InputError
from airtune.experiment.reading import read_config
from airtune.experiment.world import World, build_world
from airtune.federated.backends.backend import InProcess
from airtune.federated.round import run_round, start_round, tasks_of
from airtune.round_plan import ClientPlan
from airtune.tuning.kept import own_part
from airtune.tuning.personal import personal_names
from airtune.update.codec import Codec, TensorMap, coordinates
from airtune.update.personal import SharedCodec
from tests.cli.conftest import quick
from tests.cli.test_run import fingerprint

B = "adapter.personal=['*.lora_B.*']"
LAST = "adapter.personal=['*.layers.5.*']"


def settings(*changes: str) -> list[str]:
    return quick("adapter.rank=4", *changes)[1::2]


def world_of(*changes: str) -> World:
    return build_world(read_config(None, settings("engine=sequential", *changes)))


@pytest.mark.parametrize(
    "changes",
    [(B,), (LAST, "method=jcpba"), (LAST, "fedlora.uplink_dtype=int8", "cohort.dropout=0.3")],
)
def test_kept_evaluated_and_resumed_to_the_same_bytes(
    changes: tuple[str, ...], tmp_path: Path
) -> None:
    run = Experiment.load(None, settings(*changes)).run(tmp_path / "whole")
    for record in run.records:
        assert record["latency_s"] == pytest.approx(record["planned_latency_s"], rel=1e-9)
        assert any("own_test_loss" in entry for entry in record["clients"])
    Experiment.load(None, settings("rounds=1", *changes)).run(tmp_path / "short")
    Experiment.resume(tmp_path / "short", more_rounds=1)
    assert fingerprint(tmp_path / "short") == fingerprint(tmp_path / "whole")
    state = run.state
    halves = [own_part(state.carried[client]) for client in state.carried]
    names = personal_names(state.adapter, read_config(None, settings(*changes)).adapter.personal)
    assert all(set(half) == set(names) for half in halves)
    # Every client trained its own part, and no two alike.
    assert not torch.equal(halves[0][names[-1]], halves[1][names[-1]])
    start = build_world(run.config).unmeasured_start().adapter
    assert all(torch.equal(state.adapter[name], start[name]) for name in names)
    assert any(not torch.equal(state.adapter[name], start[name]) for name in start)


class Watched(Codec):
    """Remembers which tensors it was given."""

    def __init__(self, codec: Codec) -> None:
        self.codec, self.seen = codec, set[str]()
        self.takes_any_tensors = True

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        self.seen |= set(change)
        return self.codec.encode(change, plan)

    def decode(self, payload, template, plan):  # type: ignore[no-untyped-def]
        return self.codec.decode(payload, template, plan)

    def payload_bits(self, shapes, plan):  # type: ignore[no-untyped-def]
        return self.codec.payload_bits(shapes, plan)


def test_no_payload_has_a_personal_tensor() -> None:
    world, plain = world_of(B), world_of()
    context, state = world.context, world.unmeasured_start()
    shared = context.method.codec, context.method.downlink
    up, down = (Watched(part.codec) for part in shared if isinstance(part, SharedCodec))
    object.__setattr__(context.method.codec, "codec", up)
    object.__setattr__(context.method.downlink, "codec", down)
    record = run_round(context, state).record
    assert up.seen == down.seen == {n for n in state.adapter if ".lora_A." in n}
    other = start_round(plain.context, state)
    numbers = coordinates({n: x for n, x in context.shapes.items() if ".lora_B." in n})
    whole = other.costs.payload_bits(other.plan.clients[0])
    for entry in record["clients"]:
        assert 32 * numbers <= whole - entry["uplink_bits"] < 32 * numbers + 64
    # Personal tensors are the same in every broadcast, whatever clients made of theirs.
    # Without B the first step moves no A, so the second round is the first that does.
    after = run_round(context, run_round(context, state).state).state
    first, second = (tasks_of(context, s, start_round(context, s)) for s in (state, after))
    decoded = [
        context.method.downlink.decode(tasks[0].broadcast, context.shapes, tasks[0].plan)
        for tasks in (first, second)
    ]
    for name in decoded[0]:
        assert torch.equal(decoded[0][name], decoded[1][name]) == (".lora_B." in name)


def test_a_client_that_is_late_keeps_the_part_it_had() -> None:
    # With equal shares one client is slowest; with min-max all would end together.
    world = world_of(B, "fedlora.bandwidth=equal")
    context, state = world.context, world.unmeasured_start()
    after = run_round(context, state).state
    charged = run_round(context, after).record
    slowest = charged["straggler"]
    times = [e["broadcast_s"] + e["compute_s"] + e["upload_s"] for e in charged["clients"]]
    from dataclasses import replace

    late = replace(context, deadline_s=float(np.sort(times)[-2:].mean()))
    following = run_round(late, after, start_round(context, after)).state
    for client in after.carried:
        before, now = own_part(after.carried[client]), own_part(following.carried[client])
        same = all(torch.equal(before[name], now[name]) for name in before)
        assert same == (client == slowest)


def test_stacked_clients_learn_as_one_by_one() -> None:
    world = world_of(LAST, "method=jcpba")
    state = run_round(world.context, world.unmeasured_start()).state
    tasks = tasks_of(world.context, state, start_round(world.context, state))
    alone = {r.client: r for r in InProcess(world.side).run(tasks)}
    for report in InProcess(world.side, 8).run(tasks):
        other = alone[report.client]
        assert report.train_loss == pytest.approx(other.train_loss, rel=1e-4)
        for name, value in own_part(report.carried).items():
            assert torch.allclose(value, own_part(other.carried)[name], atol=1e-4)


def test_the_mean_of_the_clients_is_what_is_written(tmp_path: Path) -> None:
    run = Experiment.load(None, settings(B, "rounds=1")).run(tmp_path / "run")
    from safetensors.torch import load_file

    written = load_file(run.folder.path / "adapter" / "adapter_model.safetensors")
    halves = [own_part(run.state.carried[client]) for client in run.state.carried]
    weights = build_world(run.config).context.weights
    name = next(name for name in run.state.adapter if ".lora_B." in name)
    mean = sum(w * half[name].double() for w, half in zip(weights, halves, strict=True))
    stored = next(value for key, value in written.items() if key.split("model.")[-1] in name)
    assert stored.shape == mean.shape
    found = [value for value in written.values() if value.shape == mean.shape]
    expected = (mean / weights.sum()).float()
    assert any(torch.allclose(value, expected, atol=1e-6) for value in found)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (("adapter.personal=['*.nothing.*']",), "names a trained tensor"),
        (("adapter.personal=['*']",), "leave some tensors"),
        ((B, "method=sflllm"), "splits the model"),
        ((B, "method=lora_fair"), "whole products"),
        ((B, "method=hetlora"), "left out with"),
        ((B, "method=soft_tsfa", "soft_tsfa.orthogonalise=none"), "sends more"),
        ((B, "pacing.kind=asynchronous"), "pacing.kind: asynchronous"),
    ],
)
def test_what_cannot_be_is_refused(changes: tuple[str, ...], reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        Experiment.load(None, settings(*changes)).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_patterns_nothing_is_wrapped() -> None:
    method = world_of().context.method
    assert not method.keeps_own
    assert type(method.codec).__name__ == "DenseCodec"
