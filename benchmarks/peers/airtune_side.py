"""airtune's client side for the job, in a module of its own: worker processes import it."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from job import read_job

from airtune.data.batches import Batch
from airtune.experiment.engine import clients_at_once
from airtune.federated.backends.backend import Backend, ClientSide, InProcess
from airtune.federated.backends.worker_host import WorkerHost
from airtune.federated.backends.workers import Workers
from airtune.federated.bandwidth_planner import BandwidthPlanner
from airtune.federated.method import Method
from airtune.tuning.adapter import AdapterSettings, attach, trained_parameters
from airtune.tuning.base_model import load_base, map_weights, share_weights
from airtune.tuning.local import TrainingSettings
from airtune.tuning.tuner import FullTuner
from airtune.update.codec import DenseCodec, shapes_of
from airtune.update.means import FactorMean


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


def make_backend(
    side: ClientSide, folder: Path, engine: str, workers: int, host: WorkerHost | None
) -> Backend:
    """As `airtune.experiment.engine` makes it."""
    together = clients_at_once(side.shapes) if engine.startswith("batched") else 1
    if not engine.endswith("workers"):
        return InProcess(side, together)
    weights = share_weights(side.model)
    make = partial(make_side, folder, weights and weights.path)
    return Workers(make, workers, together, side.watch, weights, host)
