"""airtune on a GPU: is it right, how fast is it, and is its memory what was predicted?

    python benchmarks/gpu_check.py [--clients 1 8 32 128] [--minutes 8] [--rehearse]

- Methods: every shipped method makes two rounds of the built-in model in bf16 on the GPU and on the
  processor; test losses and sent bits side by side.
- Speed: a 0.5 B-parameter Llama of random weights in bf16, LoRA rank 8 on all linear layers in
  fp32, AdamW, every token a label. For each size of cohort: tokens per second of airtune's stacks
  and of sequential PEFT (one model, one client after another), from the same adapters and tokens,
  and the share of the measured bf16 matrix rate (8192 x 8192 products) that the step's FLOPs, as
  the workload model counts them, reach.
- Memory: the peak of one step of one client against the predicted one.
- nf4: the same step on a quantised base, where bitsandbytes is installed.

No part begins after the given minutes. Losses that part end the benchmark with exit code 1. Without
a GPU nothing is measured and nothing written; `--rehearse` makes the same calls with a tiny model
on the processor, to try the script itself, and writes nothing either.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from reporting import report
from step_speed import random_batch

from airtune import Experiment
from airtune.methods.registry import shipped_methods
from airtune.tuning.adapter import AdapterSettings, attach, initial_state, trained_parameters
from airtune.tuning.base_model import CPU, CUDA, BaseModel
from airtune.tuning.local import TrainingSettings, make_optimizer
from airtune.tuning.stack import train_stacked
from airtune.workload.adapter_shape import AdapterShape
from airtune.workload.architecture import architecture_of
from airtune.workload.precision import Precision
from airtune.workload.step import Step
from airtune.workload.transformer import workload

RANK = 8
# Widths of Qwen2.5 0.5 B with Llama's layers: 494 M parameters, embeddings tied.
SHAPE: Mapping[str, Any] = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
TINY: Mapping[str, Any] = {
    **SHAPE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 96,
}
SETTINGS = TrainingSettings(learning_rate=1e-3)
SAME_LOSS = 2e-2
"""Of losses near 12 nat in bf16, whose products round to 3 digits."""
METHOD_LOSS = 2e-2
"""Of the built-in model's test loss after two rounds, on two kinds of processor in bf16."""


class Stage:
    """The device, the shape and the clock of one run of this script."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.rehearses = bool(options.rehearse)
        self.device = CPU if self.rehearses else CUDA
        self.shape = TINY if self.rehearses else SHAPE
        self.clients = [1, 2] if self.rehearses else options.clients
        self.step = Step(2, 16) if self.rehearses else Step(4, 256)
        self.local_steps = 3
        self._ends: float = time.monotonic() + 60 * options.minutes

    def has_time(self) -> bool:
        """Whether another part may begin."""
        return time.monotonic() < self._ends

    def seconds(self, action: Callable[[], Any], repeat: int) -> tuple[float, Any]:
        """The least real time of some runs after a first one, with the GPU's queue run empty."""
        result, best = action(), float("inf")
        for _ in range(repeat):
            self._wait()
            began = time.perf_counter()
            result = action()
            self._wait()
            best = min(best, time.perf_counter() - began)
        return best, result

    def peak_bytes(self, action: Callable[[], Any]) -> int | None:
        """The largest memory allocated while it runs, what was there before included."""
        if self.rehearses:
            action()
            return None
        torch.cuda.reset_peak_memory_stats()
        action()
        self._wait()
        return int(torch.cuda.max_memory_allocated())

    def gemm_flop_rate(self) -> float:
        """FLOP/s of a square bf16 product."""
        size = 64 if self.rehearses else 8192
        a, b = (torch.randn(size, size, device=self.device).bfloat16() for _ in range(2))
        used, _ = self.seconds(lambda: a @ b, repeat=10)
        return 2.0 * size**3 / used

    def batches(self, clients: int) -> list[list[Any]]:
        """Random tokens, other ones for each client and step."""
        rows, tokens = self.step.batch_size, self.step.tokens
        return [
            [
                random_batch(self.shape["vocab_size"], rows, tokens, 0, seed)
                for seed in range(client * self.local_steps, (client + 1) * self.local_steps)
            ]
            for client in range(clients)
        ]

    def _wait(self) -> None:
        if not self.rehearses:
            torch.cuda.synchronize()


def methods(stage: Stage) -> list[dict[str, Any]]:
    """Two rounds of every method on the device and on the processor."""
    rows = []
    for name, spec in shipped_methods().items():
        if spec.compose is None or not stage.has_time():
            continue
        runs = [_two_rounds(name, device) for device in (stage.device, CPU)]
        (here, sent), (there, expected) = runs
        rows.append(
            {
                "part": "methods",
                "method": name,
                "test_loss": here,
                "processor_test_loss": there,
                "same_bits": sent == expected,
            }
        )
        print(rows[-1], flush=True)
        if abs(here - there) > METHOD_LOSS or sent != expected:
            raise SystemExit(f"{name}: {here} on {stage.device}, {there} on the processor")
    return rows


def _two_rounds(method: str, device: str) -> tuple[float, list[int]]:
    """The last test loss, and the bits sent up in each round."""
    settings = {
        "method": method,
        "dtype": "bf16",
        "rounds": 2,
        "clients": {"count": 4},
        "training": {"local_steps": 2},
        "data": {"score_rows": 0},
        "cell": {"path_loss": "log_distance"},
        "device": device,
        "engine": "batched",
        "threads": 1,
    }
    with tempfile.TemporaryDirectory() as folder:
        records = Experiment(**settings).run(Path(folder) / "run").records
    return float(records[-1]["test_loss"]), [int(record["uplink_bits"]) for record in records]


def model_of(stage: Stage, quantised: bool = False) -> Any:
    """The base of random weights under an adapter, on the device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**stage.shape)).to(torch.bfloat16)
    base = (_quantised(base) if quantised else base).to(stage.device)
    base = base.eval().requires_grad_(False)
    return attach(BaseModel(base, None, "random"), AdapterSettings(RANK))


def _quantised(base: Any) -> Any:
    """The same weights, the linear layers of the blocks in nf4."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    chosen = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    with tempfile.TemporaryDirectory() as folder:
        base.save_pretrained(folder)
        return AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=chosen, dtype=torch.bfloat16
        )


def sequential_peft(model: Any, start: Any, batches: list[list[Any]]) -> float:
    """Clients one after another, as a user of PEFT writes it; the mean loss of the last steps."""
    parameters = trained_parameters(model)
    device = next(iter(parameters.values())).device
    last = []
    for own in batches:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(start[name])
        optimizer, losses = make_optimizer(list(parameters.values()), SETTINGS), []
        for batch in own:
            ids = torch.from_numpy(batch.token_ids).to(device)
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


def speed(stage: Stage) -> list[dict[str, Any]]:
    """Stacks against clients one after another."""
    model = model_of(stage)
    start, peak, rows = initial_state(model, 0), stage.gemm_flop_rate(), []
    work = workload(_architecture(stage), AdapterShape(RANK), stage.step)
    for clients in stage.clients:
        if not stage.has_time():
            break
        batches = stage.batches(clients)
        ours_s, ours = stage.seconds(partial(stacked, model, start, batches), repeat=2)
        peft_s, theirs = stage.seconds(partial(sequential_peft, model, start, batches), repeat=1)
        steps = clients * stage.local_steps
        tokens = steps * stage.step.positions
        rows.append(
            {
                "part": "speed",
                "clients": clients,
                "tokens_per_s": tokens / ours_s,
                "gemm_share": steps * work.flops / ours_s / peak,
                "peft_tokens_per_s": tokens / peft_s,
                "ratio": peft_s / ours_s,
                "loss": ours,
                "peft_loss": theirs,
            }
        )
        print(rows[-1], flush=True)
        if abs(ours - theirs) > SAME_LOSS:
            raise SystemExit(f"{clients} clients: losses part, {ours} against {theirs}")
    return rows


def _architecture(stage: Stage) -> Any:
    from transformers import LlamaConfig

    return architecture_of(LlamaConfig(**stage.shape).to_dict())


def memory(stage: Stage, dtype: str) -> list[dict[str, Any]]:
    """One client's steps: the peak measured, predicted, and the last loss."""
    model = model_of(stage, quantised=dtype != "bf16")
    start, batches = initial_state(model, 0), stage.batches(1)
    run = partial(sequential_peft, model, start, batches)
    used_s, loss = stage.seconds(run, repeat=1)
    measured = stage.peak_bytes(run)
    precision = Precision(dtype)
    work = workload(_architecture(stage), AdapterShape(RANK), stage.step, precision=precision)
    row = {
        "part": "memory",
        "dtype": dtype,
        "step_s": used_s / stage.local_steps,
        "loss": loss,
        "predicted_bytes": work.memory_bytes,
        "measured_bytes": measured,
        "measured_over_predicted": measured and measured / work.memory_bytes,
    }
    print(row, flush=True)
    return [row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 32, 128])
    parser.add_argument("--minutes", type=float, default=8.0, help="no part begins after these")
    parser.add_argument("--rehearse", action="store_true", help="tiny, on the processor")
    options = parser.parse_args()
    if not options.rehearse and not torch.cuda.is_available():
        print("gpu_check did not run: torch sees no GPU here. Nothing was measured or written.")
        return
    stage = Stage(options)
    parts: list[Callable[[Stage], list[dict[str, Any]]]] = [
        speed,
        partial(memory, dtype="bf16"),
        methods,
    ]
    if find_spec("bitsandbytes") is not None and not stage.rehearses:
        parts.insert(2, partial(memory, dtype="nf4"))
    rows = [row for part in parts if stage.has_time() for row in part(stage)]
    if stage.rehearses:
        print("Rehearsed on the processor: nothing was written.")
        return
    report("gpu_check", rows, gpu=torch.cuda.get_device_name())


if __name__ == "__main__":
    main()
