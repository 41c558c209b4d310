"""Does the orthogonality penalty do what it should, and is a rank worth more than its bytes?

Two tasks, 4 clients, from the same start with the same batches: the stories260K model on GSM8K
(Dirichlet 0.5 over answer lines), or the built-in model on `builtin:slots`. Part `penalty` sends
everything: mean |cos| over pairs of ranks in A and in B of the merged adapter, the least share over
K of the best rank-K energy that the K largest norms hold, and the test loss over that without a
penalty; `svd` is the gauge (`orthogonalise`) in its place. Part `sparse` sends a fixed share of the
ranks, or as many bytes of something else, merged as the rows say or as `--merge` says. Part
`latency` runs 200 rounds of the built-in model over independent Rayleigh fading, with everything
about the plan left to airtune: does the mean latency meet the target?

    python benchmarks/soft.py penalty|sparse|latency [--task gsm8k|builtin] [--rows a,b]
        [--seeds 1] [--merge sent|mean]
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from reporting import report

from airtune import Experiment
from airtune.experiment.run import Run
from airtune.methods.soft_tsfa.options import SoftTsfaSection
from airtune.tuning.adapter import factor_pairs
from airtune.tuning.orthogonality import mean_cosine
from airtune.update.rank_sparse import norm_importance

PENALTIES = (
    ("none", 0.0, None),
    ("raw", 10.0, "raw"),
    ("raw", 100.0, "raw"),
    ("relative", 0.03, "relative"),
    ("relative", 0.1, "relative"),
    ("relative", 0.3, "relative"),
    ("relative", 1.0, "relative"),
    ("svd", 0.0, None),
)
# The largest ranks are a choice of the sparsifier `importance` alone.
PENALISED = {"orthogonalise": "none", "penalty": 0.03}
LARGEST = {**PENALISED, "choice": "largest"}
SPARSE: dict[str, dict[str, Any]] = {
    "drawn": {},
    "largest": {"choice": "largest"},
    "random": {"sparsifier": "random"},
    "top-k": {"sparsifier": "top-k"},
    "norm": {"choice": "largest", "importance": "norm"},
    "svd": {"sparsifier": "svd"},
    "penalty and largest": LARGEST,
    "penalty and random": {**PENALISED, "sparsifier": "random"},
    "penalty and top-k": {**PENALISED, "sparsifier": "top-k"},
    "penalty and plain mean": {**LARGEST, "merge": "mean"},
    "penalty and feedback": {**LARGEST, "error_feedback": True, "merge": "mean"},
}


def task(name: str, data: Path, learning_rate: float | None) -> dict[str, Any]:
    """What is learned, and how: the sections of the experiment that differ between the tasks."""
    training = {"batch_size": 4, "keep_optimizer": False, "schedule": "constant"}
    if name == "builtin":
        return {
            "data": {"train": "builtin:slots", "score_rows": 0, "test_limit": 128},
            "training": {**training, "learning_rate": learning_rate or 1e-2, "local_steps": 4},
        }
    return {
        "model": str(data / "stories260K" / "hf"),
        "data": {
            "train": str(data / "gsm8k" / "train.jsonl"),
            "test": str(data / "gsm8k" / "test.jsonl"),
            "max_tokens": 384,
            "test_limit": 100,
            "score_rows": 0,
            "partition": {"kind": "dirichlet", "concentration": 0.5},
        },
        "training": {**training, "learning_rate": learning_rate or 5e-3, "local_steps": 6},
    }


def run(options: argparse.Namespace, seed: int = 0, **soft: Any) -> Run:
    """One run; only the options of soft_tsfa differ."""
    experiment = Experiment(
        **task(options.task, options.data, options.learning_rate),
        method="soft_tsfa",
        soft_tsfa=soft,
        adapter={"rank": options.rank},
        clients={"count": 4},
        cell={"path_loss": "log_distance"},
        rounds=options.rounds,
        threads=1,
        engine="batched",
        seed=seed,
    )
    folder = Path(tempfile.mkdtemp()) / "run"
    return experiment.run(folder)


def energy_shares(state: dict[str, torch.Tensor]) -> list[float]:
    """For K = 1 .. r: energy of the K ranks of largest norm over the best rank-K energy."""
    importance = norm_importance(state)
    pairs = factor_pairs(state)
    rank = state[pairs[0].lora_a].shape[0]
    held, best = torch.zeros(rank), torch.zeros(rank)
    for pair in pairs:
        a, b = state[pair.lora_a].double(), state[pair.lora_b].double()
        order = importance[pair.matrix].argsort(descending=True)
        values = torch.linalg.svdvals(b @ a).square()[:rank].cumsum(0)
        for k in range(rank):
            chosen = order[: k + 1]
            held[k] += (b[:, chosen] @ a[chosen]).square().sum()
            best[k] += values[k]
    return [float(share) for share in held / best]


def penalty(options: argparse.Namespace) -> None:
    """Send everything, at several strengths."""
    rows, runs, reference = [], [], None
    for name, strength, form in PENALTIES:
        if options.rows and name not in options.rows:
            continue
        gauge = "svd" if name == "svd" else "none"
        # A form without a penalty would have no effect and is refused.
        forms: dict[str, Any] = {"penalty_form": form} if form else {}
        done = run(options, penalty=strength, sparsifier="dense", orthogonalise=gauge, **forms)
        runs.append(done)
        state = dict(done.state.adapter)
        cosine, shares = mean_cosine(state), energy_shares(state)
        loss = done.summary["final_test_loss"]
        reference = reference or loss
        rows.append(
            {
                "form": name,
                "strength": strength,
                "cosine_a": cosine.lora_a,
                "cosine_b": cosine.lora_b,
                "least_energy_share": min(shares),
                "energy_share_half": shares[options.rank // 2 - 1],
                "loss": loss,
                "loss_ratio": loss / reference,
            }
        )
        print(rows[-1], flush=True)
    report(f"soft_penalty_{options.task}", rows, **facts(options, runs[-1]))


def sparse(options: argparse.Namespace) -> None:
    """Send a share of it, in as many bytes."""
    rows, done = [], []
    shared: dict[str, Any] = {"solver": "fixed-sparsity", "sparsity": options.sparsity}
    merge = {"merge": options.merge} if options.merge else {}
    for name in options.rows or SPARSE:
        done = [
            run(options, seed, **{**shared, **SPARSE[name], **merge})
            for seed in range(options.seeds)
        ]
        losses = [one.summary["final_test_loss"] for one in done]
        rows.append(
            {
                "sent": name,
                "uplink_mb": done[0].summary["uplink_bits"] / 8e6,
                "loss": sum(losses) / len(losses),
                "losses": losses,
            }
        )
        print(rows[-1], flush=True)
    ending = f"_{options.merge}" if options.merge else ""
    report(f"soft_sparse_{options.task}{ending}", rows, **facts(options, done[0]))


def latency(options: argparse.Namespace) -> None:
    """The mean latency of many rounds over the target, started at the queue's stationary value."""
    experiment = Experiment(
        method="soft_tsfa",
        rounds=200,
        clients={"count": 4},
        adapter={"rank": options.rank, "target_modules": ["q_proj"]},
        training={"local_steps": 1, "batch_size": 1, "learning_rate": 0.01, "schedule": "constant"},
        data={
            "train": "builtin:slots",
            "test_limit": 1,
            "score_rows": 0,
            "train_limit": 60,
            "max_tokens": 64,
        },
        cell={
            "path_loss": "log_distance",
            "fading": "rayleigh",
            "fading_correlation": 0.0,
            "bandwidth_hz": 1e5,
        },
        threads=1,
        engine="batched",
    )
    done = experiment.run(Path(tempfile.mkdtemp()) / "run")
    section, records = done.config.section(SoftTsfaSection), done.records
    mean = sum(record["latency_s"] for record in records) / len(records)
    target = section.latency_target_s or 0.0
    row = {
        "rounds": len(records),
        "target_s": target,
        "mean_latency_s": mean,
        "mean_over_target": mean / target,
        "least_s": min(record["latency_s"] for record in records),
        "most_s": max(record["latency_s"] for record in records),
        "queue_start_s": section.virtual_queue,
        "queue_end_s": done.state.planner["virtual_queue"],
        "skipped": sum(len(record["skipped"]) for record in records),
        "planned_is_charged": all(
            record["latency_s"] == record["planned_latency_s"] for record in records
        ),
    }
    report("soft_latency", [row], model="built-in, 4 clients, rank 8 on q_proj, Rayleigh fading")


def facts(options: argparse.Namespace, done: Run) -> dict[str, Any]:
    """What all rows share."""
    return {
        "model": {
            "gsm8k": "stories260K on GSM8K, 4 clients, Dirichlet 0.5, 6 local steps of 4 rows",
            "builtin": "built-in model on builtin:slots, 4 clients, 4 local steps of 4 rows",
        }[options.task],
        "rounds": options.rounds,
        "rank": options.rank,
        "learning_rate": done.config.training.learning_rate,
        "sparsity": options.sparsity if options.part == "sparse" else 0.0,
        "start_loss": done.summary["start_test_loss"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("part", choices=["penalty", "sparse", "latency"])
    parser.add_argument("--data", type=Path, default=os.environ.get("AIRTUNE_TEST_DATA"))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--sparsity", type=float, default=0.75)
    parser.add_argument("--task", choices=["gsm8k", "builtin"], default="gsm8k")
    parser.add_argument("--rows", type=lambda text: text.split(","), help="names, else all")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--merge", choices=["sent", "mean"], help="of every row of part sparse")
    options = parser.parse_args()
    {"penalty": penalty, "sparse": sparse, "latency": latency}[options.part](options)


if __name__ == "__main__":
    main()
