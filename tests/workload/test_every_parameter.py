"""Full tuning against torch: parameters, operations, kept activations and peak memory."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from airtune.errors import InputError
from airtune.workload.adapter_shape import AdapterShape, EveryParameter, adapter_parameters
from airtune.workload.architecture import load_architecture
from airtune.workload.payload import flat_update_bits, update_bits
from airtune.workload.precision import Precision
from airtune.workload.step import Attention, Step
from airtune.workload.transformer import split_workload, workload
from tests.workload.small_models import (
    CONFIGS,
    COUNTED_EXPERTS,
    DEFAULT_EXPERTS,
    architecture,
    base_model,
    batch,
)
from tests.workload.test_step_memory import LiveBytes, saved_bytes

WHOLE = EveryParameter()


def trained_model(name: str, attention: str = "eager", experts: str = COUNTED_EXPERTS) -> Any:
    """A fresh copy of the model of which every parameter is trained."""
    return deepcopy(base_model(name, attention, experts=experts)).requires_grad_(True)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_once(name: str) -> None:
    model = architecture(name)
    # torch lists a tied matrix once.
    real = sum(parameter.numel() for parameter in base_model(name).parameters())
    counted = workload(model, WHOLE, Step(1, 8))
    assert counted.adapter_parameters == counted.parameters == model.parameters == real
    assert adapter_parameters(model, WHOLE) == real
    assert update_bits(model, WHOLE, "bf16") == flat_update_bits(real, "bf16")


@pytest.mark.parametrize("logits", [None, 7])
@pytest.mark.parametrize("name", CONFIGS)
def test_operations_equal_torch(name: str, logits: int | None) -> None:
    step = Step(batch_size=3, tokens=20, logit_positions=logits)
    model, ids = trained_model(name), batch(name, step)
    with FlopCounterMode(display=False) as forward:
        answer = model(input_ids=ids, use_cache=False, logits_to_keep=logits or 0).logits
    with FlopCounterMode(display=False) as backward:
        answer.float().logsumexp(-1).sum().backward()
    counted = workload(architecture(name), WHOLE, step)
    assert counted.forward_flops == forward.get_total_flops()
    assert counted.backward_flops == backward.get_total_flops()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CONFIGS)
def test_kept_activations(name: str, attention: Attention) -> None:
    step = Step(batch_size=3, tokens=40)
    counted = workload(architecture(name), WHOLE, step, precision=Precision(attention=attention))
    log_probabilities = 4 * step.logit_rows * architecture(name).vocab_size
    predicted = sum(part.stored_bytes for part in counted.parts) + log_probabilities
    real = saved_bytes(trained_model(name, attention, DEFAULT_EXPERTS), batch(name, step))
    # What is missing: token ids, cosines and sines of rotary positions, and Gemma's 1 + weight.
    assert 0.98 * real < predicted <= real


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma"])
def test_peak(name: str, optimizer: str) -> None:
    """Two steps as `tuning.local` makes them: the old gradients go when the new ones come."""
    step = Step(batch_size=8, tokens=64)
    model, ids = trained_model(name, "sdpa"), batch(name, step)
    kind = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer]
    steps: Any = kind(model.parameters(), lr=1e-3)
    with LiveBytes() as memory:
        for tensor in [*model.parameters(), *model.buffers()]:
            memory.track(tensor)
        for _ in range(2):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            steps.zero_grad()
            loss.backward()
            steps.step()
    counted = workload(architecture(name), WHOLE, step, precision=Precision(optimizer=optimizer))
    assert counted.memory_bytes == pytest.approx(memory.peak, rel=0.05)


def test_three_forward_passes_and_sixteen_bytes() -> None:
    """The rules of thumb: backward is twice forward, AdamW holds 16 bytes a parameter."""
    model = load_architecture("llama-3.1-8b")
    counted, lora = (workload(model, what, Step(1, 128)) for what in (WHOLE, AdapterShape(8)))
    assert counted.backward_flops == pytest.approx(2 * counted.forward_flops, rel=1e-3)
    assert 1.4 < counted.flops / lora.flops < 1.5
    held = sum(part.memory_bytes - part.stored_bytes for part in counted.parts)
    assert held == 16 * 8_030_261_248


def test_refusals() -> None:
    model = architecture("llama")
    with pytest.raises(InputError, match=r"pruning_rate is 0\.5, but it must be 0 where every"):
        workload(model, WHOLE, Step(1, 8), 0.5)
    with pytest.raises(InputError, match="dtype is bf16, but it must be fp32 where every"):
        workload(model, WHOLE, Step(1, 8), precision=Precision("bf16"))
    with pytest.raises(InputError, match="split_point is 1, but it must be left out where every"):
        split_workload(model, WHOLE, Step(1, 8), 1)
