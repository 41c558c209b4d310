"""The job with airtune: the same client side, backend and server parts as `airtune run` uses.

python benchmarks/peers/airtune_job.py JOB [--engine batched-workers] [--workers 2]
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from job import Job, answer, held_out_loss, load, process_age_s, read_job, tree_processor_s
from torch import Tensor

from airtune.data.batches import Batch
from airtune.experiment.engine import clients_at_once
from airtune.federated.backend import Backend, ClientSide, ClientTask, InProcess
from airtune.federated.method import Method
from airtune.federated.workers import Workers
from airtune.methods.fedlora import BandwidthPlanner
from airtune.round_plan import ClientPlan
from airtune.tuning.adapter import AdapterSettings, attach, trained_parameters
from airtune.tuning.base_model import load_base, usable_cores
from airtune.tuning.local import TrainingSettings
from airtune.tuning.shared_weights import map_weights, share_weights
from airtune.tuning.tuner import FullTuner
from airtune.update.aggregate import FactorMean, Update
from airtune.update.codec import DenseCodec, shapes_of

ENGINES = ("sequential", "batched", "workers", "batched-workers")


def whole_batch(token_ids: Any) -> Batch:
    """Every token after the first of a row is to be learnt."""
    everywhere = np.ones(token_ids.shape, dtype=np.bool_)
    labels = everywhere.copy()
    labels[:, 0] = False
    return Batch(np.asarray(token_ids), everywhere, labels)


def make_side(folder: Path, weights: str | None = None, threads: int = 1) -> ClientSide:
    """A client side whose batches are the job's."""
    torch.set_num_threads(threads)
    job = read_job(folder)
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    model = attach(load_base(job.model), AdapterSettings(job.rank))
    if weights:
        map_weights(model, weights)

    def batches(client: int, round_index: int) -> list[Batch]:
        return [whole_batch(step) for step in tokens[round_index, client]]

    codec = DenseCodec("fp32")
    method = Method("job", BandwidthPlanner(), FullTuner(), codec, FactorMean(), codec)
    training = TrainingSettings(learning_rate=job.learning_rate)
    shapes = shapes_of({k: p.detach() for k, p in trained_parameters(model).items()})
    return ClientSide(method, model, shapes, batches, training, seed=0)


def make_backend(side: ClientSide, folder: Path, engine: str, workers: int) -> Backend:
    """As `airtune.experiment.engine` makes it."""
    together = clients_at_once(side.shapes) if engine.startswith("batched") else 1
    if not engine.endswith("workers"):
        return InProcess(side, together)
    weights = share_weights(side.model)
    make = partial(make_side, folder, weights and weights.path)
    return Workers(make, workers, together, side.watch, keeps=weights)


def run_round(
    side: ClientSide, backend: Backend, state: dict[str, Tensor], job: Job, index: int
) -> dict[str, Tensor]:
    """Broadcast, train, collect, average."""
    plans = [ClientPlan(client, 1.0, 1.0, job.rank) for client in range(job.clients)]
    broadcast = side.method.downlink.encode(state, plans[0])
    tasks = [ClientTask(index, plan.client, plan, broadcast) for plan in plans]
    reports = {report.client: report for report in backend.run(tasks)}
    codec = side.method.codec.in_round(state)
    updates: Sequence[Update] = [
        Update(plan.client, 1.0, codec.decode(reports[plan.client].payload, side.shapes, plan),
               codec.trained(plan))
        for plan in plans
    ]  # fmt: skip
    return side.method.aggregator.aggregate(state, updates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=Path)
    parser.add_argument("--engine", choices=ENGINES, default="batched-workers")
    parser.add_argument("--workers", type=int, default=usable_cores())
    options = parser.parse_args()
    job = read_job(options.job)
    parallel = options.engine.endswith("workers")
    side = make_side(options.job, threads=1 if parallel else usable_cores())
    parameters = trained_parameters(side.model)
    start = torch.load(options.job / "start.pt")
    state = {name.replace(".default.", "."): value for name, value in start.items()}
    backend = make_backend(side, options.job, options.engine, options.workers)
    startup_s, rounds_s, processor_s = process_age_s(), [], []
    for index in range(job.rounds):
        began, used = time.perf_counter(), tree_processor_s()
        state = run_round(side, backend, state, job, index)
        rounds_s.append(time.perf_counter() - began)
        processor_s.append(tree_processor_s() - used)
    backend.close()
    load(parameters, state)
    loss = held_out_loss(side.model, options.job)
    answer(f"airtune {options.engine}", startup_s, rounds_s, loss, processor_s)


if __name__ == "__main__":
    main()
