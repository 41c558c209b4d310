"""Published models at full size: parameters, adapter and FLOPs equal torch's own counts."""

import pytest

from airtune.workload.adapter_shape import AdapterShape
from airtune.workload.architecture import load_architecture
from airtune.workload.config_source import bundled_names
from airtune.workload.step import Step
from airtune.workload.transformer import workload
from tests.workload.published_models import Measured, measure_on_meta

STEP = Step(batch_size=2, tokens=64)
QUICK = {"gpt2", "opt-125m", "llama-3.2-1b", "gemma-2b", "phi-2"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in bundled_names()],
)
@pytest.mark.slow
def test_equals_torch_at_full_size(name: str) -> None:
    counted = workload(load_architecture(name), AdapterShape(8), STEP)
    assert measure_on_meta(name, 8, STEP) == Measured(
        counted.parameters,
        counted.adapter_parameters,
        counted.forward_flops,
        counted.backward_flops,
    )
