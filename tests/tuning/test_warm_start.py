"""A warm start computes what PEFT computes from the same folder, or is refused by field."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from airtune.config.experiment import ExperimentConfig
from airtune.errors import InputError
from airtune.experiment.trained import lora_settings, lora_shape, with_start
from airtune.section import check
from airtune.tuning.adapter import attach, load_state, read_adapter, save_adapter
from airtune.tuning.base_model import BaseModel
from airtune.tuning.warm_start import read_start
from airtune.workload.adapter_shape import adapter_tensors
from airtune.workload.architecture import Architecture
from tests.tuning.warm_starts import base_model, change_config, peft_logits, write_adapter

TOKENS = torch.arange(2, 26).reshape(2, 12)
HONOURED: dict[str, dict[str, Any]] = {
    "alpha/r 1": {"r": 4, "lora_alpha": 4, "target_modules": "all-linear"},
    "alpha/r 4": {"r": 4, "lora_alpha": 16, "target_modules": "all-linear"},
    "alpha/r 8": {"r": 2, "lora_alpha": 16, "target_modules": ["q_proj", "down_proj"]},
    "alpha/r odd": {"r": 3, "lora_alpha": 7, "target_modules": ["up_proj"]},
    "rslora": {"r": 4, "lora_alpha": 6, "use_rslora": True, "target_modules": "all-linear"},
    "rank pattern": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear",
                     "rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 6}},
    "alpha pattern": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear",
                      "alpha_pattern": {"v_proj": 3, r"layers\.[02]\..*proj": 20}},
    "rslora with patterns": {"r": 4, "lora_alpha": 8, "use_rslora": True,
                             "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 9},
                             "alpha_pattern": {"layers.0.self_attn.v_proj": 1}},
    "layers": {"r": 2, "target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0, 2]},
    "one layer": {"r": 2, "target_modules": ["q_proj"], "layers_to_transform": 1,
                  "layers_pattern": "layers"},
    "regex": {"r": 2, "target_modules": r".*layers\.(0|1)\.self_attn\.(q|o)_proj"},
    "excluded": {"r": 2, "target_modules": ["q_proj", "v_proj"],
                 "exclude_modules": ["layers.1.self_attn.q_proj"]},
    "q/v only": {"r": 4, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"]},
    "bf16": {"r": 4, "lora_alpha": 4, "target_modules": "all-linear", "dtype": torch.bfloat16},
    "dropout": {"r": 4, "target_modules": ["q_proj"], "lora_dropout": 0.5},
    "gaussian": {"r": 4, "target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
    "gpt2": {"family": "gpt2", "r": 4, "lora_alpha": 4, "target_modules": ["c_attn", "mlp.c_proj"],
             "fan_in_fan_out": True},
}  # fmt: skip


def started(folder: Path, family: str = "llama", **keys: Any) -> tuple[ExperimentConfig, Any]:
    """The settled experiment, and the model as a run would start it."""
    causal = base_model(family)
    architecture = Architecture.from_config(causal.config.to_dict())
    asked = check(ExperimentConfig, {"adapter": {"start": str(folder), **keys}})
    config = with_start(asked, architecture)
    model = attach(BaseModel(causal, None, "somewhere"), lora_settings(config.adapter))
    state = read_adapter(folder)
    load_state(model, state)
    # What is charged are the tensors of this very adapter.
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert adapter_tensors(architecture, lora_shape(config.adapter)) == shapes
    return config, model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = model(TOKENS).logits
        return output


@pytest.mark.parametrize("kind", HONOURED)
def test_the_start_is_pefts(kind: str, tmp_path: Path) -> None:
    options = dict(HONOURED[kind])
    folder, family = write_adapter(tmp_path / "a", **options), options.get("family", "llama")
    expected = peft_logits(folder, TOKENS, family)
    plain = base_model(family)(TOKENS).logits
    assert (expected - plain).abs().max() > 0.01, "the adapter changes nothing"
    config, model = started(folder, family)
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    # Out again as a standard folder, and in as the start of another run.
    save_adapter(model, read_adapter(folder), tmp_path / "b")
    torch.testing.assert_close(
        peft_logits(tmp_path / "b", TOKENS, family), expected, rtol=1e-5, atol=1e-5
    )
    assert (tmp_path / "b" / "adapter_config.json").read_text().count(str(tmp_path)) == 0
    again, _ = started(tmp_path / "b", family)
    assert again.adapter.model_copy(update={"start": None}) == config.adapter.model_copy(
        update={"start": None}
    )
    # The settled keys, as a file has them, ask for the very same adapter.
    asked = config.adapter.model_dump()
    assert check(ExperimentConfig, {"adapter": asked}) == config
    assert with_start(config, Architecture.from_config(base_model(family).config.to_dict())) == (
        config
    )


def test_what_is_settled_reads_well(tmp_path: Path) -> None:
    config, _ = started(write_adapter(tmp_path / "a", **HONOURED["q/v only"]))
    assert config.adapter.target_modules == ["q_proj", "v_proj"]
    assert (config.adapter.rank, config.adapter.alpha) == (4, 32)
    config, _ = started(write_adapter(tmp_path / "b", **HONOURED["rank pattern"]))
    assert config.adapter.target_modules == "all-linear"
    assert config.adapter.rank_pattern["model.layers.1.mlp.down_proj"] == 6


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"rank": 8}, r"adapter.rank is 8, but it must be 4, as adapter.start was made: set"),
        ({"alpha": 8}, r"adapter.alpha is 8.0, but it must be 32.0, as adapter.start was made"),
        (
            {"target_modules": "all-linear"},
            r"adapter.target_modules is all-linear, but it must be "
            r"\['q_proj', 'v_proj'\], as adapter.start was made: .* or leave it out",
        ),
        ({"rank_pattern": {"q_proj": 2}}, r"adapter.rank_pattern is {'q_proj': 2}, but .* {}, as"),
        ({"alpha_pattern": {"q_proj": 2}}, r"adapter.alpha_pattern is {'q_proj': 2.0}, but"),
    ],
)
def test_keys_that_ask_for_another_adapter(
    keys: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path, **HONOURED["q/v only"])
    with pytest.raises(InputError, match=sentence):
        started(folder, **keys)
    # The same keys with the file's own values, in other words, are welcome.
    started(folder, rank=4, alpha=32, target_modules=["self_attn.v_proj", "q_proj"])


@pytest.mark.parametrize(
    ("options", "field", "remedy"),
    [
        ({"use_dora": True}, "use_dora", "merge_and_unload"),
        ({"bias": "lora_only"}, "bias", "its biases were trained"),
        ({"bias": "all"}, "bias", "its biases were trained"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save", "merge_and_unload"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices", "merge_and_unload"),
        ({"lora_bias": True}, "lora_bias", "merge_and_unload"),
        ({"init_lora_weights": "olora"}, "init_lora_weights", "path_initial_model"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights", "path_initial_model"),
    ],
)
def test_what_airtune_does_not_do(
    options: dict[str, Any], field: str, remedy: str, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path, r=2, target_modules=["q_proj", "down_proj"], **options)
    with pytest.raises(InputError, match=rf"{field} in .*adapter_config.json .*{remedy}"):
        started(folder)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"task_type": "SEQ_CLS"}, "task_type in .* its base has another head"),
        ({"peft_type": "IA3"}, "peft_type in .* choose a LoRA adapter"),
        ({"init_lora_weights": "corda"}, "init_lora_weights in .* its first draw changed the base"),
        ({"layer_replication": [[0, 2]]}, "layer_replication in .* airtune does not do that"),
        ({"target_parameters": ["mlp.experts"]}, "target_parameters in .* does not do that"),
        ({"megatron_config": {"a": 1}}, "megatron_config in .* does not do that"),
        ({"a_new_invention": 0.5}, "a_new_invention in .*is 0.5, but .* does not do that"),
        ({"r": 3}, r"r in .* is 3, but it must be 2, as the tensors of model.layers.0.self_attn"),
        ({"rank_pattern": {"v_proj": 5}}, "rank_pattern.v_proj in .* is 5, but it must be 2"),
        ({"lora_alpha": "x"}, "lora_alpha in .* must be a number"),
        ({"lora_alpha": 0}, "lora_alpha in .* must be a positive number"),
        ({"target_modules": ["q_proj"]}, "it leaves out model.layers.0.self_attn.v_proj, of which"),
        ({"target_modules": "all-linear"}, "selects model.layers.0.self_attn.k_proj, of which"),
        ({"layers_to_transform": [0]}, "target_modules in .* leaves out model.layers.1.self_attn"),
        ({"target_modules": "(q_proj"}, "adapter.start is .*PEFT understands"),
        ({"rank_pattern": {"(": 1}}, "adapter.start is .*rank_pattern PEFT understands"),
    ],
)
def test_configs_that_do_not_fit(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path, r=2, target_modules=["q_proj", "v_proj"])
    change_config(folder, **changes)
    with pytest.raises(InputError, match=sentence):
        started(folder)


def test_folders_that_are_no_adapter(tmp_path: Path) -> None:
    architecture = Architecture.from_config(base_model().config.to_dict())
    with pytest.raises(InputError, match=r"adapter_config.json"):
        read_start(tmp_path, architecture)
    folder = write_adapter(tmp_path / "a", r=2, target_modules=["q_proj", "lm_head"])
    with pytest.raises(InputError, match=r"with an adapter on lm_head"):
        read_start(folder, architecture)
    (folder / "adapter_config.json").write_text("[")
    with pytest.raises(InputError, match=r"must be a JSON object: JSONDecodeError"):
        read_start(folder, architecture)
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(InputError, match=r"must be a JSON object of PEFT's keys"):
        read_start(folder, architecture)
    folder = write_adapter(tmp_path / "b", r=2, target_modules=["q_proj"])
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(InputError, match=r"adapter_model.bin is a pickle, which may run code"):
        read_start(folder, architecture)


def test_the_builtin_base_is_no_place_on_this_machine(tmp_path: Path) -> None:
    from airtune import Experiment

    run = Experiment(
        rounds=1,
        clients={"count": 1},
        training={"local_steps": 1},
        threads=1,
        data={"train_limit": 10, "test_limit": 2, "score_rows": 0},
        engine="sequential",
        cell={"path_loss": "log_distance"},
        adapter={
            "rank": 1,
            "target_modules": ["q_proj"],
            "rank_pattern": {"layers.0.self_attn.q_proj": 2},
        },
    ).run(tmp_path / "run")
    config = json.loads((run.folder.adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "builtin"
    assert config["rank_pattern"] == {"layers.0.self_attn.q_proj": 2}
