"""Does a pruned client really compute and hold less? Measured against the planned numbers.

A GPT-2-small-shaped model with random weights, LoRA of rank 8 on every linear layer, one optimiser
step of 4 x 128 tokens on two threads, at pruning rates 0, 0.25, 0.5 and 0.75. Times are taken in
turns, so that a busy machine disturbs all rates alike, and the fastest of each counts; processor
time is recorded beside them. Peak memory is that of a process of its own, which drops the whole
model after slicing, as a device would.

    python benchmarks/pruned_step.py [--repeats 7] [--threads 2] [--out FILE.json]
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RATES = (0.0, 0.25, 0.5, 0.75)
ROWS, TOKENS, RANK = 4, 128, 8


def make_model() -> Any:
    """GPT-2 small's shape, random weights, with an adapter that is not zero."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from airtune.tuning.adapter import AdapterSettings, attach, load_state, read_state
    from airtune.tuning.base_model import BaseModel

    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config()).eval().requires_grad_(False)
    model = attach(BaseModel(base, None, "random"), AdapterSettings(rank=RANK))
    load_state(model, {name: 0.02 * torch.randn_like(x) for name, x in read_state(model).items()})
    return model


def make_batch() -> Any:
    """Random tokens, every one of them a label."""
    import numpy as np

    from airtune.data.batches import Batch

    ids = np.random.default_rng(0).integers(0, 50257, size=(ROWS, TOKENS))
    everywhere = np.ones(ids.shape, dtype=np.bool_)
    return Batch(ids, everywhere, everywhere)


def planned(rate: float) -> dict[str, float]:
    """FLOPs, memory and trained parameters as the planner sees them."""
    from airtune.workload.adapter_shape import AdapterShape
    from airtune.workload.architecture import load_architecture
    from airtune.workload.step import Step
    from airtune.workload.transformer import workload

    work = workload(load_architecture("gpt2"), AdapterShape(RANK), Step(ROWS, TOKENS), rate)
    return {
        "flops": work.flops,
        "memory_bytes": work.memory_bytes,
        "trained_parameters": work.adapter_parameters,
    }


def one_step(model: Any, batch: Any) -> None:
    """Forward, backward and an AdamW step through the code that clients run."""
    from airtune.tuning.adapter import read_state
    from airtune.tuning.local import TrainingSettings, train_locally

    train_locally(model, read_state(model), [batch], TrainingSettings(), (0, 0, 0))


def measure_times(repeats: int) -> dict[str, Any]:
    """Fastest and median step at every rate [s], and what slicing itself takes."""
    from airtune.tuning.adapter import read_state
    from airtune.tuning.pruning.importance import WeightImportance
    from airtune.tuning.pruning.tuner import Slicer, sliced_model

    model, batch = make_model(), make_batch()
    slicer, state = Slicer(model, WeightImportance()), read_state(model)
    started = time.perf_counter()
    slicer.slice(state, 0.5)
    scoring_s = time.perf_counter() - started
    sliced, slicing_s = {}, {}
    for rate in RATES:
        started = time.perf_counter()
        sliced[rate] = sliced_model(model, slicer.slice(state, rate))
        slicing_s[rate] = time.perf_counter() - started
        one_step(sliced[rate], batch)
    samples: dict[float, list[float]] = {rate: [] for rate in RATES}
    processor: dict[float, list[float]] = {rate: [] for rate in RATES}
    for _ in range(repeats):
        for rate in RATES:
            started, processor_started = time.perf_counter(), time.process_time()
            one_step(sliced[rate], batch)
            samples[rate].append(time.perf_counter() - started)
            processor[rate].append(time.process_time() - processor_started)
    return {
        "scoring_s": scoring_s,
        "slicing_s": {str(rate): value for rate, value in slicing_s.items()},
        "step_s": {str(rate): sorted(values) for rate, values in samples.items()},
        "processor_s": {str(rate): sorted(values) for rate, values in processor.items()},
    }


def measure_memory(rate: float) -> dict[str, Any]:
    """Highest resident memory over two steps of a sliced model, less what Python and torch take."""
    from airtune.tuning.adapter import read_state
    from airtune.tuning.pruning.importance import WeightImportance
    from airtune.tuning.pruning.tuner import Slicer, sliced_model

    import torch  # isort: skip
    import transformers  # noqa: F401  isort: skip

    batch = make_batch()
    torch.ones(64, 64) @ torch.ones(64, 64)
    before = resident_bytes("VmRSS")
    model = make_model()
    small = sliced_model(model, Slicer(model, WeightImportance()).slice(read_state(model), rate))
    del model
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    held = resident_bytes("VmRSS")
    one_step(small, batch)
    one_step(small, batch)
    return {"weights_bytes": held - before, "peak_bytes": resident_bytes("VmHWM") - before}


def resident_bytes(field: str) -> int:
    """A line of /proc/self/status, in bytes (Linux only)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def summary(times: dict[str, Any], memory: dict[str, Any]) -> list[dict[str, float]]:
    """One row a rate: planned and measured shares of the whole model, and how far apart."""
    whole, rows = planned(0.0), []
    fastest = {rate: times["step_s"][str(rate)][0] for rate in RATES}
    processor = {rate: times["processor_s"][str(rate)][0] for rate in RATES}
    for rate in RATES:
        plan, measured = planned(rate), memory[str(rate)]
        flops_share, time_share = plan["flops"] / whole["flops"], fastest[rate] / fastest[0.0]
        rows.append(
            {
                "pruning_rate": rate,
                "planned_gflop": plan["flops"] / 1e9,
                "step_s": fastest[rate],
                "planned_share": flops_share,
                "time_share": time_share,
                "deviation": time_share / flops_share - 1.0,
                "processor_deviation": processor[rate] / processor[0.0] / flops_share - 1.0,
                "gflop_per_s": plan["flops"] / fastest[rate] / 1e9,
                "planned_memory_mb": plan["memory_bytes"] / 1e6,
                "peak_memory_mb": measured["peak_bytes"] / 1e6,
                "weights_mb": measured["weights_bytes"] / 1e6,
                "trained_parameters": plan["trained_parameters"],
            }
        )
    return rows


def in_own_process(threads: int, *arguments: str) -> Any:
    """Run this file again with these arguments and read the JSON that it prints."""
    return run_again(__file__, threads, *arguments)


def run_again(file: str, threads: int, *arguments: str, keep_below: int = 1_048_576) -> Any:
    """The same for any benchmark; freed arrays of at least `keep_below` bytes are given back."""
    command = [sys.executable, file, *arguments]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        # Threads that spin while they wait would count as computing.
        "OMP_WAIT_POLICY": "PASSIVE",
        # Large arrays go back to the system when freed, so that resident memory is memory in use.
        "MALLOC_MMAP_THRESHOLD_": str(keep_below),
    }
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "pruned_step.json"
    )
    parser.add_argument("--part", choices=["times", "memory"], help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part == "times":
        print(json.dumps(measure_times(options.repeats)))
        return
    if options.part == "memory":
        print(json.dumps(measure_memory(options.rate)))
        return
    memory = {
        str(r): in_own_process(options.threads, "--part", "memory", "--rate", str(r)) for r in RATES
    }
    times = in_own_process(options.threads, "--part", "times", "--repeats", str(options.repeats))
    rows = summary(times, memory)
    result = {
        "what": "GPT-2 small shape, random weights, LoRA rank 8 on all linear layers, AdamW",
        "rows": ROWS,
        "tokens": TOKENS,
        "threads": options.threads,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}",
        "rates": rows,
        "times": times,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for row in rows:
        print("  ".join(f"{name} {value:.4g}" for name, value in row.items()))


if __name__ == "__main__":
    main()
