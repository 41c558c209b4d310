"""Federated against centralised LoRA on as many samples, same model, data, rank and learning rate.

    python benchmarks/against_centralised.py [EXPERIMENT.yaml] [--set key=value]...

Centralised training pools all shards and takes the same number of optimiser steps of the same batch
size as all clients together, one after another (the strongest reading of "as many samples": no
averaging, 8 or 20 times more sequential steps), and once more with the cohort's batches joined into
one (the same number of sequential steps as one client). Loss ratios are federated / centralised.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from reporting import report

from airtune import Experiment
from airtune.data.batches import Batch, local_batches, make_batch
from airtune.experiment.world import World, build_world
from airtune.federated.cohort import draw_cohort
from airtune.tuning.local import train_locally


def pooled_batches(world: World, samples: int, batch_size: int) -> Iterator[Batch]:
    """`samples` training rows in random order without shards, epoch after epoch."""
    shards = world.shards
    rows = np.arange(len(shards.train))
    for chosen in local_batches(rows, batch_size, samples // batch_size, shards.seed, 0, 0):
        yield make_batch(shards.train, chosen, shards.pad_token)


def centralised_loss(world: World, samples: int, batch_size: int) -> float:
    """Test loss of LoRA trained on pooled data from the same start."""
    start = world.unmeasured_start().adapter
    batches = pooled_batches(world, samples, batch_size)
    result = train_locally(
        world.model, dict(start), batches, world.side.training, (world.shards.seed, 0, 0)
    )
    return world.evaluate(result.state).loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", nargs="?", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--name", default="against_centralised")
    arguments = parser.parse_args()
    experiment = Experiment.load(arguments.experiment, arguments.settings)
    with tempfile.TemporaryDirectory() as folder:
        summary = experiment.run(Path(folder) / "run").summary
    world = build_world(experiment.config)
    config = experiment.config
    cohort = len(draw_cohort(world.context.cohort, config.clients.count, config.seed, 0))
    batch = config.training.batch_size
    samples = summary["rounds"] * cohort * config.training.local_steps * batch
    small = centralised_loss(world, samples, batch)
    large = centralised_loss(world, samples, batch * cohort)
    rows = [
        {
            "model": config.model if config.model == "builtin" else Path(config.model).parent.name,
            "data": Path(config.data.train).parent.name or config.data.train,
            "clients": config.clients.count,
            "rounds": summary["rounds"],
            "samples": samples,
            "start_loss": summary["start_test_loss"],
            "federated_loss": summary["final_test_loss"],
            "centralised_loss": small,
            "ratio": summary["final_test_loss"] / small,
            "centralised_joined_batches_loss": large,
            "ratio_joined_batches": summary["final_test_loss"] / large,
        }
    ]
    report(arguments.name, rows)


if __name__ == "__main__":
    sys.exit(main())
