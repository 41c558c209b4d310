"""What answers the tasks of clients, in this process or in a worker."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from airtune.config.experiment import ExperimentConfig
from airtune.cost.device import DeviceProfile
from airtune.experiment.composition import compose_method
from airtune.experiment.learning_rate import learning_rate
from airtune.experiment.shards import deal_devices, load_rows
from airtune.experiment.trained import trainable
from airtune.federated.backends.backend import ClientSide
from airtune.tuning.adapter import trained_parameters
from airtune.tuning.base_model import BaseModel, load_base, map_weights, use_threads
from airtune.tuning.local import Schedule, TokenBatch, TrainingSettings
from airtune.update.codec import shapes_of
from airtune.workload.architecture import architecture_of


def compose_clients(
    config: ExperimentConfig,
    base: BaseModel,
    devices: tuple[DeviceProfile, ...],
    batches: Callable[[int, int], Sequence[TokenBatch]],
    tests: Callable[[int], Iterable[TokenBatch]],
    weights: str | None = None,
    *,
    check_fit: bool = True,
) -> ClientSide:
    """What answers the tasks of clients: the method on the model, with the clients' rows.

    `batches(client, round)` are those of training, `tests(tokens)` the test rows at about so many
    tokens a batch. `weights` is where the frozen weights are shared by several processes;
    `check_fit` is that of `compose_method`.
    """
    model = trainable(base, config)
    if weights:
        map_weights(model, weights)
    method = compose_method(config, model, devices, check_fit=check_fit)
    section = config.training
    training = TrainingSettings(
        section.optimizer,
        learning_rate(config, architecture_of(base.config)),
        section.batch_size,
        section.local_steps,
        section.max_grad_norm,
        section.keep_optimizer,
        Schedule(section.schedule, config.rounds, section.warmup_rounds),
        section.weight_decay,
        section.gradient_accumulation,
        section.gradient_checkpointing,
        config.tokens_at_once,
    )
    shapes = shapes_of(trained_parameters(model))
    at_once = training.limit(next(model.parameters()).device.type)
    return ClientSide(
        method, model, shapes, batches, training, config.seed, partial(tests, at_once)
    )


def load_clients(config: ExperimentConfig, weights: str | None = None) -> ClientSide:
    """The same in a worker process, on one thread, from the same files."""
    use_threads(config.threads or 1)
    base = load_base(
        config.model,
        config.dtype,
        compute_dtype=config.compute_dtype,
        trust_remote_code=config.trust_remote_code,
    )
    architecture = architecture_of(base.config)
    limits = architecture.max_tokens, base.embeddings
    tests, shards = load_rows(config, base.tokenizer, *limits)
    devices = deal_devices(config)
    return compose_clients(config, base, devices, shards.batches, tests.batches, weights)
