"""Models from folders: whole ones load, others are refused in a sentence, and none runs code."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from airtune import Experiment
from airtune.errors import InputError
from airtune.experiment.world import build_world
from airtune.tuning.base_model import load_base, model_location

CODE = """
from pathlib import Path
from transformers import LlamaForCausalLM
Path(__file__).with_name("ran").touch()
class Own(LlamaForCausalLM):
    pass
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the built-in model."""
    return Path(shutil.copytree(model_location("builtin"), tmp_path / "model"))


def change(folder: Path, file: str = "config.json", **changes: Any) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(
    folder: Path, added: Mapping[str, torch.Tensor] = MappingProxyType({}), drop: str | None = None
) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if name != drop}
    save_file({**tensors, **added}, path, {"format": "pt"})


def test_a_whole_folder_loads(folder: Path) -> None:
    base = load_base(str(folder))
    assert base.name == str(folder.resolve())
    assert load_base("builtin").name == "builtin"


def test_weights_that_are_not_the_models(folder: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    change_weights(folder, drop=name)
    with pytest.raises(InputError, match=rf"model is .*, {name} is missing"):
        load_base(str(folder))
    change_weights(folder, {name: torch.zeros(3, 3)})
    with pytest.raises(InputError, match=rf"of its weights, {name} has another shape\.$"):
        load_base(str(folder))
    shape = load_file(Path(model_location("builtin")) / "model.safetensors")[name].shape
    change_weights(folder, {name: torch.zeros(shape), "score.weight": torch.zeros(2, 2)})
    with pytest.raises(InputError, match=r"score.weight belongs to another kind of model"):
        load_base(str(folder))


def test_pickles_are_not_read(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    load_base(str(folder))  # the safetensors are there as well
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"pytorch_model.bin\).* a pickle may run code and is"):
        load_base(str(folder))


@pytest.mark.parametrize("damaged", ["model.safetensors", "tokenizer.json", "config.json"])
def test_damaged_files(folder: Path, damaged: str) -> None:
    (folder / damaged).write_bytes(b"{ not what it was")
    with pytest.raises(InputError) as told:
        load_base(str(folder))
    assert "\n" not in str(told.value)


def test_a_models_own_code_runs_only_where_it_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "own_code.py").write_text(CODE)
    change(folder, auto_map={"AutoModelForCausalLM": "own_code.Own"})
    # An answer is waiting, should anybody ask.
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(InputError, match=r"config.auto_map is .*set trust_remote_code=true"):
        load_base(str(folder))
    with pytest.raises(InputError, match=r"config.auto_map"):
        Experiment(model=folder).preview()
    assert not list(folder.glob("ran"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(folder / "modules"))
    assert type(load_base(str(folder), trust_remote_code=True).model).__name__ == "Own"


def test_a_tokenizers_own_code_does_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "own_code.py").write_text(CODE)
    change(
        folder,
        "tokenizer_config.json",
        tokenizer_class="Own",
        auto_map={"AutoTokenizer": ["own_code.Own", None]},
    )
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(InputError, match=r"auto_map in tokenizer_config.*trust_remote_code=true"):
        load_base(str(folder))
    assert not list(folder.glob("ran"))


def test_a_folder_without_a_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match=r"a folder that AutoTokenizer loads"):
        load_base(str(folder))


def test_values_of_a_config_that_are_no_numbers(folder: Path) -> None:
    change(folder, hidden_size="64")
    with pytest.raises(InputError, match=r'config\.hidden_size is "64", but it must be a positive'):
        load_base(str(folder))
    change(folder, rms_norm_eps=float("nan"))
    with pytest.raises(InputError, match=r"config.json is not JSON \(NaN is no number\)"):
        load_base(str(folder))


def test_a_run_folder_does_not_run_code_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRTUNE_TRUST_REMOTE_CODE", raising=False)
    config = Experiment(trust_remote_code=True).config
    with pytest.raises(InputError, match="set AIRTUNE_TRUST_REMOTE_CODE=1 in the environment"):
        build_world(config, resolved=True)
