"""What checkpointed blocks and micro-batches save: peak memory, measured against the planned.

A GPT-2-small-shaped model with random weights, LoRA of rank 8 on every linear layer, two AdamW
steps of 4 x 128 tokens, each way in a process of its own. Measured twice: with a loss whose logits
exist all at once, as memory is charged, and as clients train here, which keeps few logits. Arrays
of 64 KiB and more go back to the system when they are freed, so that resident memory is memory in
use. The fastest of some steps tells what the second forward pass of the blocks takes.

    python benchmarks/step_options.py [--repeats 3] [--threads 2] [--out FILE.json]
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pruned_step import RANK, ROWS, TOKENS, make_batch, make_model, resident_bytes, run_again

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "checkpointing": {"checkpointing": True},
    "4 micro-batches": {"micro_batches": 4},
    "both, 4": {"checkpointing": True, "micro_batches": 4},
}


def planned(way: str) -> dict[str, float]:
    """FLOPs and memory as they are charged."""
    from airtune.workload.adapter_shape import AdapterShape
    from airtune.workload.architecture import load_architecture
    from airtune.workload.precision import Precision
    from airtune.workload.step import Step
    from airtune.workload.transformer import workload

    model, step, precision = load_architecture("gpt2"), Step(ROWS, TOKENS), Precision(**WAYS[way])
    work = workload(model, AdapterShape(RANK), step, precision=precision)
    return {"flops": work.flops, "memory_bytes": work.memory_bytes}


def as_charged(model: Any, batch: Any, way: str) -> None:
    """One step whose loss takes all logits of a micro-batch at once."""
    import torch

    from airtune.tuning.blocks import checkpointed_blocks
    from airtune.tuning.local import TrainingSettings, make_optimizer, micro_batches

    options = WAYS[way]
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not hasattr(model, "kept_optimizer"):
        model.kept_optimizer = make_optimizer(parameters, TrainingSettings())
    count = int(batch.label_mask[:, 1:].sum())

    def loss_of(part: Any) -> Any:
        ids = torch.as_tensor(part.token_ids)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        flat, labels = logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1)
        return torch.nn.functional.cross_entropy(flat, labels, reduction="sum") / count

    with checkpointed_blocks(model, options.get("checkpointing", False)):
        for part in micro_batches(batch, options.get("micro_batches", 1)):
            loss_of(part).backward()
    model.kept_optimizer.step()
    model.kept_optimizer.zero_grad()


def as_trained(model: Any, batch: Any, way: str) -> None:
    """One step of the code that clients run."""
    from airtune.tuning.adapter import read_state
    from airtune.tuning.local import TrainingSettings, train_locally

    train_locally(model, read_state(model), [batch], TrainingSettings(**WAYS[way]), (0, 0, 0))


STEPS: dict[str, Callable[[Any, Any, str], None]] = {"charged": as_charged, "trained": as_trained}


def measure(way: str, kind: str, repeats: int) -> dict[str, float]:
    """Highest resident memory, less what Python and torch take, and the fastest step."""
    import peft  # noqa: F401  isort: skip
    import torch  # isort: skip
    import transformers  # noqa: F401  isort: skip

    import airtune.tuning.local  # noqa: F401  isort: skip

    torch.ones(64, 64) @ torch.ones(64, 64)
    before = resident_bytes("VmRSS")
    model, batch = make_model(), make_batch()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    seconds = []
    for _ in range(max(repeats, 2)):
        started = time.perf_counter()
        STEPS[kind](model, batch, way)
        seconds.append(time.perf_counter() - started)
    return {"peak_bytes": resident_bytes("VmHWM") - before, "step_s": min(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "step_options.json"
    )
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=list(STEPS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.kind, options.repeats)))
        return
    rows = []
    for way in WAYS:
        plan = planned(way)
        row: dict[str, Any] = {"way": way, "gflop": plan["flops"] / 1e9}
        row["planned_mb"] = plan["memory_bytes"] / 1e6
        for kind in STEPS:
            arguments = ("--way", way, "--kind", kind, "--repeats", str(options.repeats))
            found = run_again(__file__, options.threads, *arguments, keep_below=65_536)
            row[f"{kind}_peak_mb"] = found["peak_bytes"] / 1e6
            row[f"{kind}_step_s"] = found["step_s"]
        row["deviation"] = row["charged_peak_mb"] / row["planned_mb"] - 1.0
        rows.append(row)
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else str(v) for k, v in row.items()))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}"
    result = {"rows": ROWS, "tokens": TOKENS, "threads": options.threads, "machine": machine}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({**result, "ways": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
