"""The job that all tools do, and what their scripts share. Imports nothing of airtune.

Federated averaging of LoRA: in each round every client starts from the server's adapter, makes its
steps with AdamW (no weight decay) on the mean loss over all next tokens of its batch, gradients
clipped to norm 1, and the server takes the plain mean of the clients' adapters.
"""

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Job:
    """Sizes of a job; `model` is a folder that `AutoModelForCausalLM` loads."""

    model: str
    rank: int
    clients: int
    rounds: int
    steps: int
    rows: int
    tokens: int
    learning_rate: float = 1e-3

    @property
    def tokens_per_round(self) -> int:
        """Tokens that one round trains on, all clients together."""
        return self.clients * self.steps * self.rows * self.tokens


def write_job(folder: Path, job: Job, vocabulary: int, seed: int = 0) -> None:
    """Draw every batch and the start of the adapter, and write the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(seed)
    shape = (job.rounds, job.clients, job.steps, job.rows, job.tokens)
    np.save(folder / "tokens.npy", draws.integers(3, vocabulary, shape))
    np.save(folder / "held_out.npy", draws.integers(3, vocabulary, (16, job.tokens)))
    (folder / "job.json").write_text(json.dumps(asdict(job)))
    torch.manual_seed(seed)
    _, parameters = load_model(job)
    torch.save({k: p.detach().clone() for k, p in parameters.items()}, folder / "start.pt")


def read_job(folder: Path) -> Job:
    """The sizes of a job folder."""
    return Job(**json.loads((folder / "job.json").read_text()))


def load_model(job: Job) -> tuple[Any, dict[str, torch.nn.Parameter]]:
    """The PEFT model in fp32 and its trainable parameters by name."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32)
    config = LoraConfig(r=job.rank, lora_alpha=2 * job.rank, target_modules="all-linear")
    model = get_peft_model(base, config).eval()
    return model, {name: p for name, p in model.named_parameters() if p.requires_grad}


def load(parameters: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Put an adapter into the model."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])


def train(
    model: Any, parameters: Mapping[str, Tensor], batches: Iterable[Any], rate: float
) -> dict[str, Tensor]:
    """One client's steps from the adapter that the model holds; a copy of where they end."""
    trained = list(parameters.values())
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    for batch in batches:
        ids = torch.as_tensor(batch)
        optimizer.zero_grad(set_to_none=True)
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    return {name: p.detach().clone() for name, p in parameters.items()}


def mean_state(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The plain mean of adapters."""
    return {name: torch.stack([s[name] for s in states]).mean(0) for name in states[0]}


@torch.no_grad()
def held_out_loss(model: Any, folder: Path) -> float:
    """Mean loss on batches that nobody trained on."""
    ids = torch.from_numpy(np.load(folder / "held_out.npy"))
    return float(model(input_ids=ids, labels=ids, use_cache=False).loss)


def process_age_s() -> float:
    """Seconds since this process was started, interpreter and imports included."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    started = ticks / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def tree_processor_s() -> float:
    """Processor seconds of this process and of all processes that live below it."""
    fields: dict[int, list[str]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields[int(path.parent.name)] = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # ended meanwhile
    ours, frontier = {os.getpid()}, {os.getpid()}
    while frontier:
        frontier = {pid for pid, entry in fields.items() if int(entry[1]) in frontier} - ours
        ours |= frontier
    ticks = sum(int(fields[pid][11]) + int(fields[pid][12]) for pid in ours)
    return ticks / os.sysconf("SC_CLK_TCK")


def answer(
    tool: str,
    startup_s: float,
    rounds_s: Sequence[float],
    loss: float,
    rounds_processor_s: Sequence[float] = (),
) -> None:
    """Print what was measured as one line of JSON."""
    print(
        json.dumps(
            {
                "tool": tool,
                "startup_s": startup_s,
                "rounds_s": list(rounds_s),
                "rounds_processor_s": list(rounds_processor_s),
                "total_s": process_age_s(),
                "held_out_loss": loss,
            }
        ),
        flush=True,
    )
