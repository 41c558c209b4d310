"""Runs of every method from an adapter whose matrices differ, and what they leave behind."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from airtune import Experiment, Run
from airtune.errors import InputError
from airtune.experiment.world import build_world
from airtune.tuning.base_model import load_base
from airtune.tuning.evaluate import evaluate

QUICK: dict[str, Any] = {
    "rounds": 2,
    "clients": {"count": 3},
    "training": {"local_steps": 1},
    "threads": 1,
    "data": {"train_limit": 30, "test_limit": 6, "score_rows": 0},
    "engine": "sequential",
    "cell": {"path_loss": "log_distance"},
    "stop": {"virtual_time_s": 1e9},
}
UNEVEN = {
    "r": 4,
    "lora_alpha": 6,
    "use_rslora": True,
    "rank_pattern": {"v_proj": 2},
    "target_modules": ["q_proj", "v_proj", "down_proj"],
    "alpha_pattern": {"layers.0.mlp.down_proj": 3},
}


def write(folder: Path, **options: Any) -> Path:
    """An adapter on the built-in model, B drawn."""
    config = LoraConfig(task_type="CAUSAL_LM", **options)
    model = get_peft_model(load_base("builtin").model, config)
    draws = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=draws))
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("start") / "adapter", **UNEVEN)


def peft_loss(folder: Path, world: Any) -> float:
    model = PeftModel.from_pretrained(load_base("builtin").model, folder)
    return evaluate(model.eval(), list(world.side.test_batches())).loss


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param({}, id="fedlora"),
        pytest.param({"engine": "batched"}, id="batched", marks=pytest.mark.slow),
        *(
            pytest.param({"method": name}, id=name, marks=pytest.mark.slow)
            for name in ("jcpba", "hetlora", "ffa_lora", "sflllm", "centralised")
        ),
    ],
)
def test_a_run_starts_where_peft_is(keys: dict[str, Any], start: Path, tmp_path: Path) -> None:
    run = Experiment(**{**QUICK, "rounds": 1, "adapter": {"start": start}, **keys}).run(
        tmp_path / "run"
    )
    expected = peft_loss(start, build_world(run.config, resolved=True))
    assert run.summary["start_test_loss"] == pytest.approx(expected, rel=1e-5)
    assert run.summary["final_test_loss"] != run.summary["start_test_loss"]
    after = peft_loss(run.folder.adapter, build_world(run.config, resolved=True))
    assert run.summary["final_test_loss"] == pytest.approx(after, rel=1e-5)


@pytest.mark.slow
def test_a_run_does_not_need_the_folder_again(start: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(start, folder)
    experiment = Experiment(**{**QUICK, "rounds": 1, "adapter": {"start": folder}})
    shown = experiment.preview()
    run = experiment.run(tmp_path / "run")
    shutil.rmtree(folder)
    assert Run.open(tmp_path / "run").evaluate()["tuned"]["test_loss"] == pytest.approx(
        run.summary["final_test_loss"], rel=1e-6
    )
    longer = Experiment.resume(tmp_path / "run", more_rounds=1)
    assert len(longer.records) == 2
    assert json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())["r"] == 4
    # What was planned is what was encoded: a flat frame of fp32 numbers and a short header.
    trained = sum(tensor.numel() for tensor in _tensors(start).values())
    assert shown["adapter_parameters"] == trained
    assert shown["uplink_bits"] == longer.records[1]["clients"][0]["uplink_bits"]
    assert 32 * trained < shown["uplink_bits"] < 32 * trained + 1600


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "adapter_model.safetensors"))


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"method": "soft_tsfa"}, "adapter.rank_pattern is not the same for all matrices"),
        (
            {"method": "soft_tsfa", "soft_tsfa": {"rank_search": True}},
            "null where the rank is chosen before round 1: leave out soft_tsfa.rank_search",
        ),
        (
            {"method": "sflllm", "sflllm": {"rounds_table": {4: 60.0}}},
            "null where the rank is chosen before round 1: leave out sflllm.rounds_table",
        ),
        ({"adapter": {"rank": 8}}, "adapter.rank is 8, but it must be 4, as adapter.start was"),
    ],
)
def test_refusals(keys: dict[str, Any], sentence: str, start: Path) -> None:
    adapter = {"start": start, **keys.get("adapter", {})}
    with pytest.raises(InputError, match=sentence):
        Experiment(**{**QUICK, **keys, "adapter": adapter}).preview()


def test_another_model_is_not_charged_for_single_layers(tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter", r=2, target_modules=["q_proj"], layers_to_transform=[0])
    keys = {**QUICK, "adapter": {"start": folder}}
    with pytest.raises(InputError, match=r"charge_as is llama-3.2-1b, .* differs between blocks"):
        Experiment(**keys, charge_as="llama-3.2-1b").preview()
    assert Experiment(**keys).preview()["adapter_parameters"] > 0
