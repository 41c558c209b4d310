"""Where clients are trained: one after another here, or on a worker process per core.

Both give the same bytes, since every client is trained by the same code on one thread. The choice
is made from shapes before round 1 and written into the resolved experiment.
"""

from functools import partial
from typing import Any

from airtune.config import ExperimentConfig
from airtune.experiment.composition import compose_method
from airtune.experiment.shards import Shards, load_shards
from airtune.federated.backend import Backend, ClientSide, InProcess
from airtune.federated.method import Method
from airtune.federated.workers import Workers
from airtune.tuning.adapter import AdapterSettings, attach, initial_state
from airtune.tuning.base_model import load_base, usable_cores, use_threads
from airtune.tuning.local import TrainingSettings
from airtune.tuning.schedule import Schedule
from airtune.update.codec import shapes_of
from airtune.workload.architecture import Architecture

SMALL_MODEL_WIDTH = 512
"""Below this width a second thread waits more than it computes, above all on a busy machine."""
WORTHWHILE_STEPS = 400
"""Starting a worker costs about as much as two hundred steps of the built-in model."""


def is_small(architecture: Architecture) -> bool:
    """Whether one thread trains it as fast as several."""
    return architecture.hidden_size < SMALL_MODEL_WIDTH


def choose_engine(config: ExperimentConfig, architecture: Architecture) -> str:
    """`sequential` or `workers`; only `auto` is a question."""
    if config.engine != "auto":
        return config.engine
    cohort = config.cohort.size or config.clients.count
    steps = config.rounds * cohort * config.training.local_steps
    parallel = min(usable_cores(), cohort) > 1 and is_small(architecture)
    one_thread = config.threads in (None, 1)
    return "workers" if parallel and one_thread and steps >= WORTHWHILE_STEPS else "sequential"


def make_backend(config: ExperimentConfig, engine: str, side: ClientSide) -> Backend:
    """The backend of an engine; workers make their own copy of `side` from the experiment."""
    if engine == "workers":
        cohort = config.cohort.size or config.clients.count
        return Workers(partial(build_client_side, config), min(usable_cores(), cohort))
    return InProcess(side)


def build_client_side(config: ExperimentConfig) -> ClientSide:
    """A worker's own client side: the same model, data and method, on one thread."""
    use_threads(config.threads or 1)
    base = load_base(config.model, config.dtype)
    architecture = Architecture.from_config(base.config)
    shards = load_shards(config, base.tokenizer, architecture.max_tokens)
    model = attach(base, adapter_settings(config))
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
    return ClientSide(method, model, shapes, shards.batches, training, config.seed)


def adapter_settings(config: ExperimentConfig) -> AdapterSettings:
    """The adapter section in tuning's words."""
    section = config.adapter
    targets = section.target_modules
    modules = targets if isinstance(targets, str) else tuple(targets)
    return AdapterSettings(section.rank, section.alpha, modules, section.dropout)
