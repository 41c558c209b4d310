"""The job with pfl-research's simulated backend and a PEFT model.

python benchmarks/peers/pfl_peft.py JOB [--threads N]
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from job import answer, held_out_loss, load, load_model, process_age_s, read_job
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel


class Causal(torch.nn.Module):
    """What pfl wants of a model: a loss and metrics on a batch."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def loss(self, ids: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self.model(input_ids=ids, labels=ids, use_cache=False).loss
        return loss

    @torch.no_grad()
    def metrics(self, ids: torch.Tensor) -> dict[str, Any]:
        # The job measures no metric between rounds, so that no tool pays for one.
        return {"rows": Weighted(len(ids), 1)}


class Turns:
    """Every client once a round, round after round, each with that round's batches."""

    def __init__(self, tokens: Any) -> None:
        self._turns = iter([batches for cohort in tokens for batches in cohort])

    def make(self, user: int) -> Dataset:
        batches = next(self._turns)
        rows = torch.as_tensor(batches).reshape(-1, batches.shape[-1])
        return Dataset(raw_data=[rows], user_id=str(user))


class Clock(TrainingProcessCallback):  # type: ignore[misc]
    """Real seconds of every round."""

    def __init__(self) -> None:
        self.rounds_s: list[float] = []
        self.startup_s = 0.0

    def on_train_begin(self, *, model: Any) -> Metrics:
        self.startup_s, self._began = process_age_s(), time.perf_counter()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        now = time.perf_counter()
        self.rounds_s.append(now - self._began)
        self._began = now
        return False, Metrics()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=Path)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    job = read_job(options.job)
    peft_model, parameters = load_model(job)
    load(parameters, torch.load(options.job / "start.pt"))
    model = PyTorchModel(
        model=Causal(peft_model),
        local_optimizer_create=lambda trained, lr: torch.optim.AdamW(
            [p for p in trained if p.requires_grad], lr=lr, weight_decay=0.0
        ),
        central_optimizer=torch.optim.SGD(list(parameters.values()), lr=1.0),
    )
    turns = Turns(np.load(options.job / "tokens.npy"))
    order = iter(list(range(job.clients)) * job.rounds)
    federated = FederatedDataset(turns.make, lambda: next(order))
    clock = Clock()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=job.rounds,
            evaluation_frequency=job.rounds,
            train_cohort_size=job.clients,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=federated, val_data=federated),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1,
            local_learning_rate=job.learning_rate,
            local_batch_size=job.rows,
            local_max_grad_norm=1.0,
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=job.rows),
        callbacks=[clock],
    )
    answer("pfl-research", clock.startup_s, clock.rounds_s, held_out_loss(peft_model, options.job))


if __name__ == "__main__":
    main()
