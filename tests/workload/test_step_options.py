"""Checkpointed blocks and micro-batches as they are counted, against torch."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from airtune.errors import InputError
from airtune.tuning.adapter import AdapterSettings, attach
from airtune.tuning.base_model import BaseModel
from airtune.tuning.blocks import checkpointed_blocks
from airtune.workload.adapter_shape import AdapterShape, EveryParameter
from airtune.workload.architecture import architecture_of
from airtune.workload.decisions import affine_flops, rate_that_fits
from airtune.workload.model_work import ModelWork
from airtune.workload.precision import Precision
from airtune.workload.step import Step
from airtune.workload.transformer import split_workload, workload
from tests.workload.other_models import config_of, random_model
from tests.workload.small_models import CONFIGS, architecture, batch, with_adapter
from tests.workload.test_step_memory import LiveBytes

STEP = Step(batch_size=8, tokens=64)
AGAIN = Precision(checkpointing=True)


def measured(name: str, adapter: AdapterShape, step: Step) -> int:
    """Operations of a step whose blocks are checkpointed, by torch's own counter."""
    model, ids = with_adapter(name, adapter), batch(name, step)
    with checkpointed_blocks(model, True), FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("name", CONFIGS)
def test_flops_equal_torchs(name: str) -> None:
    step, adapter = Step(3, 40), AdapterShape(4)
    counted = workload(architecture(name), adapter, step, precision=AGAIN)
    assert counted.flops == measured(name, adapter, step)
    plain = workload(architecture(name), adapter, step)
    blocks = sum(part.forward_flops for part in plain.parts[1:-1])
    assert counted.flops - plain.flops == blocks
    assert counted.forward_flops == plain.forward_flops


def test_a_block_below_everything_trained_is_not_run_again() -> None:
    adapter = AdapterShape(4, ("layers.1.self_attn.v_proj", "layers.2.mlp.up_proj"))
    counted = workload(architecture("llama"), adapter, Step(3, 40), precision=AGAIN)
    plain = workload(architecture("llama"), adapter, Step(3, 40))
    assert counted.flops == measured("llama", adapter, Step(3, 40))
    blocks = [part.forward_flops for part in plain.parts[1:-1]]
    assert counted.flops - plain.flops == sum(blocks[1:])


@pytest.mark.parametrize("name", ["gpt_neox", "mixtral"])
def test_flops_of_families_without_a_closed_form(name: str) -> None:
    step = Step(3, 16)
    counted = workload(
        architecture_of(config_of(name).to_dict()),
        AdapterShape(3),
        step,
        precision=Precision(attention="eager", checkpointing=True),
    )
    base = BaseModel(deepcopy(random_model(name)), None, "random")
    model = attach(base, AdapterSettings(rank=3))
    ids = torch.randint(3, 2000, (3, 16))
    with checkpointed_blocks(model, True), FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    assert counted.flops == counter.get_total_flops()


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma"])
def test_peak(name: str) -> None:
    """Two AdamW steps, everything counted that is ever alive."""
    adapter = AdapterShape(8)
    model, ids = with_adapter(name, adapter, "sdpa"), batch(name, STEP)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    with LiveBytes() as memory, checkpointed_blocks(model, True):
        for tensor in [*model.parameters(), *model.buffers()]:
            memory.track(tensor)
        for _ in range(2):
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    counted = workload(architecture(name), adapter, STEP, precision=AGAIN)
    assert counted.memory_bytes == pytest.approx(memory.peak, rel=0.1)
    assert counted.memory_bytes < 0.8 * workload(architecture(name), adapter, STEP).memory_bytes


def test_what_checkpointed_memory_is_made_of() -> None:
    """Weights and adapter as before, an input a block, and one block's activations or the loss."""
    model, adapter = architecture("llama"), AdapterShape(8)
    plain = workload(model, adapter, STEP)
    again = workload(model, adapter, STEP, precision=AGAIN)
    inputs = 4 * STEP.positions * model.hidden_size
    assert [part.stored_bytes for part in again.parts[1:-1]] == [inputs] * model.block_count
    largest = max(part.stored_bytes for part in plain.parts[1:-1])
    assert again.working_bytes == max(plain.working_bytes, largest)
    fixed = sum(part.memory_bytes - part.stored_bytes for part in plain.parts)
    assert fixed == sum(part.memory_bytes - part.stored_bytes for part in again.parts)
    wide = Step(1, 64, logit_positions=1)
    small = workload(model, adapter, wide, precision=AGAIN)
    stored = max(part.stored_bytes for part in workload(model, adapter, wide).parts[1:-1])
    assert small.working_bytes == stored


@pytest.mark.parametrize("number", [1, 2, 3, 8])
def test_micro_batches_hold_one(number: int) -> None:
    model, adapter = architecture("gpt2"), AdapterShape(8)
    found = workload(model, adapter, STEP, precision=Precision(micro_batches=number))
    whole = workload(model, adapter, STEP)
    one = workload(model, adapter, Step(-(-8 // number), 64))
    assert found.flops == whole.flops
    assert found.memory_bytes == one.memory_bytes
    labels = Step(8, 64, label_tokens=100)
    assert workload(model, adapter, labels, precision=Precision(micro_batches=8)).flops == (
        workload(model, adapter, labels).flops
    )


def test_planners_and_tuners_see_it() -> None:
    """The line in the pruning rate, memory floors, and full tuning."""
    model, adapter = architecture("gpt2"), AdapterShape(8)
    line = affine_flops(model, adapter, STEP, checkpointing=True)
    for rate in (0.0, 0.5):
        exact = workload(model, adapter, STEP, rate, AGAIN).flops
        assert line.at(rate) <= exact * (1 + 1e-12)
    assert line.at(0.0) == workload(model, adapter, STEP, precision=AGAIN).flops
    work = ModelWork(model, adapter, AGAIN)
    assert sum(work.affine_flops(STEP)) == pytest.approx(work.step_flops(STEP))
    limit = workload(model, adapter, STEP, 0.5).memory_bytes
    assert rate_that_fits(model, adapter, STEP, limit) > 0
    assert rate_that_fits(model, adapter, STEP, limit, AGAIN) < rate_that_fits(
        model, adapter, STEP, limit
    )
    full = workload(model, EveryParameter(), STEP, precision=AGAIN)
    assert full.memory_bytes < workload(model, EveryParameter(), STEP).memory_bytes


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"checkpointing": True}, "training.gradient_checkpointing is True"),
        ({"micro_batches": 2}, "training.gradient_accumulation is 2"),
    ],
)
def test_a_split_model_refuses_them(options: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError, match=key):
        split_workload(
            architecture("gpt2"), AdapterShape(8), STEP, 1, precision=Precision(**options)
        )
    with pytest.raises(InputError, match=r"training\.gradient_accumulation is 0"):
        Precision(micro_batches=0)
