"""flora and fedex_lora end to end on the built-in model: the base changes, and travels."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from airtune import Experiment
from airtune.deploy.server import refuse_undeployable
from airtune.errors import InputError
from airtune.experiment.reading import read_config
from airtune.experiment.world import World, build_world
from airtune.tuning.base_change import changes_of, factors_of, put_changes
from airtune.tuning.evaluate import evaluate
from airtune.validation.options import refuse_experiment
from tests.cli.conftest import quick
from tests.cli.test_run import fingerprint

METHODS = ("flora", "fedex_lora")


def settings(*changes: str) -> list[str]:
    return quick(*changes)[1::2]


@pytest.mark.parametrize(
    "changes",
    [
        ("method=flora", "cohort.size=2", "rounds=3"),
        ("method=flora", "flora.rank_min=1", "clients.devices=[pixel-9,laptop-cpu]"),
        ("method=fedex_lora", "cohort.size=2", "cohort.dropout=0.3", "rounds=3"),
    ],
)
def test_planned_is_charged_and_resumed_to_the_same_bytes(
    changes: tuple[str, ...], tmp_path: Path
) -> None:
    run = Experiment.load(None, settings(*changes)).run(tmp_path / "whole")
    for record in run.records:
        assert record["latency_s"] == pytest.approx(record["planned_latency_s"], rel=1e-9)
    rounds = len(run.records)
    Experiment.load(None, settings(*changes, f"rounds={rounds - 1}")).run(tmp_path / "short")
    Experiment.resume(tmp_path / "short", more_rounds=1)
    assert fingerprint(tmp_path / "short") == fingerprint(tmp_path / "whole")
    assert run.summary["final_test_loss"] < run.summary["start_test_loss"]
    assert any(change.any() for change in changes_of(run.state.adapter).values())


@pytest.mark.parametrize("method", METHODS)
def test_the_written_adapter_is_plain_peft_with_the_recorded_loss(
    method: str, tmp_path: Path
) -> None:
    from peft import PeftModel

    run = Experiment.load(None, settings(f"method={method}")).run(tmp_path / "run")
    world = build_world(run.config)
    recorded = run.records[-1].test_loss
    plain = world.model.unload()  # the base as it is downloaded
    loaded = PeftModel.from_pretrained(plain, run.folder.adapter)
    batches = list(world.side.test_batches())
    loss = evaluate(loaded.eval(), batches).loss
    assert loss == pytest.approx(recorded, rel=2e-6)
    assert loss != pytest.approx(run.summary["start_test_loss"], rel=1e-3)
    written = json.loads((run.folder.adapter / "adapter_config.json").read_text())
    assert max(written["rank_pattern"].values()) > run.config.adapter.rank


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_merged_export_has_the_recorded_loss(method: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    run = Experiment.load(None, settings(f"method={method}")).run(tmp_path / "run")
    batches = list(run.world.side.test_batches())
    run.export(tmp_path / "merged", merge=True)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert evaluate(loaded, batches).loss == pytest.approx(run.records[-1].test_loss, rel=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_worker_processes_give_the_same_bytes(method: str, tmp_path: Path) -> None:
    for engine in ("sequential", "workers"):
        changes = [f"method={method}", f"engine={engine}"]
        changes += ["workers=2"] if engine == "workers" else []
        Experiment.load(None, settings(*changes)).run(tmp_path / engine)
    assert (tmp_path / "sequential" / "rounds.jsonl").read_bytes() == (
        tmp_path / "workers" / "rounds.jsonl"
    ).read_bytes()


def test_a_stack_of_clients_trains_on_the_changed_base(tmp_path: Path) -> None:
    losses = {}
    for engine in ("sequential", "batched"):
        changes = settings("method=flora", f"engine={engine}")
        run = Experiment.load(None, changes).run(tmp_path / engine)
        losses[engine] = [record.test_loss for record in run.records]
    assert losses["batched"] == pytest.approx(losses["sequential"], rel=1e-4)


def world_of(*changes: str) -> World:
    return build_world(read_config(None, settings(*changes)))


def test_the_bits_are_those_of_factors_and_stacks() -> None:
    """Round 1 of flora broadcasts nothing but a heading; every client's factors come up whole."""
    run: dict[str, Any] = {}
    for method in (*METHODS, "fedlora"):
        world = world_of(f"method={method}")
        costs = world.context.costs.in_round(0).to_cohort({}, [0, 1, 2])
        plan = world.context.costs.in_round(0)
        run[method] = costs, plan
    whole = run["fedlora"][0]
    from airtune.round_plan import ClientPlan

    client = ClientPlan(0, 1e6, 0.1, 2)
    assert run["flora"][0].downlink_bits(client) < 1000
    extra = run["fedex_lora"][0].downlink_bits(client) - whole.downlink_bits(client)
    assert 0 <= extra < 1000
    for method in METHODS:
        assert run[method][0].payload_bits(client) == whole.payload_bits(client)
        assert run[method][0].compute_flops(client) == whole.compute_flops(client)
        # As predicted without a state, clients merge what a usual round brings.
        assert run[method][1].compute_flops(client) > whole.compute_flops(client)


def test_the_base_goes_back_to_what_it_was() -> None:
    world = world_of("method=fedex_lora")
    before = {name: tensor.clone() for name, tensor in world.model.state_dict().items()}
    changes = {n: torch.ones_like(x) for n, x in changes_of(world.untrained).items()}
    put_changes(world.model, changes)
    layer = next(iter(changes)).removesuffix(".base_change")
    weight = world.model.get_submodule(layer).base_layer.weight
    scale = world.model.get_submodule(layer).scaling["default"]
    assert torch.equal(weight, before[f"{layer}.base_layer.weight"] + scale)
    put_changes(world.model, changes_of(world.untrained))
    after = world.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert factors_of(world.untrained).keys() == world.side.shapes.keys()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("adapter.kind=full", "adapter.kind is full"),
        ("dtype=bf16", "dtype is bf16"),
        ("server.optimizer=adam", "server.optimizer is adam"),
        ("aggregator=factor-mean", "one that merges into the base"),
        ("aggregator=svd-gauge", "one that merges into the base"),
    ],
)
def test_refused_by_name(method: str, change: str, words: str, tmp_path: Path) -> None:
    changes = [f"method={method}", change]
    with pytest.raises(InputError, match=words):
        Experiment.load(None, settings(*changes)).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", METHODS)
def test_real_clients_are_refused_by_name(method: str) -> None:
    config = read_config(None, [f"method={method}"])
    for refuse in (refuse_undeployable, refuse_experiment):
        with pytest.raises(InputError, match=f"method is {method}"):
            refuse(config)


def test_flora_refuses_what_only_it_cannot_use(tmp_path: Path) -> None:
    for change, words in (
        (f"adapter.start={tmp_path}", "adapter.start"),
        ("flora.rank_min=9", "flora.rank_min is 9"),
    ):
        with pytest.raises(InputError, match=words):
            Experiment.load(None, settings("method=flora", change)).run(tmp_path / "run")
