"""One copy of the frozen weights, however many models use it."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from airtune.tuning.adapter import AdapterSettings, attach, read_state
from airtune.tuning.base_model import BaseModel, map_weights, share_weights
from tests.models import small_model

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux only")


def adapted(family: str, seed: int = 0) -> Any:
    base = small_model(family, seed).to(torch.bfloat16)
    return attach(BaseModel(base, None, "random"), AdapterSettings(rank=2))


def is_shared(tensor: Tensor) -> bool:
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(end, 16) for end in line.split()[0].split("-"))
        if low <= tensor.data_ptr() < high:
            return "memfd:airtune-weights" in line
    return False


@pytest.mark.parametrize("family", ["gpt2", "llama", "phi", "qwen3_moe"])
def test_both_models_use_the_one_copy(family: str) -> None:
    model, other = adapted(family), adapted(family)
    before = {name: p.clone() for name, p in model.named_parameters()}
    tokens = torch.arange(3, 12)[None]
    expected = model(input_ids=tokens).logits
    weights = share_weights(model)
    assert weights is not None
    map_weights(other, weights.path)
    for one in (model, other):
        for name, parameter in one.named_parameters():
            # LoRA's A is each model's own, as peft drew it.
            assert parameter.requires_grad or torch.equal(parameter, before[name])
            assert is_shared(parameter) != parameter.requires_grad
            assert parameter.requires_grad or parameter.data_ptr() % 64 == 0
        assert torch.equal(one(input_ids=tokens).logits, expected)
    # The memory stays while somebody uses it; a stray write stays with who made it.
    del weights
    with torch.no_grad():
        next(p for p in other.parameters() if not p.requires_grad).add_(1.0)
    assert torch.equal(model(input_ids=tokens).logits, expected)
    assert list(read_state(model)) == list(read_state(other))


def test_weights_of_another_model_are_refused() -> None:
    weights = share_weights(adapted("llama"))
    assert weights is not None
    with pytest.raises(ValueError, match="another model"):
        map_weights(adapted("llama", seed=1), weights.path)
