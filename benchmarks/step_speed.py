"""One process, one thread: cohorts of 1 to 1,024 clients, and how near a step is to the GEMM peak.

    OMP_NUM_THREADS=1 python benchmarks/step_speed.py [--part growth gemm large]

Growth: the built-in model, a step of 1 x 32 tokens a client, trained as stacks; processor time per
client and step should not grow with the cohort. GEMM share: FLOPs of a LoRA step of GPT-2 small's
shape (rank 8, 4 x 128 tokens, every token a label), as the workload model counts them, per second,
over the rate of a 2048 x 2048 product of the same dtype; the stacked engine, of one client, with
its clipping and optimiser step. Prompt gain: the same step with 75 % of
the tokens prompt, against computing all logits. Large batches: one client's step of many rows of
20 to 60 tokens on the built-in model, in parts against all at once.
"""

import argparse
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from reporting import report, seconds
from torch.nn.functional import cross_entropy

from airtune.data.batches import Batch
from airtune.experiment.engine import clients_at_once
from airtune.tuning import label_loss, stack
from airtune.tuning.adapter import AdapterSettings, attach, initial_state
from airtune.tuning.base_model import BaseModel, fuse_gelu, load_base
from airtune.tuning.local import TrainingSettings, train_locally
from airtune.tuning.stack import train_stacked
from airtune.workload.adapter_shape import AdapterShape
from airtune.workload.architecture import Architecture
from airtune.workload.step import Step
from airtune.workload.transformer import workload

LARGE_BATCHES = (32, 64, 256, 1024)
COHORTS = (1, 8, 32, 128, 512, 1024)
RANK, ROWS, TOKENS = 8, 4, 128


def random_batch(vocabulary: int, rows: int, tokens: int, prompt: int, seed: int = 0) -> Batch:
    """Rows whose first `prompt` tokens are no labels."""
    ids = np.random.default_rng(seed).integers(3, vocabulary, (rows, tokens))
    everywhere = np.ones(ids.shape, dtype=np.bool_)
    return Batch(ids, everywhere, everywhere & (np.arange(tokens) >= prompt))


def growth() -> list[dict[str, Any]]:
    """Processor time of a client's step by size of cohort."""
    model = attach(load_base("builtin"), AdapterSettings(RANK))
    start = initial_state(model, 0)
    largest = clients_at_once({name: tuple(x.shape) for name, x in start.items()})
    rows = []
    for cohort in COHORTS:
        batches = [[random_batch(2048, 1, 32, 1, client)] for client in range(cohort)]

        def run(batches: list[list[Batch]] = batches) -> None:
            for first in range(0, len(batches), largest):
                part = batches[first : first + largest]
                count = len(part)
                train_stacked(model, [start] * count, part, TrainingSettings(), [{}] * count)

        used, _ = seconds(run, repeat=3)
        rows.append({"clients": cohort, "ms_per_client_step": 1e3 * used / cohort})
        print(rows[-1], flush=True)
    return rows


def all_logits_losses(
    model: Any, token_ids: torch.Tensor, attention_mask: torch.Tensor, label_mask: torch.Tensor
) -> torch.Tensor:
    """What `label_losses` would cost with logits of every position."""
    wanted = label_mask[:, 1:]
    logits = model(input_ids=token_ids, use_cache=False).logits[:, :-1].float()
    terms = cross_entropy(logits.flatten(0, 1), token_ids[:, 1:].flatten(), reduction="none")
    return terms[wanted.flatten()]


def gemm_flop_rate(dtype: torch.dtype, size: int = 2048) -> float:
    """FLOP/s of a square product."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    used, _ = seconds(lambda: a @ b, repeat=5)
    return 2.0 * size**3 / used


def gemm_share(dtype: torch.dtype) -> dict[str, Any]:
    """A GPT-2-small step against the GEMM rate, and what label-only logits gain."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config()).eval().requires_grad_(False).to(dtype)
    fuse_gelu(base)
    model = attach(BaseModel(base, None, "random"), AdapterSettings(RANK))
    architecture = Architecture.from_config(base.config.to_dict())
    flops = workload(architecture, AdapterShape(RANK), Step(ROWS, TOKENS)).flops
    whole = random_batch(50257, ROWS, TOKENS, 0)
    mostly_prompt = random_batch(50257, ROWS, TOKENS, 3 * TOKENS // 4)

    start = initial_state(model, 0)

    def step(batch: Batch) -> None:
        train_stacked(model, [start], [[batch]], TrainingSettings(), [{}])

    def all_logits_step(batch: Batch) -> None:
        with patch.object(stack, "label_losses", all_logits_losses):
            step(batch)

    step(mostly_prompt)
    peak = gemm_flop_rate(dtype)
    whole_s, _ = seconds(lambda: step(whole), repeat=3)
    prompt_s, _ = seconds(lambda: step(mostly_prompt), repeat=3)
    all_s, _ = seconds(lambda: all_logits_step(mostly_prompt), repeat=3)
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "gemm_gflop_per_s": peak / 1e9,
        "step_s": whole_s,
        "gemm_share": flops / whole_s / peak,
        "prompt_75_s": prompt_s,
        "prompt_75_all_logits_s": all_s,
        "prompt_gain": all_s / prompt_s,
    }


def large_batches() -> list[dict[str, Any]]:
    """Processor time of a step of one client, in parts and whole, side by side."""
    model = attach(load_base("builtin"), AdapterSettings(RANK))
    start = initial_state(model, 0)
    rows = []
    for size in LARGE_BATCHES:
        batch = random_batch(2048, size, 60, 10)
        ends = np.random.default_rng(size).integers(20, 61, size)
        real = np.arange(60) < ends[:, None]
        batch = Batch(batch.token_ids, real, batch.label_mask & real)

        def step(limit: int, batch: Batch = batch) -> float:
            def run() -> None:
                train_locally(model, start, [batch], TrainingSettings(), (0, 0, 0))

            with patch.dict(label_loss.TOKENS_AT_ONCE, cpu=limit):
                return seconds(run, repeat=3)[0]

        step(2048)
        whole_s, parts_s = step(2**40), step(2048)
        rows.append(
            {"rows": size, "whole_s": whole_s, "parts_s": parts_s, "gain": whole_s / parts_s}
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    known = ["growth", "gemm", "large"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=known, default=known)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if "growth" in options.part:
        report("growth", growth())
    if "large" in options.part:
        report("large_batches", large_batches())
    if "gemm" in options.part:
        report("gemm_share", [gemm_share(dtype) for dtype in (torch.float32, torch.bfloat16)])


if __name__ == "__main__":
    main()
