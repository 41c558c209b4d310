"""A whole run on a pretended GPU: the counts of the processor, and losses up to rounding."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from airtune import Experiment
from airtune.experiment import engine, gpu_memory
from airtune.experiment.run import Run
from airtune.tuning import base_model
from airtune.tuning.base_model import model_location
from tests.cli.conftest import QUICK
from tests.pretend_gpu import PretendGpu, on_gpu

METHODS = ("jcpba", "soft_tsfa", "sflllm", "fedlora", "ffa_lora", "hetlora", "centralised")


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    to = torch.nn.Module.to

    def moved(self: torch.nn.Module, *arguments: Any, **options: Any) -> torch.nn.Module:
        goes = any("cuda" in str(value) for value in (*arguments, *options.values()))
        return on_gpu(self) if goes else to(self, *arguments, **options)

    # Loaded before: `from_pretrained` makes tensors on `meta`, which would be taken for the GPU's.
    builtin = AutoModelForCausalLM.from_pretrained(model_location("builtin"), dtype=torch.float32)

    def loaded(*_: Any, **__: Any) -> Any:
        return copy.deepcopy(builtin), {}  # as with `output_loading_info`

    monkeypatch.setattr(torch.nn.Module, "to", moved)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", loaded)
    for module in (engine, base_model):
        monkeypatch.setattr(module, "resolve_device", lambda asked: asked)
    monkeypatch.setattr(gpu_memory, "free_gpu_bytes", lambda: 1e12)


def run_of(folder: Path, method: str, *changes: str) -> Run:
    settings = [entry for entry in QUICK if not entry.startswith("engine=")]
    changes = (*settings, "data.score_rows=0", f"method={method}", "engine=batched", *changes)
    return Experiment.load(None, list(changes)).run(folder)


@pytest.mark.parametrize(
    "method",
    [name if name == "jcpba" else pytest.param(name, marks=pytest.mark.slow) for name in METHODS],
)
def test_whole_run(method: str, pretended: None, tmp_path: Path) -> None:
    """The GPU's path takes other kernels in other orders, so learning is compared over the first
    round, in steps of SGD; what the second one then plans may follow the last bits of the first.
    """
    # The lot that draws ranks falls by the update's last bit.
    sgd: tuple[str, ...] = ("training.optimizer=sgd", "training.learning_rate=0.1")
    if method == "soft_tsfa":
        sgd = ("soft_tsfa.choice=largest", *sgd)
    here = run_of(tmp_path / "cpu", method, *sgd, "device=cpu", "rounds=1")
    with PretendGpu():
        there = run_of(tmp_path / "gpu", method, *sgd, "device=cuda")
        written = there.generate(count=1, max_new_tokens=4)
        measured = there.evaluate()
    assert there.config.device == "cuda"
    one, other = there.records[0], here.records[0]
    assert other["test_loss"] < here.summary["start_test_loss"] - 1e-3
    for key in ("train_loss", "test_loss"):
        assert one[key] == pytest.approx(other[key], abs=1e-5)
    for key in ("virtual_time_s", "uplink_bits", "downlink_bits"):
        assert one[key] == other[key]
    assert there.records[1]["test_loss"] < one["test_loss"]
    assert measured["tuned"]["test_loss"] == pytest.approx(there.records[-1]["test_loss"], rel=1e-6)
    assert written[0]["after"]
