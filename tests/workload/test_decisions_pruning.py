"""The affine forms are exact before rounding, and rounding lifts by less than one unit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airtune.errors import InputError
from airtune.workload.adapter_shape import AdapterShape
from airtune.workload.architecture import attention_units
from airtune.workload.decisions import (
    affine_flops,
    affine_update_bits,
    distinct_rates,
    flops_excess,
    rate_that_fits,
    update_bits_excess,
)
from airtune.workload.payload import update_bits
from airtune.workload.step import Step
from airtune.workload.transformer import workload
from tests.workload.small_models import published

ADAPTER = AdapterShape(8)
STEP = Step(batch_size=2, tokens=64)
NAMES = ["gpt2", "opt-350m", "llama-3.2-1b", "qwen2.5-0.5b", "gemma-2b", "phi-2"]


@pytest.mark.parametrize("name", NAMES)
def test_exact_where_nothing_is_rounded(name: str) -> None:
    """At k/units of a neuron count that units divide, no unit is cut in two."""
    model = published(name)
    units = attention_units(model.widths)
    # Whole units and whole neurons at once; qwen2.5-0.5b has 7 units, which do not divide 4864.
    rates = [k / units for k in range(units) if k * model.widths.neurons % units == 0]
    assert 0.0 in rates
    for rate in rates:
        assert flops_excess(model, ADAPTER, STEP, rate) == pytest.approx(0.0, abs=64)
        assert abs(update_bits_excess(model, ADAPTER, rate)) <= 64


@given(rate=st.floats(0, 0.99), name=st.sampled_from(NAMES))
def test_rounding_lifts_by_less_than_a_unit(rate: float, name: str) -> None:
    model = published(name)
    units = attention_units(model.widths)
    line = affine_flops(model, ADAPTER, STEP)
    excess = flops_excess(model, ADAPTER, STEP, rate)
    if rate <= 1 - 1 / units:
        coarsest = line.prunable / units
        assert -64 <= excess <= coarsest + 64
    bits = update_bits_excess(model, ADAPTER, rate, "bf16")
    assert bits >= -64


@pytest.mark.parametrize("name", NAMES)
def test_ends_of_the_line(name: str) -> None:
    model = published(name)
    line = affine_flops(model, ADAPTER, STEP)
    assert line.at(0.0) == workload(model, ADAPTER, STEP).flops
    assert 0 < line.fixed < workload(model, ADAPTER, STEP, 0.999).flops
    bits = affine_update_bits(model, ADAPTER, "fp16")
    assert bits.at(0.0) == update_bits(model, ADAPTER, "fp16")
    assert bits.prunable > 0


def test_distinct_rates_are_where_something_changes() -> None:
    model = published("gpt2")
    rates = distinct_rates(model)
    assert rates[0] == 0.0
    assert rates == sorted(set(rates))
    assert rates[-1] < 1.0
    sizes = [workload(model, ADAPTER, STEP, rate).parameters for rate in rates[:50]]
    assert len(set(sizes)) == len(sizes)


def test_least_rate_that_fits() -> None:
    model = published("llama-3.2-1b")
    whole = workload(model, ADAPTER, STEP).memory_bytes
    assert rate_that_fits(model, ADAPTER, STEP, whole) == 0.0
    budget = 0.8 * whole
    rate = rate_that_fits(model, ADAPTER, STEP, budget)
    assert workload(model, ADAPTER, STEP, rate).memory_bytes <= budget
    before = max(other for other in distinct_rates(model) if other < rate)
    assert workload(model, ADAPTER, STEP, before).memory_bytes > budget


def test_a_model_that_never_fits_is_refused() -> None:
    with pytest.raises(InputError, match="memory_bytes is 1000"):
        rate_that_fits(published("llama-3.1-70b"), ADAPTER, STEP, 1000)
