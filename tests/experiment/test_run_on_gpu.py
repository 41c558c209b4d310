"""A whole run on a pretended GPU: the counts of the processor, and losses up to rounding."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from airtune import Experiment
from airtune.experiment import engine_choice
from airtune.experiment.run import Run
from airtune.tuning import base_model
from airtune.tuning.base_model import model_location
from tests.cli.conftest import QUICK
from tests.pretend_gpu import PretendGpu, on_gpu

METHODS = ("fedlora", "jcpba", "soft_tsfa", "sflllm", "ffa_lora", "hetlora", "centralised")


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    to = torch.nn.Module.to

    def moved(self: torch.nn.Module, *arguments: Any, **options: Any) -> torch.nn.Module:
        goes = any("cuda" in str(value) for value in (*arguments, *options.values()))
        return on_gpu(self) if goes else to(self, *arguments, **options)

    # Loaded before: `from_pretrained` makes tensors on `meta`, which would be taken for the GPU's.
    builtin = AutoModelForCausalLM.from_pretrained(model_location("builtin"), dtype=torch.float32)

    def loaded(*_: Any, **__: Any) -> Any:
        return copy.deepcopy(builtin)

    monkeypatch.setattr(torch.nn.Module, "to", moved)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", loaded)
    for module in (engine_choice, base_model):
        monkeypatch.setattr(module, "resolve_device", lambda asked: asked)


def run_of(folder: Path, method: str, *changes: str) -> Run:
    settings = [entry for entry in QUICK if not entry.startswith("engine=")]
    changes = (*settings, "data.score_rows=0", f"method={method}", "engine=batched", *changes)
    return Experiment.load(None, list(changes)).run(folder)


@pytest.mark.parametrize("method", METHODS)
def test_whole_run(method: str, pretended: None, tmp_path: Path) -> None:
    # The lot that draws ranks falls by the update's last bit.
    largest = "soft_tsfa.choice=largest"
    here = run_of(tmp_path / "cpu", method, largest, "device=cpu")
    with PretendGpu():
        there = run_of(tmp_path / "gpu", method, largest, "device=cuda")
        written = there.generate(count=1, max_new_tokens=4)
        measured = there.evaluate()
    assert there.config.device == "cuda"
    for one, other in zip(there.records, here.records, strict=True):
        assert one["test_loss"] == pytest.approx(other["test_loss"], rel=1e-4)
        assert one["virtual_time_s"] == pytest.approx(other["virtual_time_s"], rel=1e-3)
        assert one["uplink_bits"] == other["uplink_bits"]
        assert one["downlink_bits"] == other["downlink_bits"]
    assert measured["tuned"]["test_loss"] == pytest.approx(there.records[-1]["test_loss"], rel=1e-6)
    assert written[0]["after"] == here.generate(count=1, max_new_tokens=4)[0]["after"]
