"""Measuring this machine: operations over the clock's seconds, and a profile that loads again."""

import itertools
import json
from pathlib import Path

import pytest
import torch

from airtune.cost.device import load_devices
from airtune.cost.measure import (
    MODEL,
    RANK,
    STEP,
    Measurement,
    machine_memory_bytes,
    measure_training,
    measured_profile,
)
from airtune.errors import InputError
from airtune.workload.adapter_shape import AdapterShape
from airtune.workload.architecture import Architecture
from airtune.workload.transformer import workload

TINY = {
    **MODEL,
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_rate_is_counted_operations_over_median_time(dtype: str) -> None:
    # Steps take 1, 4, 2, 3 and 2 s by this clock; 10 s are full after the fourth.
    ticks = iter([0, 1, 10, 14, 20, 22, 30, 33, 40, 42])
    before = torch.random.get_rng_state()
    result = measure_training(10.0, dtype, TINY, clock=lambda: float(next(ticks)))
    assert result.step_s == (1.0, 4.0, 2.0, 3.0)
    flops = workload(Architecture.from_config(TINY), AdapterShape(RANK), STEP).flops
    assert result.flop_rate == flops / 2.5
    assert result.spread == 3.0
    assert torch.equal(torch.random.get_rng_state(), before)


def test_three_steps_at_least() -> None:
    ticks = itertools.count(0.0, 0.5)
    assert len(measure_training(0.0, "fp32", TINY, clock=lambda: next(ticks)).step_s) == 3


def test_unknown_dtypes_are_refused() -> None:
    with pytest.raises(InputError, match="dtype is int8"):
        measure_training(0.0, "int8", TINY)


def test_memory_is_the_smaller_of_machine_and_container(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    physical = machine_memory_bytes(limit)
    assert physical > 2**28
    limit.write_text("max\n")
    assert machine_memory_bytes(limit) == physical
    limit.write_text("1048576\n")
    assert machine_memory_bytes(limit) == 1_048_576


@pytest.mark.parametrize("power", [None, 12.5])
def test_profile_loads_again(tmp_path: Path, power: float | None) -> None:
    measurement = Measurement(1.23456e11, (0.5, 0.6), 2, "fp32")
    profile = measured_profile("mine", measurement, power, 20.0)
    path = tmp_path / "own.yaml"
    path.write_text(json.dumps({"mine": profile.mapping()}))
    loaded = load_devices(path)["mine"]
    assert loaded.mapping() == profile.mapping()
    assert (loaded.training_flop_rate, loaded.computing_power_w) == (1.23e11, power)
    assert ("not measured" in loaded.sources["computing_power_w"]) == (power is None)
