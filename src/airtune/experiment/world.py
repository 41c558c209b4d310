"""From a checked experiment to a world that can run rounds. Nothing is written here.

Four steps, each a function of what the ones before gave:

    load      server: devices, measured channel, charged model; clients: rows; both: the base model
    compose   the method on the model: what answers clients' tasks
    cost      server: what every decision costs, from the `ClientFacts` of the clients
    engine    where this process's clients are trained

No process is started: `World.with_engine` is for what runs rounds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from airtune.config.experiment import CHARGED_AS, ExperimentConfig
from airtune.cost.device import DeviceProfile
from airtune.cost.latency import TransferModel
from airtune.errors import InputError, foreign_code
from airtune.experiment.clients import compose_clients
from airtune.experiment.engine import (
    EngineChoice,
    JobShape,
    choose_engine,
    evaluator,
    in_process,
    open_backend,
)
from airtune.experiment.held_out import mean_adapter, own_evaluator
from airtune.experiment.loading import (
    LoadedModel,
    LoadedServer,
    load_model,
    load_server,
    prepared,
)
from airtune.experiment.pacing import pacing_of
from airtune.experiment.shards import ClientRows, TestRows, load_rows, load_tests
from airtune.experiment.trained import precision_notices, precision_of
from airtune.experiment.unused import replaced_notice
from airtune.federated.backends.backend import Backend, ClientSide
from airtune.federated.backends.worker_host import WorkerHost
from airtune.federated.charging.costs import CostModel
from airtune.federated.checks.feasibility import refuse_small_devices
from airtune.federated.context import CohortSettings, RoundContext
from airtune.federated.facts import ClientFacts
from airtune.federated.method import Settled
from airtune.federated.observation import planning_view
from airtune.federated.records.checkpoint import ServerState
from airtune.methods.registry import find_method
from airtune.quantities import FloatArray, dbm_to_watts
from airtune.tuning.adapter import AdapterState, read_adapter
from airtune.tuning.base_change import changes_of, load_whole
from airtune.tuning.base_model import BaseModel, use_threads
from airtune.tuning.evaluate import Evaluation
from airtune.tuning.local import TokenBatch
from airtune.wireless.cell import CellSettings
from airtune.wireless.channel import Channel, open_channel
from airtune.workload.adapter_shape import adapter_tensors
from airtune.workload.architecture import Decoder
from airtune.workload.model_work import ModelWork


@dataclass(frozen=True)
class World:
    """Everything an experiment needs, loaded and checked.

    `config` has threads, engine and device as chosen, and the planner's derived options.
    `architecture` is the trained model's. `tests` are the test rows, `shards` what is known of the
    clients' rows. `context` is the server side, `side` the clients'; until
    `with_engine` the context trains in this process. `untrained` is the state before any training,
    which leaves the model as it was loaded.
    """

    config: ExperimentConfig
    base: BaseModel
    architecture: Decoder
    tests: TestRows
    shards: ClientRows
    side: ClientSide
    context: RoundContext
    engine: EngineChoice
    untrained: AdapterState
    planner_notices: tuple[str, ...] = ()

    @property
    def model(self) -> Any:
        """The base with what is trained of it, or on it."""
        return self.side.model

    @property
    def devices(self) -> tuple[DeviceProfile, ...]:
        """The profile of each client."""
        return tuple(self.context.devices)

    @property
    def work(self) -> ModelWork:
        """That of the model which is charged for, another than the trained one with `charge_as`."""
        return self.context.costs.work

    def with_engine(self, host: WorkerHost | None = None) -> "World":
        """The world whose clients are trained by its engine, workers as forks of `host`.

        Workers start with their first round; `context.backend.close()` ends them.
        """
        backend = open_backend(self.config, self.engine, self.side, host)
        context = replace(self.context, backend=backend, evaluate=evaluator(self.side, backend))
        return replace(self, context=context)

    @property
    def notices(self) -> list[str]:
        """Sentences that the user should read before the run."""
        return [*self.result_notices, self.engine.notice]

    @property
    def result_notices(self) -> list[str]:
        """Those of them that belong to the result, the same on every machine."""
        said = [
            *precision_notices(self.config, self.devices),
            *replaced_notice(self.config),
            *self.tests.notices,
            *self.shards.notices,
            *self.planner_notices,
        ]
        if self.config.charge_as:
            said.append(
                f"{CHARGED_AS} {self.config.charge_as} were "
                f"trained; the learning is that of {self.config.model}."
            )
        return said

    def evaluate(self, adapter: Mapping[str, Tensor]) -> Evaluation:
        """Test loss of an adapter."""
        return self.context.evaluate(adapter)

    def evaluate_state(self, state: ServerState) -> Evaluation:
        """Test loss after a round, with what clients keep of their own, if they do."""
        if self.context.evaluate_own is None:
            return self.evaluate(state.adapter)
        return self.context.evaluate_own(state.adapter, state.carried)

    def tuned(self, state: ServerState) -> Mapping[str, Tensor]:
        """The adapter of a state; where clients keep a part of their own, the mean of theirs."""
        if self.context.evaluate_own is None:
            return state.adapter
        return mean_adapter(state.adapter, state.carried, self.context.weights)

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
        adapter = dict(self.untrained)
        if start:
            adapter = {**read_adapter(Path(start)), **changes_of(self.untrained)}
        # Loading checks names and shapes of a warm start before anything is written.
        load_whole(self.model, adapter)
        planner = self.context.method.planner
        with foreign_code(f"The planner {type(planner).__qualname__} before round 1"):
            return ServerState(adapter, planner=planner.initial_state())


@dataclass(frozen=True)
class Clients:
    """The clients of a world: who they are, what is known of their rows, and who trains them.

    `batches(client, round)` are the rows themselves, where this process has them. `backend` runs
    their tasks where that is not this process or its workers. `channel` and `cell` replace those of
    the experiment where they are measured. `opened` is given the server side once it is complete.
    """

    devices: tuple[DeviceProfile, ...]
    rows: ClientRows
    batches: Callable[[int, int], Sequence[TokenBatch]]
    backend: Callable[[ClientSide], Backend] | None = None
    channel: Channel | None = None
    cell: CellSettings | None = None
    opened: Callable[[RoundContext], None] = lambda context: None


class Elsewhere(Protocol):
    """Clients that are not in this process: they join once the server's part is loaded.

    `files` are written into a new run folder, name -> JSON value.
    """

    @property
    def files(self) -> Mapping[str, Any]: ...
    def join(self, server: LoadedServer, loaded: LoadedModel, tests: TestRows) -> Clients: ...


def build_world(
    config: ExperimentConfig, *, resolved: bool = False, elsewhere: Elsewhere | None = None
) -> World:
    """Load and check everything. The cheap checks come first: a typo should not cost a minute.

    `resolved` says that the experiment is that of a run folder, in which a warm start is settled
    already. Clients `elsewhere` hold the training rows; otherwise they are loaded here.
    """
    config = prepared(config, resolved=resolved)
    if elsewhere is not None and pacing_of(config) is not None:
        raise InputError(
            "pacing.kind",
            config.pacing.kind,
            "synchronous where clients train on their own machines",
            "leave out the section pacing, or simulate the clients with airtune run",
        )
    if elsewhere is not None:
        _refuse_elsewhere(config)
    server, loaded = load_server(config), load_model(config, resolved=resolved)
    tests, clients = _load_clients(server, loaded, elsewhere)
    server = replace(server, devices=clients.devices, measured=clients.channel or server.measured)
    if clients.cell is not None:
        measured = loaded.config.model_copy(update={"cell": clients.cell})
        loaded = replace(loaded, config=measured)
    side = compose_clients(
        loaded.config, loaded.base, clients.devices, clients.batches, tests.batches
    )
    costs = cost_model(server, loaded, side, clients.rows)
    refuse_small_devices(side.method, costs.in_round(0), loaded.trained.highest_rank)
    engine = _engine(loaded, side, clients)
    context = server_side(server, loaded, side, costs, engine)
    if side.method.keeps_own:
        tokens = side.training.limit(loaded.device)
        measure = own_evaluator(
            loaded.config, side.model, tests, clients.rows, tokens, context.evaluate
        )
        context = replace(context, evaluate_own=measure)
    if clients.backend is not None:
        context = replace(context, backend=clients.backend(side))
    settled = settled_planner(context)
    context = replace(context, method=replace(side.method, planner=settled.planner))
    clients.opened(context)
    return World(
        config=_with_options(loaded.config.model_copy(update=engine.keys), settled.options),
        base=loaded.base,
        architecture=loaded.architecture,
        tests=tests,
        shards=clients.rows,
        side=side,
        context=context,
        engine=engine,
        untrained=side.method.start(side.model, config.seed),
        planner_notices=settled.notices,
    )


def _refuse_elsewhere(config: ExperimentConfig) -> None:
    """InputError for options that need all clients in this process."""
    spec = find_method(config.method)
    needs = spec.not_deployed(config.section(spec.options))
    if config.adapter.personal:
        needs = "adapter.personal"
    if needs is not None:
        raise InputError(
            "method",
            f"{config.method}, and {needs}",
            "one whose clients can be on other machines",
            "the clients of a deployment cannot do that: simulate it with `airtune run`",
        )


def _load_clients(
    server: LoadedServer, loaded: LoadedModel, elsewhere: Elsewhere | None
) -> tuple[TestRows, Clients]:
    """The test rows, and the clients: their rows from the experiment's sources, or elsewhere."""
    tokenizer = loaded.base.tokenizer
    limits = loaded.architecture.max_tokens, loaded.base.embeddings
    if elsewhere is not None:
        tests = load_tests(loaded.config, tokenizer, *limits)
        return tests, elsewhere.join(server, loaded, tests)
    tests, shards = load_rows(loaded.config, tokenizer, *limits)
    return tests, Clients(server.devices, shards, shards.batches)


def cost_model(
    server: LoadedServer, loaded: LoadedModel, side: ClientSide, facts: ClientFacts
) -> CostModel:
    """The costs of the parts that run, for the trained model or the one that `charge_as` names."""
    config, other, method = loaded.config, server.charged, side.method
    precision = precision_of(config)
    return CostModel(
        devices=server.devices,
        facts=facts,
        work=ModelWork(other or loaded.architecture, loaded.trained, precision),
        tuner=method.tuner,
        codec=method.codec if other is None else method.codec.charged_as(other),
        downlink=method.downlink,
        shapes=side.shapes if other is None else adapter_tensors(other, loaded.trained),
        as_other_model=other is not None,
        split=method.split,
        transfer=TransferModel.of(config.cell),
    )


def server_side(
    server: LoadedServer,
    loaded: LoadedModel,
    side: ClientSide,
    costs: CostModel,
    engine: EngineChoice,
) -> RoundContext:
    """What the server has in every round; of the clients' data it knows `costs.facts` alone."""
    config, devices = loaded.config, server.devices
    count = config.clients.count
    backend = in_process(engine, side)
    return RoundContext(
        method=side.method,
        backend=backend,
        channel=server.measured or open_channel(config.cell, count, config.seed),
        costs=costs,
        devices=devices,
        names=client_names(devices),
        weights=np.array([costs.facts.rows(client) for client in range(count)], dtype=np.float64),
        tx_power_w=tx_powers_w(config, devices),
        bandwidth_hz=config.cell.bandwidth_hz,
        cohort=CohortSettings(config.cohort.size, config.cohort.dropout),
        rank=loaded.trained.highest_rank,
        shapes=side.shapes,
        deadline_s=config.deadline_s,
        seed=config.seed,
        evaluate=evaluator(side, backend),
        watch=side.watch,
        sample_interval_s=config.cell.round_interval_s,
        pacing=pacing_of(config),
        learning_rate=side.training.rate,
    )


def client_names(devices: tuple[DeviceProfile, ...]) -> tuple[str, ...]:
    """`client 3 (pixel-7)`: a number for the records, a device for people."""
    return tuple(f"client {client} ({device.name})" for client, device in enumerate(devices))


def tx_powers_w(config: ExperimentConfig, devices: tuple[DeviceProfile, ...]) -> FloatArray:
    """Transmit power [client]: the cell's limit or the device's own, whichever is less [W]."""
    device_dbm = np.array([device.tx_power_dbm for device in devices])
    return dbm_to_watts(np.minimum(device_dbm, config.cell.tx_power_dbm))


def _engine(loaded: LoadedModel, side: ClientSide, clients: Clients) -> EngineChoice:
    """The engine and the threads of this process."""
    if clients.backend is not None:
        reason = "clients train on their own machines"
        return EngineChoice("sequential", None, reason, loaded.device, loaded.threads)
    config, tokens = loaded.config, clients.rows.step_tokens
    job = JobShape.of(config, loaded.architecture, loaded.trained, tokens, side.shapes)
    engine = choose_engine(config, side, job, loaded.device)
    # Every process has one thread; this one evaluates while no worker is there yet.
    threads = use_threads(config.threads or 1) if engine.workers else loaded.threads
    return replace(engine, threads=threads)


def settled_planner(context: RoundContext) -> Settled:
    """The planner with what it derives from the first rounds' channels."""
    planner = context.method.planner
    with foreign_code(f"The planner {type(planner).__qualname__} before round 1"):
        return planner.settled(partial(planning_view, context))


def _with_options(config: ExperimentConfig, options: Mapping[str, Any]) -> ExperimentConfig:
    """The experiment with what the planner derived, in its method's section or its own."""
    if not options:
        return config
    if config.planner is not None:
        spec = config.planner if isinstance(config.planner, Mapping) else {"use": config.planner}
        return config.model_copy(update={"planner": {**spec, **options}})
    section = config.methods[config.method].model_copy(update=dict(options))
    return config.with_options(config.method, section)
