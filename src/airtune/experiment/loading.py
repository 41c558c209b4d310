"""What a world is made from: the server's cell and devices, the model, the clients' rows.

The first step of `world.build_world`. Files and hubs are read here and nowhere later; what is cheap
to check is checked first, before the model is loaded.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from airtune.config.experiment import ExperimentConfig
from airtune.cost.device import DeviceProfile
from airtune.errors import InputError
from airtune.experiment.composition import check_names
from airtune.experiment.engine import is_small, training_device
from airtune.experiment.gpu_memory import with_tokens
from airtune.experiment.learning_rate import with_learning_rate
from airtune.experiment.shards import deal_devices, with_template
from airtune.experiment.trained import refuse_uneven_charge, trained_shape, with_start
from airtune.federated.context import CohortSettings
from airtune.methods.registry import find_method
from airtune.tuning.base_model import BaseModel, load_base, use_threads
from airtune.wireless.channel import Channel, open_channel
from airtune.workload.adapter_shape import Trained
from airtune.workload.architecture import Decoder, architecture_of
from airtune.workload.config_source import read_config
from airtune.workload.precision import refuse_in_split

TRUST_VARIABLE = "AIRTUNE_TRUST_REMOTE_CODE"


@dataclass(frozen=True)
class LoadedServer:
    """What the server alone needs.

    `devices` has a profile per client. `measured` is the channel of a trace, a recording or a
    model of the user's (None: the channel is drawn). `charged` is the architecture that `charge_as`
    names (None: time, bits, energy and memory are those of the trained model).
    """

    devices: tuple[DeviceProfile, ...]
    measured: Channel | None
    charged: Decoder | None


@dataclass(frozen=True)
class LoadedModel:
    """The base model, which both sides hold, and what is to be trained of it.

    `config` has what the model's files settle: the day of the chat template and the adapter of a
    warm start. `device` is where this process trains, on `threads` threads.
    """

    config: ExperimentConfig
    base: BaseModel
    architecture: Decoder
    trained: Trained
    device: str
    threads: int


def prepared(config: ExperimentConfig, *, resolved: bool = False) -> ExperimentConfig:
    """The experiment as its method runs it, after every check that needs no file.

    Doing it twice changes nothing. `resolved`: the experiment is that of a run folder.
    """
    check_names(config)
    config = find_method(config.method).prepare(config)
    CohortSettings(config.cohort.size, config.cohort.dropout).check(config.clients.count)
    refuse_unasked_code(config, resolved)
    if find_method(config.method).splits:
        training = config.training
        refuse_in_split(training.gradient_checkpointing, training.gradient_accumulation)
    return config


def refuse_unasked_code(config: ExperimentConfig, resolved: bool) -> None:
    """A run folder is data: it runs a model's own code only where the user says so again."""
    if resolved and config.trust_remote_code and os.environ.get(TRUST_VARIABLE) != "1":
        raise InputError(
            "trust_remote_code",
            True,
            "confirmed where a run folder sets it",
            f"set {TRUST_VARIABLE}=1 in the environment if you trust the code of {config.model}",
        )


def load_server(config: ExperimentConfig) -> LoadedServer:
    """Device profiles, the files of a measured channel, and the config of another charged model.

    Raises InputError, also for a recording of too few rounds.
    """
    devices = deal_devices(config)
    measured = None
    if not config.cell.is_drawn:
        measured = open_channel(config.cell, config.clients.count, config.seed)
        measured.require_rounds(config.rounds)
    charged = _charged_architecture(config.charge_as) if config.charge_as else None
    return LoadedServer(devices, measured, charged)


def _charged_architecture(name: str) -> Decoder:
    config = read_config(name, "charge_as")
    try:
        return architecture_of(config)
    except InputError as error:
        raise error.within(f"charge_as {name}") from None


def load_model(
    config: ExperimentConfig,
    *,
    resolved: bool = False,
    read: Callable[..., BaseModel] = load_base,
) -> LoadedModel:
    """The base model with its tokenizer; nothing is attached to it yet.

    With `resolved` a warm start is settled already. `read` may leave out the weights, with the
    arguments of `load_base`. Raises InputError where the adapter does not fit the model.
    """
    device = training_device(config)
    base = read(
        config.model,
        config.dtype,
        device,
        compute_dtype=config.compute_dtype,
        trust_remote_code=config.trust_remote_code,
    )
    config = with_template(config, base.tokenizer)
    architecture = architecture_of(base.config)
    config = config if resolved else with_start(config, architecture)
    config = with_learning_rate(config, architecture)
    trained = trained_shape(config)
    refuse_uneven_charge(config.charge_as, trained, architecture)
    trained.adaptation(architecture)  # refuses names and ranks before anything is attached
    config = with_tokens(config, base, architecture, trained, device)
    threads = use_threads(config.threads or (1 if is_small(architecture) else None))
    return LoadedModel(config, base, architecture, trained, device, threads)
