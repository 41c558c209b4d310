"""What is remembered of a model's work equals what is counted anew."""

from dataclasses import replace

import pytest

from airtune.errors import InputError
from airtune.workload.adapter_shape import AdapterShape
from airtune.workload.architecture import load_architecture
from airtune.workload.model_work import ModelWork
from airtune.workload.precision import DEFAULT_PRECISION
from airtune.workload.step import Step
from airtune.workload.transformer import workload

GPT2 = load_architecture("gpt2")
STEP = Step(2, 64, label_tokens=40)


def work(rank: int = 8) -> ModelWork:
    return ModelWork(GPT2, AdapterShape(rank), DEFAULT_PRECISION)


@pytest.mark.parametrize("labels", [1, 40, 120])
def test_flops_are_linear_in_the_rows_of_logits(labels: int) -> None:
    one = work()
    one.step_flops(STEP)  # fills the cache of this shape
    step = replace(STEP, label_tokens=labels)
    assert one.step_flops(step) == pytest.approx(workload(GPT2, one.adapter, step).flops, rel=1e-12)


def test_a_copy_with_another_adapter_remembers_nothing_of_this_one() -> None:
    one = work()
    known = one.step_flops(STEP), one.step_bytes(STEP), one.split_memory_bytes(STEP, 3, False)
    other, fresh = replace(one, adapter=AdapterShape(32)), work(32)
    assert other.step_flops(STEP) == fresh.step_flops(STEP) > known[0]
    assert other.step_bytes(STEP) == fresh.step_bytes(STEP) > known[1]
    assert other.split_memory_bytes(STEP, 3, False) > known[2]


def test_the_least_rate_fits_and_a_little_less_does_not() -> None:
    one = work()
    whole = one.step_bytes(STEP)
    assert one.least_rate(STEP, whole) == 0.0
    rate = one.least_rate(STEP, 0.8 * whole)
    assert one.step_bytes(STEP, rate) <= 0.8 * whole < one.step_bytes(STEP, rate - 0.01)
    with pytest.raises(InputError):
        one.least_rate(STEP, 0.1 * whole)
