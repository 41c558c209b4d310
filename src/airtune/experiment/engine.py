"""Where and how clients are trained: here or on worker processes, one by one or as stacks.

`sequential` and `workers` give the same bytes, since every client is trained by the same code on
one thread. `batched` and `batched-workers` give the same numbers up to rounding, and the same bytes
for the same number of workers. The choice is made from shapes before round 1 and written into the
resolved experiment. On a GPU one process trains everybody.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from airtune.config import ExperimentConfig
from airtune.errors import InputError
from airtune.experiment.composition import compose_method
from airtune.experiment.shards import Shards, load_shards
from airtune.federated.backend import Backend, ClientSide, InProcess
from airtune.federated.method import Method
from airtune.federated.ray_actors import RayActors, cluster_cores
from airtune.federated.workers import Workers
from airtune.tuning.adapter import AdapterSettings, attach, initial_state
from airtune.tuning.adapter_stack import COPIES
from airtune.tuning.base_model import (
    CPU,
    CUDA,
    load_base,
    resolve_device,
    usable_cores,
    use_threads,
)
from airtune.tuning.batched import TOKENS_AT_ONCE
from airtune.tuning.cohort_tuner import CohortTuner
from airtune.tuning.local import TrainingSettings
from airtune.tuning.schedule import Schedule
from airtune.tuning.shared_weights import map_weights, share_weights
from airtune.tuning.stacked_linear import refuses_stacking
from airtune.tuning.tuner import Tuner
from airtune.update.codec import Shapes, shapes_of
from airtune.workload.architecture import Architecture

SMALL_MODEL_WIDTH = 512
"""Below this width a second thread waits more than it computes, above all on a busy machine."""
WORTHWHILE_STEPS = 400
"""Starting a worker costs about as much as two hundred steps of the built-in model."""
STACK_BYTES = 2**29
"""Memory for the clients of one stack, beside the model and its activations."""
HELD_BESIDES = 3
"""An adapter is also held as received, as trained, and as the change that is encoded."""


def is_small(architecture: Architecture) -> bool:
    """Whether one thread trains it as fast as several."""
    return architecture.hidden_size < SMALL_MODEL_WIDTH


@dataclass(frozen=True)
class EngineChoice:
    """An engine, its worker processes (None: it has none), why it is this one, and its device."""

    name: str
    workers: int | None = None
    reason: str = ""
    device: str = CPU

    @property
    def notice(self) -> str:
        """A sentence for the user."""
        processes = f", {self.workers} processes" if self.workers else ""
        because = f" ({self.reason})" if self.reason else ""
        return f"Engine: {self.name} on {self.device}{processes}{because}."


def training_device(config: ExperimentConfig) -> str:
    """Where this process trains; worker processes and Ray's actors compute on processor cores.

    Raises InputError where a GPU is asked for and there is none, or workers are asked for as well.
    """
    if config.backend == "ray" or config.engine.endswith("workers"):
        if config.device == CUDA:
            raise InputError(
                "device", CUDA, "auto or cpu with worker processes or Ray, which compute on cores",
                "or take engine=batched and backend=local",
            )  # fmt: skip
        return CPU
    return resolve_device(config.device)


def choose_engine(
    config: ExperimentConfig, side: ClientSide, step_tokens: float, device: str = CPU
) -> EngineChoice:
    """What was asked for, or for `auto` what the shapes suggest.

    `step_tokens` is the tokens of one client's step. A stack pays while several of them fit into
    one forward pass. Where clients cannot be stacked, they are trained one by one, and told why.
    """
    cohort = config.cohort.size or config.clients.count
    _check_backend(config, side)
    workers = config.workers or min(_cores(config), cohort)
    if isinstance(side.method.tuner, CohortTuner):
        reason = "the cohort trains together with its main server"
        return EngineChoice("sequential", None, reason, device)
    refusal = _refuses_stacking(side)
    if config.engine == "auto":
        steps = config.rounds * cohort * config.training.local_steps
        parallel = workers > 1 and config.threads in (None, 1) and steps >= WORTHWHILE_STEPS
        parallel = (parallel and device == CPU) or config.backend == "ray"
        stacked = cohort > 1 and 2 * step_tokens <= TOKENS_AT_ONCE[device] and not refusal
    else:
        parallel = config.engine.endswith("workers")
        stacked = config.engine.startswith("batched") and not refusal
    name = {
        (False, False): "sequential",
        (False, True): "workers",
        (True, False): "batched",
        (True, True): "batched-workers",
    }[stacked, parallel]
    reason = f"not batched: {refusal}" if refusal and config.engine != name else ""
    return EngineChoice(name, workers if parallel else None, reason, device)


def _cores(config: ExperimentConfig) -> int:
    """Cores for workers: of the running cluster, or of this machine."""
    if config.backend == "ray" and config.ray_address:
        return cluster_cores(config.ray_address)
    return usable_cores()


def _check_backend(config: ExperimentConfig, side: ClientSide) -> None:
    """Ray's actors are workers; what cannot have workers says so."""
    if config.backend == "local":
        return
    if isinstance(side.method.tuner, CohortTuner):
        raise InputError(
            "backend", "ray", f"local for {config.method}, whose cohort trains together"
        )
    if config.engine in ("sequential", "batched"):
        raise InputError("engine", config.engine, "auto, workers or batched-workers on Ray")


def _refuses_stacking(side: ClientSide) -> str:
    tuner = side.method.tuner
    if not isinstance(tuner, Tuner) or type(tuner).stackable is Tuner.stackable:
        return f"{type(tuner).__name__} knows no stacks"
    return refuses_stacking(side.model)


def make_backend(config: ExperimentConfig, engine: EngineChoice, side: ClientSide) -> Backend:
    """The backend of an engine; workers make `side` again, on this process's frozen weights."""
    together = clients_at_once(side.shapes) if engine.name.startswith("batched") else 1
    make_side = partial(build_client_side, config)
    if engine.workers and config.backend == "ray":
        return RayActors(make_side, engine.workers, together, config.ray_address)
    if engine.workers:
        weights = share_weights(side.model)
        make_side = partial(build_client_side, config, weights and weights.path)
        return Workers(make_side, engine.workers, together, side.watch, keeps=weights)
    return InProcess(side, together)


def clients_at_once(shapes: Shapes) -> int:
    """Clients whose adapters, gradients and moments fit into `STACK_BYTES`."""
    row = sum(math.prod(shape) for shape in shapes.values())
    return max(2, STACK_BYTES // (4 * (COPIES + HELD_BESIDES) * row))


def build_client_side(config: ExperimentConfig, weights: str | None = None) -> ClientSide:
    """A worker's own client side: the same model, data and method, on one thread.

    The model is loaded like that of the main process and then uses its `weights`.
    """
    use_threads(config.threads or 1)
    base = load_base(config.model, config.dtype)
    architecture = Architecture.from_config(base.config)
    shards = load_shards(config, base.tokenizer, architecture.max_tokens)
    model = attach(base, adapter_settings(config))
    if weights:
        map_weights(model, weights)
    return client_side(config, compose_method(config, model), model, shards)


def client_side(config: ExperimentConfig, method: Method, model: Any, shards: Shards) -> ClientSide:
    """What answers the tasks of clients."""
    section = config.training
    training = TrainingSettings(
        section.optimizer,
        section.learning_rate,
        section.batch_size,
        section.local_steps,
        section.max_grad_norm,
        section.keep_optimizer,
        Schedule(section.schedule, config.rounds, section.warmup_rounds),
    )
    shapes = shapes_of(initial_state(model, config.seed))
    return ClientSide(
        method, model, shapes, shards.batches, training, config.seed, shards.test_batches
    )


def adapter_settings(config: ExperimentConfig) -> AdapterSettings:
    """The adapter section in tuning's words."""
    section = config.adapter
    targets = section.target_modules
    modules = targets if isinstance(targets, str) else tuple(targets)
    return AdapterSettings(section.rank, section.alpha, modules, section.dropout)
