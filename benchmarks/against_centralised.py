"""A federated run against centralised LoRA on as many samples: same model, data and rank.

    airtune run EXPERIMENT.yaml --out runs/federated
    for rate in 0.005 0.01 0.02; do
      airtune run EXPERIMENT.yaml --out runs/centralised-$rate \
        --set method=centralised --set training.learning_rate=$rate
    done
    airtune run EXPERIMENT.yaml --out runs/joined --set method=centralised \
      --set clients.count=1 --set training.batch_size=CLIENTS_TIMES_AS_MANY \
      --set 'clients.devices=[macbook-pro-m1-max]'     # large batches need a device with memory
    python benchmarks/against_centralised.py NAME runs/federated runs/centralised-* runs/joined

`method: centralised` holds all data in one place and takes the steps of all clients one after
another, under the same schedule over rounds and with an optimiser that is never reset: at one batch
size, clients-times as many steps in sequence as any client takes, the strongest reading of "as many
samples" (`ratio`). With the clients' batches joined into one it takes as many steps as a client and
sees as many samples: what is left is the cost of averaging seldom and of skewed shards
(`ratio_joined`). The best of the runs of a kind counts.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reporting import report

from airtune import Run


def samples(run: Run) -> int:
    """Training rows seen by all clients together, some of them more than once."""
    training = run.config.training
    return len(run.records) * _cohort(run) * training.local_steps * training.batch_size


def _cohort(run: Run) -> int:
    return run.config.cohort.size or run.config.clients.count


def row(run: Run) -> dict[str, Any]:
    """What the table shows of a run."""
    training = run.config.training
    return {
        "method": run.config.method,
        "learning_rate": training.learning_rate,
        "batch_size": training.batch_size,
        "steps_in_sequence": len(run.records) * training.local_steps,
        "samples": samples(run),
        "start_loss": run.summary["start_test_loss"],
        "final_loss": run.summary["final_test_loss"],
    }


def refuse_unlike(run: Run, other: Run) -> None:
    """Two runs compare only where they saw as many samples of the same data."""

    def alike(one: Run) -> Mapping[str, Any]:
        config = one.config
        data = config.data.model_dump(exclude={"partition", "score_rows"})
        training = config.training
        return {
            "data": data,
            "model": config.model,
            "rank": config.adapter.rank,
            "seed": config.seed,
            "samples": samples(one),
            "schedule": training.schedule,
            "warmup_rounds": training.warmup_rounds,
            "start": one.summary["start_test_loss"],
        }

    for key, value in alike(run).items():
        if alike(other)[key] != value:
            sys.exit(f"{other.folder.path} differs in {key}: {alike(other)[key]}, not {value}.")


def ratio(rows: Sequence[Mapping[str, Any]], batch_size: int) -> float | None:
    """Federated loss over the best centralised one at this batch size; null where there is none."""
    losses = [entry["final_loss"] for entry in rows[1:] if entry["batch_size"] == batch_size]
    return rows[0]["final_loss"] / min(losses) if losses else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the result file")
    parser.add_argument("federated", type=Path)
    parser.add_argument("centralised", type=Path, nargs="+")
    arguments = parser.parse_args()
    federated = Run.open(arguments.federated)
    centralised = [Run.open(folder) for folder in arguments.centralised]
    for run in centralised:
        refuse_unlike(federated, run)
    config = federated.config
    rows = [row(federated), *map(row, centralised)]
    batch_size = config.training.batch_size
    report(
        arguments.name,
        rows,
        model=Path(config.model).parent.name or config.model,
        data=Path(config.data.train).parent.name or config.data.train,
        clients=config.clients.count,
        rounds=len(federated.records),
        training=config.training.model_dump(),
        server=config.server.model_dump(),
        below_start=1 - rows[0]["final_loss"] / rows[0]["start_loss"],
        ratio=ratio(rows, batch_size),
        ratio_joined=ratio(rows, batch_size * _cohort(federated)),
    )


if __name__ == "__main__":
    main()
