"""How clients are trained: here or on worker processes, one by one or as stacks.

`sequential` and `workers` give the same bytes, since every client is trained by the same code on
one thread. `batched` and `batched-workers` give the same numbers up to rounding, and the same bytes
for the same number of workers. The choice is made from shapes before round 1 and written into the
resolved experiment. On a GPU one process trains everybody.
"""

from functools import partial
from typing import Any

from airtune.config.experiment import ExperimentConfig
from airtune.experiment.composition import compose_method
from airtune.experiment.devices import deal_devices
from airtune.experiment.engine_choice import EngineChoice
from airtune.experiment.free_memory import clients_at_once
from airtune.experiment.shards import Shards, load_shards
from airtune.experiment.trained import trainable
from airtune.federated.backends.backend import Backend, ClientSide, InProcess
from airtune.federated.backends.ray_actors import RayActors
from airtune.federated.backends.worker_host import PRELOADED, WorkerHost
from airtune.federated.backends.workers import Workers
from airtune.federated.method import Method
from airtune.tuning.adapter import trained_parameters
from airtune.tuning.base_model import load_base, map_weights, share_weights, use_threads
from airtune.tuning.label_loss import TOKENS_AT_ONCE
from airtune.tuning.local import Schedule, TrainingSettings
from airtune.update.codec import shapes_of
from airtune.workload.architecture import Architecture

SMALL_MODEL_WIDTH = 512
"""Below this width a second thread waits more than it computes, above all on a busy machine."""


def is_small(architecture: Architecture) -> bool:
    """Whether one thread trains it as fast as several."""
    return architecture.hidden_size < SMALL_MODEL_WIDTH


def start_host() -> WorkerHost:
    """A host that at once begins to import what workers need, this module included."""
    return WorkerHost((*PRELOADED, __name__))


def make_backend(
    config: ExperimentConfig, engine: EngineChoice, side: ClientSide, host: WorkerHost | None
) -> Backend:
    """The backend of an engine; workers make `side` again, on this process's frozen weights.

    `host`: that of the workers, where it was started ahead; closed where there are none.
    """
    together = clients_at_once(side.shapes) if engine.name.startswith("batched") else 1
    make_side = partial(build_client_side, config)
    if engine.workers and config.backend == "ray":
        return RayActors(make_side, engine.workers, together, config.ray_address)
    if engine.workers:
        weights = share_weights(side.model)
        make_side = partial(build_client_side, config, weights and weights.path)
        return Workers(
            make_side, engine.workers, together, side.watch, weights, host or start_host()
        )
    if host is not None:
        host.close()
    return InProcess(side, together)


def build_client_side(config: ExperimentConfig, weights: str | None = None) -> ClientSide:
    """A worker's own client side: the same model, data and method, on one thread.

    The model is loaded like that of the main process and then uses its `weights`.
    """
    use_threads(config.threads or 1)
    base = load_base(config.model, config.dtype, trust_remote_code=config.trust_remote_code)
    architecture = Architecture.from_config(base.config)
    shards = load_shards(config, base.tokenizer, architecture.max_tokens, base.embeddings)
    model = trainable(base, config)
    if weights:
        map_weights(model, weights)
    return client_side(config, compose_method(config, model, deal_devices(config)), model, shards)


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
    shapes = shapes_of(trained_parameters(model))
    at_once = TOKENS_AT_ONCE[next(model.parameters()).device.type]
    test_batches = partial(shards.test_batches, at_once)
    return ClientSide(method, model, shapes, shards.batches, training, config.seed, test_batches)
