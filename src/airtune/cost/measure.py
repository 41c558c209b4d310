"""Timing this machine: how many operations a second does a real LoRA step sustain here?"""

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airtune.cost.device import DeviceProfile
from airtune.workload.adapter_shape import AdapterShape, matrix_paths
from airtune.workload.architecture import Architecture
from airtune.workload.payload import dtype_bits
from airtune.workload.step import Step
from airtune.workload.transformer import workload

RANK = 8
STEP = Step(batch_size=4, tokens=128)
FEWEST_STEPS = 3
_TORCH_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

MODEL: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 8192,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 4,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
"""The model that is timed: matrices of the smallest GPT-2's width, where BLAS is near its best."""


@dataclass(frozen=True)
class Measurement:
    """`flop_rate` [FLOP/s] is the counted operations of a step over its median time [s]."""

    flop_rate: float
    step_s: tuple[float, ...]
    threads: int
    dtype: str

    @property
    def spread(self) -> float:
        """Slowest over fastest step, less 1: how steady the machine is."""
        return max(self.step_s) / min(self.step_s) - 1.0


def measure_training(
    seconds: float = 5.0,
    dtype: str = "fp32",
    model: dict[str, Any] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Measurement:
    """Time LoRA steps (forward, backward, AdamW) of a random model on this machine's CPU.

    One step warms up; then steps are timed for `seconds`, at least three. Needs torch,
    transformers and peft. Raises InputError for an unknown dtype.
    """
    import torch

    dtype_bits(dtype)
    config = MODEL if model is None else model
    step = _training_step(config, dtype)
    step()
    times: list[float] = []
    while len(times) < FEWEST_STEPS or sum(times) < seconds:
        start = clock()
        step()
        times.append(clock() - start)
    flops = workload(Architecture.from_config(config), AdapterShape(RANK), STEP).flops
    return Measurement(
        flops / statistics.median(times), tuple(times), torch.get_num_threads(), dtype
    )


def _training_step(config: dict[str, Any], dtype: str) -> Callable[[], None]:
    """A callable that makes one optimiser step on the same random batch each time."""
    import warnings

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {key: value for key, value in config.items() if key != "model_type"}
    settings = AutoConfig.for_model(config["model_type"], **shape)
    # Only speed counts, so the weights' values do not; the global generator stays as it was.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft 0.21 reads an attribute that transformers 5 deprecates.
        warnings.simplefilter("ignore", FutureWarning)
        base = AutoModelForCausalLM.from_config(
            settings, dtype=getattr(torch, _TORCH_DTYPES[dtype])
        )
        paths = matrix_paths(Architecture.from_config(config))
        # Of a mixture PEFT would take "all-linear" to mean the experts, too.
        targets = sorted({path.rpartition(".")[2] for path in paths})
        lora = LoraConfig(r=RANK, target_modules=targets, task_type="CAUSAL_LM")
        model = get_peft_model(base, lora)
        ids = torch.randint(0, config["vocab_size"], (STEP.batch_size, STEP.tokens))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])

    def step() -> None:
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()

    return step


def machine_memory_bytes(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """RAM of this machine, or the container's limit where that is less [byte]."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(physical, int(limit.read_text()))
    except (OSError, ValueError):
        # No control group, or one without a limit ("max").
        return physical


def measured_profile(
    name: str,
    measurement: Measurement,
    computing_power_w: float | None,
    tx_power_dbm: float,
    idle_power_w: float | None = None,
) -> DeviceProfile:
    """A profile of this machine. Power is the user's to give: None stays unknown."""
    steps = len(measurement.step_s)
    power = "given by the user" if computing_power_w is not None else "not measured"
    return DeviceProfile(
        name=name,
        title=f"{platform.node() or 'this machine'} ({platform.machine()})",
        kind="other",
        training_flop_rate=float(f"{measurement.flop_rate:.3g}"),
        memory_bytes=machine_memory_bytes(),
        computing_power_w=computing_power_w,
        tx_power_dbm=tx_power_dbm,
        idle_power_w=idle_power_w,
        sources={
            "training_flop_rate": f"measured by `airtune device measure`: median of {steps} LoRA "
            f"steps, {measurement.dtype}, {measurement.threads} threads",
            "memory_bytes": "the operating system",
            "computing_power_w": power,
            "tx_power_dbm": "given by the user, or 3GPP TS 38.101-1 power class 3",
            **({} if idle_power_w is None else {"idle_power_w": "given by the user"}),
        },
        software=f"PyTorch on the CPU, {measurement.dtype}, {measurement.threads} threads",
        rate_precision=measurement.dtype,
    )
