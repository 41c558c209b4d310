"""A 0.5 B-parameter Llama on a GPU: stacks of 1 to 128 clients against clients one after another.

    python benchmarks/gpu_speed.py [--clients 1 8 32 128] [--rows 4] [--tokens 256] [--steps 3]

Random weights in bf16, LoRA rank 8 on all linear layers in fp32, AdamW, every token a label. For
each size of cohort: tokens per second of airtune's stacks and of sequential PEFT (one model, one
client after another), and the share of the measured bf16 matrix rate (8192 x 8192 products) that
the step's FLOPs, as the workload model counts them, reach. Both start from the same adapters and
see the same tokens; where their losses part, the benchmark stops. Without a GPU nothing is
measured and nothing written. Nobody has run this on a GPU yet.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from reporting import report
from step_speed import random_batch

from airtune.tuning.adapter import AdapterSettings, attach, initial_state, trained_parameters
from airtune.tuning.base_model import CUDA, BaseModel
from airtune.tuning.local import TrainingSettings, make_optimizer
from airtune.tuning.stack import train_stacked
from airtune.workload.adapter_shape import AdapterShape
from airtune.workload.architecture import Architecture
from airtune.workload.step import Step
from airtune.workload.transformer import workload

RANK = 8
# Widths of Qwen2.5 0.5 B with Llama's layers: 494 M parameters, embeddings tied.
SHAPE = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
SETTINGS = TrainingSettings(learning_rate=1e-3)
SAME_LOSS = 2e-2
"""Of losses near 12 nat in bf16, whose products round to 3 digits."""


def gpu_seconds(action: Callable[[], Any], repeat: int = 3) -> tuple[float, Any]:
    """The least real time of some runs after a first one, with the GPU's queue run empty."""
    result, best = action(), float("inf")
    for _ in range(repeat):
        torch.cuda.synchronize()
        began = time.perf_counter()
        result = action()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return best, result


def gemm_flop_rate(size: int = 8192) -> float:
    """FLOP/s of a square bf16 product."""
    a, b = (torch.randn(size, size, device=CUDA, dtype=torch.bfloat16) for _ in range(2))
    used, _ = gpu_seconds(lambda: a @ b, repeat=10)
    return 2.0 * size**3 / used


def sequential_peft(model: Any, start: Any, batches: list[list[Any]]) -> float:
    """Clients one after another, as a user of PEFT writes it; the mean loss of the last steps."""
    parameters = trained_parameters(model)
    last = []
    for own in batches:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(start[name])
        optimizer, losses = make_optimizer(list(parameters.values()), SETTINGS), []
        for batch in own:
            ids = torch.from_numpy(batch.token_ids).to(CUDA)
            optimizer.zero_grad(set_to_none=True)
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(list(parameters.values()), SETTINGS.max_grad_norm)
            optimizer.step()
            losses.append(loss.detach())
        last.append(losses[-1])
    return float(torch.stack(last).mean())


def stacked(model: Any, start: Any, batches: list[list[Any]]) -> float:
    """The same clients as stacks; the mean loss of the last steps."""
    count = len(batches)
    results = train_stacked(model, [start] * count, batches, SETTINGS, [{}] * count)
    return sum(result.losses[-1] for result in results) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 32, 128])
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu_speed did not run: torch sees no GPU here. Nothing was measured or written.")
        return
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**SHAPE)
    base = LlamaForCausalLM(config).to(CUDA, torch.bfloat16).eval().requires_grad_(False)
    model = attach(BaseModel(base, None, "random"), AdapterSettings(RANK))
    start = initial_state(model, 0)
    architecture = Architecture.from_config(config.to_dict())
    step = workload(architecture, AdapterShape(RANK), Step(options.rows, options.tokens))
    peak, rows = gemm_flop_rate(), []
    for clients in options.clients:
        batches = [
            [
                random_batch(SHAPE["vocab_size"], options.rows, options.tokens, 0, seed)
                for seed in range(client * options.steps, (client + 1) * options.steps)
            ]
            for client in range(clients)
        ]
        ours_s, ours = gpu_seconds(partial(stacked, model, start, batches), repeat=2)
        peft_s, theirs = gpu_seconds(partial(sequential_peft, model, start, batches), repeat=1)
        if abs(ours - theirs) > SAME_LOSS:
            raise SystemExit(f"{clients} clients: losses part, {ours} against {theirs}")
        steps = clients * options.steps
        tokens = steps * options.rows * options.tokens
        rows.append(
            {
                "clients": clients,
                "tokens_per_s": tokens / ours_s,
                "gemm_share": steps * step.flops / ours_s / peak,
                "peft_tokens_per_s": tokens / peft_s,
                "ratio": peft_s / ours_s,
                "loss": ours,
                "peft_loss": theirs,
                "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9,
            }
        )
        print(rows[-1], flush=True)
    report(
        "gpu_speed",
        rows,
        gpu=torch.cuda.get_device_name(),
        gemm_tflop_per_s=peak / 1e12,
        rows_tokens=f"{options.rows}x{options.tokens}",
    )


if __name__ == "__main__":
    main()
