"""From a checked experiment to a world that can run rounds. Nothing is written here."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from airtune.config.experiment import ExperimentConfig
from airtune.cost.device import DeviceProfile
from airtune.errors import InputError, foreign_code
from airtune.experiment.composition import check_names, compose_method
from airtune.experiment.engine import (
    JobShape,
    choose_engine,
    client_side,
    is_small,
    make_backend,
    start_host,
    starts_ahead,
    training_device,
)
from airtune.experiment.shards import Shards, deal_devices, load_shards, with_template
from airtune.experiment.trained import refuse_uneven_charge, trainable, trained_shape, with_start
from airtune.experiment.unused import replaced_notice
from airtune.federated.backends.backend import Backend, ClientSide
from airtune.federated.backends.workers import Workers
from airtune.federated.charging.costs import CostModel
from airtune.federated.checks.feasibility import refuse_small_devices
from airtune.federated.context import CohortSettings, RoundContext
from airtune.federated.records.checkpoint import ServerState
from airtune.federated.round import planning_view
from airtune.methods.registry import find_method
from airtune.quantities import FloatArray, dbm_to_watts
from airtune.tuning.adapter import AdapterState, load_state, read_adapter
from airtune.tuning.base_model import BaseModel, load_base, use_threads
from airtune.tuning.evaluate import Evaluation, evaluate, total_loss
from airtune.wireless.channel import Channel, open_channel
from airtune.workload.adapter_shape import adapter_tensors
from airtune.workload.architecture import Architecture
from airtune.workload.config_source import read_config
from airtune.workload.model_work import ModelWork
from airtune.workload.transformer import Precision

TRUST_VARIABLE = "AIRTUNE_TRUST_REMOTE_CODE"


@dataclass(frozen=True)
class World:
    """Everything an experiment needs, loaded and checked.

    `config` has threads, engine and device as chosen. `architecture` is the trained model's; `work`
    is that of the model which time, bits, energy and memory are charged for, another with
    `charge_as`. `untrained` is the state before any training, which leaves the model as it was
    loaded.
    """

    config: ExperimentConfig
    base: BaseModel
    model: Any
    architecture: Architecture
    work: ModelWork
    shards: Shards
    devices: tuple[DeviceProfile, ...]
    side: ClientSide
    context: RoundContext
    untrained: AdapterState
    engine_notice: str
    planner_notices: tuple[str, ...] = ()

    @property
    def notices(self) -> list[str]:
        """Sentences that the user should read before the run."""
        return [*self.result_notices, self.engine_notice]

    @property
    def result_notices(self) -> list[str]:
        """Those of them that belong to the result, the same on every machine."""
        said = [*replaced_notice(self.config), *self.shards.notices, *self.planner_notices]
        if self.config.charge_as:
            said.append(
                f"Time, bits, energy and memory are charged as if {self.config.charge_as} were "
                f"trained; the learning is that of {self.config.model}."
            )
        return said

    def evaluate(self, adapter: Mapping[str, Tensor]) -> Evaluation:
        """Test loss of an adapter."""
        return self.context.evaluate(adapter)

    def start(self) -> ServerState:
        """The state before round 1, with the test loss that the run starts from."""
        state = self.unmeasured_start()
        loss = self.evaluate(state.adapter).loss
        if not isfinite(loss):
            raise InputError(
                "model",
                f"{self.config.model}, whose test loss before round 1 is {loss}",
                "one with a finite loss on the test rows",
                "try dtype=fp32, or look at adapter.start and the test rows",
            )
        return replace(state, start_loss=loss)

    def unmeasured_start(self) -> ServerState:
        """The state before round 1, without its test loss."""
        start = self.config.adapter.start
        adapter = read_adapter(Path(start)) if start else dict(self.untrained)
        # Loading checks names and shapes of a warm start before anything is written.
        load_state(self.model, adapter)
        planner = self.context.method.planner
        with foreign_code(f"The planner {type(planner).__qualname__} before round 1"):
            return ServerState(adapter, planner=planner.initial_state())


def build_world(config: ExperimentConfig, *, trains: bool = False, resolved: bool = False) -> World:
    """Load and check everything. The cheap checks come first: a typo should not cost a minute.

    `trains` says that rounds will follow at once, so that workers may begin to start; `resolved`
    that the experiment is that of a run folder, in which a warm start is settled already.
    """
    check_names(config)
    config = find_method(config.method).prepare(config)
    cohort = CohortSettings(config.cohort.size, config.cohort.dropout)
    cohort.check(config.clients.count)
    refuse_unasked_code(config, resolved)
    devices = deal_devices(config)
    measured = _measured_channel(config)
    other = _charged_architecture(config.charge_as) if config.charge_as else None
    device = training_device(config)
    # It imports what workers need while this process loads what it needs itself.
    host = start_host() if trains and starts_ahead(config) else None
    base = load_base(config.model, config.dtype, device, trust_remote_code=config.trust_remote_code)
    config = with_template(config, base.tokenizer)
    architecture = Architecture.from_config(base.config)
    config = config if resolved else with_start(config, architecture)
    adapter = trained_shape(config)
    refuse_uneven_charge(config.charge_as, adapter, architecture)
    threads = use_threads(config.threads or (1 if is_small(architecture) else None))
    charged = other or architecture
    adapter.adaptation(architecture)  # refuses names and ranks before anything is attached
    shards = load_shards(config, base.tokenizer, architecture.max_tokens, base.embeddings)
    model = trainable(base, config)
    method = compose_method(config, model, devices)
    work = ModelWork(charged, adapter, Precision(config.dtype, config.training.optimizer))
    side = client_side(config, method, model, shards)
    costs = _cost_model(side, work, shards, devices, other)
    refuse_small_devices(method, costs.in_round(0), adapter.highest_rank)
    job = JobShape.of(config, architecture, adapter, shards.step_tokens, side.shapes)
    engine = choose_engine(config, side, job, device)
    if engine.workers:
        # Every process has one thread; this one evaluates while no worker is there yet.
        threads = use_threads(config.threads or 1)
    backend = make_backend(config, engine, side, host)
    channel = measured or open_channel(config.cell, config.clients.count, config.seed)
    context = _context(config, side, backend, channel, devices, shards, costs, cohort)
    chosen = {
        "threads": threads,
        "engine": engine.name,
        "workers": engine.workers,
        "device": engine.device,
    }
    with foreign_code(f"The planner {type(method.planner).__qualname__} before round 1"):
        settled = method.planner.settled(partial(planning_view, context))
    config = _with_options(config.model_copy(update=chosen), settled.options)
    context = replace(context, method=replace(method, planner=settled.planner))
    return World(
        config,
        base,
        model,
        architecture,
        work,
        shards,
        devices,
        side,
        context,
        method.start(model, config.seed),
        engine.notice,
        settled.notices,
    )


def _with_options(config: ExperimentConfig, options: Mapping[str, Any]) -> ExperimentConfig:
    """The experiment with what the planner derived, in its method's section or its own."""
    if not options:
        return config
    if config.planner is not None:
        spec = config.planner if isinstance(config.planner, Mapping) else {"use": config.planner}
        return config.model_copy(update={"planner": {**spec, **options}})
    section = config.methods[config.method].model_copy(update=dict(options))
    return config.with_options(config.method, section)


def refuse_unasked_code(config: ExperimentConfig, resolved: bool) -> None:
    """A run folder is data: it runs a model's own code only where the user says so again."""
    if resolved and config.trust_remote_code and os.environ.get(TRUST_VARIABLE) != "1":
        raise InputError(
            "trust_remote_code",
            True,
            "confirmed where a run folder sets it",
            f"set {TRUST_VARIABLE}=1 in the environment if you trust the code of {config.model}",
        )


def _cost_model(
    side: ClientSide,
    work: ModelWork,
    shards: Shards,
    devices: tuple[DeviceProfile, ...],
    other: Architecture | None,
) -> CostModel:
    """The costs of the parts that run, for the trained model or the `other` one charged."""
    method = side.method
    return CostModel(
        devices=devices,
        facts=shards,
        work=work,
        tuner=method.tuner,
        codec=method.codec if other is None else method.codec.charged_as(other),
        downlink=method.downlink,
        shapes=side.shapes if other is None else adapter_tensors(other, work.adapter),
        as_other_model=other is not None,
        split=method.split,
    )


def _measured_channel(config: ExperimentConfig) -> Channel | None:
    """The channel of a trace or a recording; its files are read before the model, which is large.

    None for a drawn channel. Raises InputError, also for a recording of too few rounds.
    """
    if config.cell.trace is None and config.cell.replay is None:
        return None
    channel = open_channel(config.cell, config.clients.count, config.seed)
    channel.require_rounds(config.rounds)
    return channel


def _charged_architecture(name: str) -> Architecture:
    config = read_config(name, "charge_as")
    try:
        return Architecture.from_config(config)
    except InputError as error:
        raise error.within(f"charge_as {name}") from None


def client_names(devices: tuple[DeviceProfile, ...]) -> tuple[str, ...]:
    """`client 3 (pixel-7)`: a number for the records, a device for people."""
    return tuple(f"client {client} ({device.name})" for client, device in enumerate(devices))


def _context(
    config: ExperimentConfig,
    side: ClientSide,
    backend: Backend,
    channel: Channel,
    devices: tuple[DeviceProfile, ...],
    shards: Shards,
    costs: CostModel,
    cohort: CohortSettings,
) -> RoundContext:
    return RoundContext(
        method=side.method,
        backend=backend,
        channel=channel,
        costs=costs,
        devices=devices,
        names=client_names(devices),
        weights=shards.parts.sizes.astype(np.float64),
        tx_power_w=_tx_power(config, devices),
        bandwidth_hz=config.cell.bandwidth_hz,
        cohort=cohort,
        rank=trained_shape(config).highest_rank,
        shapes=side.shapes,
        deadline_s=config.deadline_s,
        seed=config.seed,
        evaluate=_evaluator(side, backend),
        watch=side.watch,
        sample_interval_s=config.cell.round_interval_s,
    )


def _tx_power(config: ExperimentConfig, devices: tuple[DeviceProfile, ...]) -> FloatArray:
    """The cell's limit or the device's own power, whichever is less [W]."""
    device_dbm = np.array([device.tx_power_dbm for device in devices])
    return dbm_to_watts(np.minimum(device_dbm, config.cell.tx_power_dbm))


def _evaluator(side: ClientSide, backend: Backend) -> Any:
    """Workers that are there measure along; by the same code, so to the same bytes."""
    batches = list(side.test_batches())

    def measure(adapter: AdapterState) -> Evaluation:
        if isinstance(backend, Workers) and backend.running and len(batches) > 1:
            return total_loss(backend.test_losses(adapter))
        load_state(side.model, adapter)
        return evaluate(side.model, batches)

    return measure
