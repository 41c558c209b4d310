"""Does the orthogonality penalty do what it should, and is a rank worth more than its bytes?

The stories260K model on GSM8K, 4 clients, Dirichlet 0.5 over answer lines, from the same start with
the same batches. Part `penalty` sends everything: mean |cos| over pairs of ranks in A and in B of
the merged adapter, the least share over K of the best rank-K energy that the K largest norms hold,
and the test loss over that without a penalty. Part `sparse` sends a fixed share of the ranks, or as
many bytes of something else.

    python benchmarks/soft.py penalty|sparse [--data FOLDER] [--rounds 6]
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
from airtune.tuning.factors import factor_pairs
from airtune.tuning.orthogonality import mean_cosine
from airtune.update.sparsify import norm_importance

PENALTIES = (
    ("none", 0.0, "raw"), ("raw", 10.0, "raw"), ("raw", 100.0, "raw"),
    ("relative", 0.3, "relative"), ("relative", 1.0, "relative"), ("relative", 3.0, "relative"),
)  # fmt: skip
SPARSE = (
    ("change", {}),
    ("norm", {"importance": "norm"}),
    ("change, feedback", {"error_feedback": True}),
    ("random", {"sparsifier": "random"}),
    ("top-k", {"sparsifier": "top-k"}),
    ("svd", {"sparsifier": "svd"}),
    ("dense", {"sparsifier": "dense"}),
)


def run(data: Path, rounds: int, learning_rate: float, rank: int, **soft: Any) -> Run:
    """One run; only the options of soft_tsfa differ."""
    experiment = Experiment(
        model=str(data / "stories260K" / "hf"),
        method="soft_tsfa",
        soft_tsfa=soft,
        adapter={"rank": rank},
        data={
            "train": str(data / "gsm8k" / "train.jsonl"),
            "test": str(data / "gsm8k" / "test.jsonl"),
            "max_tokens": 384,
            "test_limit": 100,
            "score_rows": 0,
            "partition": {"kind": "dirichlet", "concentration": 0.5},
        },
        training={"learning_rate": learning_rate, "local_steps": 6, "batch_size": 4},
        clients={"count": 4},
        cell={"path_loss": "log_distance"},
        rounds=rounds,
        threads=1,
        engine="sequential",
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
    rows, reference = [], None
    for name, strength, form in PENALTIES:
        done = run(
            options.data, options.rounds, options.learning_rate, options.rank,
            penalty=strength, penalty_form=form, sparsifier="dense",
        )  # fmt: skip
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
    report("soft_penalty", rows, **facts(options, done))


def sparse(options: argparse.Namespace) -> None:
    """Send a share of it, in as many bytes."""
    rows = []
    for sparsity in options.sparsity:
        for name, soft in SPARSE:
            done = run(
                options.data, options.rounds, options.learning_rate, options.rank,
                solver="fixed-sparsity", sparsity=sparsity, **soft,
            )  # fmt: skip
            rows.append(
                {
                    "sparsity": sparsity,
                    "sent": name,
                    "uplink_mb": done.summary["uplink_bits"] / 8e6,
                    "loss": done.summary["final_test_loss"],
                }
            )
            print(rows[-1], flush=True)
    report("soft_sparse", rows, **facts(options, done))


def facts(options: argparse.Namespace, done: Run) -> dict[str, Any]:
    """What all rows share."""
    return {
        "model": "stories260K on GSM8K, 4 clients, Dirichlet 0.5, 6 local steps of 4 rows",
        "rounds": options.rounds,
        "rank": options.rank,
        "learning_rate": options.learning_rate,
        "start_loss": done.summary["start_test_loss"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("part", choices=["penalty", "sparse"])
    parser.add_argument("--data", type=Path, default=os.environ.get("AIRTUNE_TEST_DATA"))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.5, 0.75])
    options = parser.parse_args()
    {"penalty": penalty, "sparse": sparse}[options.part](options)


if __name__ == "__main__":
    main()
