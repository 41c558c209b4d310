"""Families without a closed form, from a folder to an adapter that plain PEFT loads."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertLMHeadModel

from airtune import Experiment
from airtune.errors import InputError
from airtune.experiment.reading import read_config
from airtune.experiment.world import build_world
from airtune.tuning.adapter import AdapterSettings, attach
from airtune.tuning.base_model import BaseModel, load_base, model_location
from airtune.tuning.decoder_check import mixes_rows, refuse_lookahead
from airtune.tuning.evaluate import evaluate
from airtune.tuning.stacked_linear import refuses_stacking
from tests.workload.other_models import CONFIGS, config_of

_QUICK = {"mixtral"}
FAMILIES = [
    pytest.param(name, marks=[] if name in _QUICK else pytest.mark.slow) for name in CONFIGS
]


def folder_of(name: str, place: Path) -> Path:
    """A model folder as users have them: random weights, a tokenizer of the same vocabulary."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config_of(name)).save_pretrained(place)
    AutoTokenizer.from_pretrained(model_location("builtin")).save_pretrained(place)
    return place


def experiment(folder: Path, **changes: Any) -> Experiment:
    keys: dict[str, Any] = {
        "rounds": 2,
        "clients": {"count": 3},
        "training": {"local_steps": 2, "learning_rate": 0.01},
        "data": {"max_tokens": 128, "score_rows": 0},
        "engine": "sequential",
        "threads": 1,
        "cell": {"path_loss": "log_distance"},
        **changes,
    }
    targets = {"target_modules": ["in_proj", "x_proj"]} if folder.name == "mamba" else {}
    return Experiment(model=folder, **{"adapter": targets, **keys})


def losses(folder: Path) -> list[float]:
    lines = (folder / "rounds.jsonl").read_text().splitlines()
    return [json.loads(line)["test_loss"] for line in lines]


@pytest.mark.parametrize("name", FAMILIES)
def test_training_and_the_adapter_in_plain_peft(name: str, tmp_path: Path) -> None:
    folder = folder_of(name, tmp_path / name)
    experiment(folder).run(tmp_path / "one")
    experiment(folder, engine="batched").run(tmp_path / "stacked")
    apart, together = losses(tmp_path / "one"), losses(tmp_path / "stacked")
    assert together == pytest.approx(apart, abs=2e-4)
    base = AutoModelForCausalLM.from_pretrained(folder)
    tuned = PeftModel.from_pretrained(base, tmp_path / "one" / "adapter").eval()
    world = build_world(read_config(tmp_path / "one" / "experiment.yaml"))
    assert evaluate(tuned, world.tests.batches()).loss == pytest.approx(apart[-1], abs=1e-5)
    assert apart[-1] < apart[0]


@pytest.mark.parametrize(("method", "word"), [("jcpba", "pruned"), ("sflllm", "split")])
def test_methods_that_cannot_be_are_refused_before_anything_is_written(
    method: str, word: str, tmp_path: Path
) -> None:
    folder = folder_of("olmo", tmp_path / "olmo")
    with pytest.raises(InputError, match=f"of the family olmo, .* where the model is {word}"):
        experiment(folder, method=method).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_matrices_that_peft_refuses(tmp_path: Path) -> None:
    folder = folder_of("mamba", tmp_path / "other")
    adapter = {"target_modules": ["out_proj"]}
    with pytest.raises(InputError, match=r"adapter\.target_modules is .*out_proj.*PEFT says"):
        experiment(folder, adapter=adapter).run(tmp_path / "run")


def test_names_that_peft_takes_for_experts(tmp_path: Path) -> None:
    """Qwen3-MoE with a dense block: its down_proj is a linear layer, and a name of the experts."""
    from transformers import AutoConfig

    sizes = {**CONFIGS["olmoe"], "head_dim": 12, "moe_intermediate_size": 40}
    config = AutoConfig.for_model("qwen3_moe", mlp_only_layers=[1], **sizes)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "uneven")
    AutoTokenizer.from_pretrained(model_location("builtin")).save_pretrained(tmp_path / "uneven")
    adapter = {"target_modules": ["q_proj", "down_proj"]}
    with pytest.raises(InputError, match=r"target_modules is down_proj, .*among"):
        experiment(tmp_path / "uneven", adapter=adapter).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_that_looks_ahead_is_refused(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {
        "vocab_size": 2048,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 80,
    }
    torch.manual_seed(0)
    BertLMHeadModel(BertConfig(**sizes)).save_pretrained(tmp_path / "both")
    BertLMHeadModel(BertConfig(is_decoder=True, **sizes)).save_pretrained(tmp_path / "one")
    for folder in ("both", "one"):
        AutoTokenizer.from_pretrained(model_location("builtin")).save_pretrained(tmp_path / folder)
    with pytest.raises(InputError, match="this one looks ahead"):
        load_base(str(tmp_path / "both"))
    assert load_base(str(tmp_path / "one")).embeddings == 2048


class Sorted(torch.nn.Module):
    """Reads its rows in the order of a feature, as experts read the tokens routed to them."""

    def __init__(self, inside: torch.nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        order = flat[:, 0].argsort()
        answer: torch.Tensor = self.inside(flat[order])
        back: torch.Tensor = answer[order.argsort()]
        return back.view(*x.shape[:-1], -1)


def test_a_model_that_mixes_rows_is_not_stacked() -> None:
    torch.manual_seed(0)
    causal = AutoModelForCausalLM.from_config(config_of("olmo")).eval().requires_grad_(False)
    model = attach(BaseModel(causal, None, "olmo"), AdapterSettings(rank=2))
    assert refuses_stacking(model) == ""
    block = causal.model.layers[1].self_attn
    block.q_proj = Sorted(block.q_proj)
    assert "q_proj.inside does not read the rows of a batch one after another" in (
        refuses_stacking(model)
    )
    layers = {"q": block.q_proj.inside, "k": block.k_proj}
    assert mixes_rows(causal, layers) == "q"
    refuse_lookahead("olmo", causal)
