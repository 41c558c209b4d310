"""Training speed: the same job, the same tokens and the same loss, in airtune and in its peers.

    python benchmarks/speed.py [--shapes builtin gpt2] [--cells 1x32 4x64 4x128]
                               [--peers plain flower pfl] [--rounds 3] [--environments FOLDER]

Every cell is one job of `peers/job.py` (FedAvg of LoRA rank 8 on all linear layers, AdamW), done by
each tool in a process of its own, one after the other. Counted is the fastest round after the first
(steady state), in real seconds and, where the tool says, in processor seconds of its processes (for
a busy machine, where real time measures the others; threads that spin while they wait count as
computing), and the whole process. Plain PEFT runs with torch's own number of threads and with one.
`floor_s` is the job's FLOPs at the rate of a 2048 x 2048 matrix product measured just before, on
all cores. Flower and pfl-research are installed into environments of their own, and left out
where that fails. A tool that ends at another loss stops the benchmark.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reporting import as_installed, report

PEERS = Path(__file__).parent / "peers"
CLIENTS = {"builtin": 32, "gpt2": 8}
STEPS = {"builtin": 5, "gpt2": 1}
PEERS_KNOWN = ["plain", "flower", "pfl"]
RANK = 8
SAME_LOSS = 2e-3


def make_model(shape: str, folder: Path) -> str:
    """Where `from_pretrained` finds the model: the built-in one, or GPT-2 small's shape, random."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from airtune.tuning.base_model import model_location

    if shape == "builtin":
        return model_location("builtin")
    torch.manual_seed(0)
    config = GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    GPT2LMHeadModel(config).save_pretrained(folder / shape)
    return str(folder / shape)


def job_flops(model: str, job: Any) -> float:
    """Operations of one round, logits of every position included."""
    from airtune.workload.adapter_shape import AdapterShape
    from airtune.workload.architecture import load_architecture
    from airtune.workload.step import Step
    from airtune.workload.transformer import workload

    step = workload(load_architecture(model), AdapterShape(RANK), Step(job.rows, job.tokens))
    return float(step.flops * job.clients * job.steps)


def gemm_flop_rate(size: int = 2048) -> float:
    """FLOP/s of one thread at a square fp32 product, the best of five."""
    import torch

    torch.set_num_threads(1)
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        a @ b
        best = min(best, time.process_time() - began)
    return 2.0 * size**3 / best


def peer_python(peer: str, environments: Path) -> str:
    """The interpreter of a peer's own environment, made on first use."""
    folder = environments / peer
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        needs = str(PEERS / f"requirements-{peer}.txt")
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", needs], check=True)
    return str(python)


def available(peers: Sequence[str], environments: Path) -> list[str]:
    """The peers whose environments are there or can be made; says which are left out."""
    found = []
    for peer in peers:
        try:
            if peer != "plain":
                peer_python(peer, environments)
        except (subprocess.CalledProcessError, OSError) as error:
            shutil.rmtree(environments / peer, ignore_errors=True)
            print(f"{peer} is left out: its environment cannot be made ({error}).", flush=True)
        else:
            found.append(peer)
    return found


def commands(peers: Sequence[str], engines: Sequence[str], environments: Path) -> list[list[str]]:
    """One command line a tool, the job folder left out."""
    ours = [[sys.executable, str(PEERS / "airtune_job.py"), "--engine", name] for name in engines]
    scripts = {"flower": "flower_peft.py", "pfl": "pfl_peft.py"}
    plain = [sys.executable, str(PEERS / "plain_peft.py")]
    # On one thread as well, since on a small model a second one may cost more than it brings.
    both = [plain, [*plain, "--threads", "1"]] if "plain" in peers else []
    found = ours + both
    for peer in peers:
        if peer != "plain":
            found.append([peer_python(peer, environments), str(PEERS / scripts[peer])])
        if peer == "pfl":
            # Its threads, too, only wait on a small model.
            found.append([*found[-1], "--threads", "1"])
    return found


def measure(command: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run one tool on a job; what it says."""
    environment = as_installed()
    environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run(
        [*command, str(folder)], check=False, capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def cell(shape: str, size: str, options: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """All tools on one job; times as multiples of our fastest."""
    sys.path.insert(0, str(PEERS))
    from job import Job, write_job

    from airtune.workload.architecture import load_architecture

    rows, tokens = map(int, size.split("x"))
    model = make_model(shape, scratch)
    job = Job(model, RANK, CLIENTS[shape], options.rounds, STEPS[shape], rows, tokens)
    folder = scratch / f"{shape}-{size}"
    write_job(folder, job, load_architecture(model).vocab_size)
    floor_s = job_flops(model, job) / (gemm_flop_rate() * (os.cpu_count() or 1))
    found = []
    for command in commands(options.peers, options.engines, options.environments):
        found.append(measure(command, folder))
        loss, first = found[-1]["held_out_loss"], found[0]["held_out_loss"]
        if abs(loss - first) > SAME_LOSS:
            raise SystemExit(f"{found[-1]['tool']} ended at loss {loss}, airtune at {first}")
        print(found[-1]["tool"], found[-1]["rounds_s"], flush=True)
    steady = [_fastest(answer["rounds_s"]) for answer in found]
    processor = [_fastest(answer.get("rounds_processor_s", [])) for answer in found]
    return [
        {
            "shape": shape,
            "step": size,
            "clients": job.clients,
            "tool": answer["tool"],
            "round_s": seconds,
            "ratio": seconds / steady[0],
            "floor_share": floor_s / seconds,
            "whole_job_s": answer["total_s"],
            "job_ratio": answer["total_s"] / found[0]["total_s"],
            "processor_round_s": used or None,
            "processor_ratio": used / processor[0] or None,
            "held_out_loss": answer["held_out_loss"],
        }
        for answer, seconds, used in zip(found, steady, processor, strict=True)
    ]


def _fastest(rounds: Sequence[float]) -> float:
    """The fastest round but the first, which also starts processes; 0 without rounds."""
    return min(rounds[1:] or rounds, default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=list(CLIENTS), default=list(CLIENTS))
    parser.add_argument("--cells", nargs="+", default=["1x32", "4x64", "4x128"])
    parser.add_argument("--peers", nargs="*", choices=PEERS_KNOWN, default=PEERS_KNOWN)
    parser.add_argument("--engines", nargs="+", default=["batched-workers"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--environments", type=Path, default=Path(tempfile.gettempdir()) / "airtune-peers"
    )
    parser.add_argument("--name", default="speed", help="of the file in benchmarks/results")
    options = parser.parse_args()
    options.peers = available(options.peers, options.environments)
    with tempfile.TemporaryDirectory() as scratch:
        rows = [
            row
            for shape in options.shapes
            for size in options.cells
            for row in cell(shape, size, options, Path(scratch))
        ]
    report(options.name, rows, peers=list(options.peers))


if __name__ == "__main__":
    main()
