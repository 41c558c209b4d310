"""How clients are trained: here or on worker processes, one by one or as stacks.

`sequential` and `workers` give the same bytes, since every client is trained by the same code on
one thread. `batched` and `batched-workers` give the same numbers up to rounding, and the same bytes
for the same number of workers. The choice is the experiment's or, for `auto`, made from shapes,
cores and free memory before round 1, and written into the resolved experiment. Processes are
started by what runs rounds. On a GPU one process trains all clients.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from airtune.config.experiment import ExperimentConfig
from airtune.config.text import flat, plain_values
from airtune.data.memory import with_rows
from airtune.errors import InputError
from airtune.experiment.clients import load_clients
from airtune.experiment.trained import precision_of
from airtune.federated.backends.backend import Backend, ClientSide, InProcess
from airtune.federated.backends.ray_actors import RayActors, cluster_cores
from airtune.federated.backends.worker_host import PRELOADED, WorkerHost
from airtune.federated.backends.workers import Workers
from airtune.tuning.base_change import load_whole
from airtune.tuning.base_model import (
    CPU,
    CUDA,
    resolve_device,
    share_weights,
    usable_cores,
)
from airtune.tuning.evaluate import Evaluation, evaluate, total_loss
from airtune.tuning.label_loss import TOKENS_AT_ONCE
from airtune.tuning.local import TokenBatch
from airtune.tuning.quantised import QUANTISER, is_there
from airtune.tuning.stack import COPIES
from airtune.tuning.stacked_linear import refuses_stacking
from airtune.tuning.tuner import CohortTuner, Tuner
from airtune.update.codec import Shapes
from airtune.workload.adapter_shape import Trained
from airtune.workload.architecture import Decoder
from airtune.workload.quantised import QUANTISED
from airtune.workload.step import Step
from airtune.workload.transformer import workload

STACK_BYTES = 2**29
"""Memory for the clients of one stack, beside the model and its activations."""
HELD_BESIDES = 3
"""An adapter is also held as received, as trained, and as the change that is encoded."""
WORKER_BYTES = 5e8
"""A worker's interpreter with torch, transformers and PEFT, and its data: 0.47 to 0.49 GB resident
in the built-in experiment (`Rss` of /proc/PID/smaps_rollup), of which a third is shared."""
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def clients_at_once(shapes: Shapes) -> int:
    """Clients whose adapters, gradients and moments fit into `STACK_BYTES`."""
    return max(2, STACK_BYTES // client_bytes(shapes))


def client_bytes(shapes: Shapes) -> int:
    """A stacked client's share of the stack."""
    return 4 * (COPIES + HELD_BESIDES) * sum(math.prod(shape) for shape in shapes.values())


def free_bytes() -> float:
    """What can be had without swapping: the kernel's `MemAvailable` (proc(5)), and no more than the
    control group's `memory.max` less its `memory.current` (cgroup-v2). Infinite where neither says.
    """
    return min(_available(), _group_limit())


def _available() -> float:
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        return 1024.0 * float(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return math.inf


def _group_limit() -> float:
    try:
        limit = float((_CGROUP / "memory.max").read_text())
        return limit - float((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return math.inf  # no such group, or its limit reads "max"


STEP_FLOP_RATE = 5e10
"""FLOP/s of a step on one core, roughly: 4.2e10 and 6.3e10 were measured for the built-in model."""
WORKERS_START_S = 4.0
"""What workers must save to be started: twice the seconds that a job waits for them at most."""
LIKELY_STEPS = 400
"""Local steps of a job from which on `auto` is likely to take workers, whatever the model."""
MEMORY_SHARE = 0.8
"""Of the memory that is free, what workers may count on."""


@dataclass(frozen=True)
class JobShape:
    """What the choice depends on beside the experiment.

    Attributes:
        step_tokens: tokens of one client's step.
        step_flops: its FLOPs.
        pass_bytes: memory of a forward pass with as many tokens as are run at once, base included;
            at least that of the base as it is read.
        adapter: shapes of the adapter.
    """

    step_tokens: float
    step_flops: float
    pass_bytes: float
    adapter: Shapes

    @classmethod
    def of(
        cls,
        config: ExperimentConfig,
        architecture: Decoder,
        adapter: Trained,
        step_tokens: float,
        shapes: Shapes,
    ) -> "JobShape":
        """From the trained model and an average step."""
        rows = config.training.batch_size
        tokens = max(1, math.ceil(step_tokens / rows))
        # This machine runs at once what fits its caches, whatever the devices accumulate.
        precision = replace(precision_of(config), micro_batches=1)
        # One client's rows run in parts; clients of a stack only where it was asked for.
        least = rows if config.engine.startswith("batched") else 1
        whole = Step(max(least, TOKENS_AT_ONCE[CPU] // tokens), tokens)
        work = workload(architecture, adapter, whole, precision=precision)
        # The model is read before it is quantised.
        read_bytes = work.parameters * precision.dtype_bytes
        return cls(
            step_tokens,
            float(workload(architecture, adapter, Step(rows, tokens)).flops),
            float(max(work.memory_bytes, read_bytes)),
            shapes,
        )


@dataclass(frozen=True)
class EngineChoice:
    """An engine, its worker processes (None: it has none), why it is this one, its device and
    threads (None: not chosen yet)."""

    name: str
    workers: int | None = None
    reason: str = ""
    device: str = CPU
    threads: int | None = None

    @property
    def keys(self) -> dict[str, Any]:
        """The keys of the resolved experiment, so that a resumed run trains the same way."""
        names = ("threads", "workers", "device")
        return {"engine": self.name, **{name: getattr(self, name) for name in names}}

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
                "device",
                CUDA,
                "auto or cpu with worker processes or Ray, which compute on cores",
                "or take engine=batched and backend=local",
            )
        return CPU
    return resolve_device(config.device)


def choose_engine(
    config: ExperimentConfig, side: ClientSide, shape: JobShape, device: str = CPU
) -> EngineChoice:
    """What was asked for, or for `auto` what the shapes suggest.

    A stack pays while several steps fit into one forward pass; where clients cannot be stacked,
    they are trained one by one, and told why. Workers pay where they save more than their start
    takes, and where memory holds at least two of them.
    """
    _check_backend(config, side)
    if isinstance(side.method.tuner, CohortTuner):
        reason = "the cohort trains together with its main server"
        return EngineChoice("sequential", None, reason, device)
    refusal = _refuses_stacking(side)
    cohort = config.cohort.size or config.clients.count
    workers = min(config.workers or _cores(config), cohort)
    reason = ""
    if config.engine == "auto":
        at_once = config.tokens_at_once or TOKENS_AT_ONCE[device]
        stacked = cohort > 1 and 2 * shape.step_tokens <= at_once and not refusal
        parallel = config.backend == "ray"
        if not parallel and device == CPU and may_take_workers(config):
            workers, reason = _workers_that_pay(config, shape, workers, cohort)
            parallel = workers > 1
    else:
        parallel = config.engine.endswith("workers")
        stacked = config.engine.startswith("batched") and not refusal
    name = f"{'batched' if stacked else ''}{'-' if stacked and parallel else ''}"
    name = f"{name}{'workers' if parallel else ''}" or "sequential"
    if refusal and config.engine != name:
        reason = "; ".join(filter(None, [f"not batched: {refusal}", reason]))
    return EngineChoice(name, workers if parallel else None, reason, device)


def may_take_workers(config: ExperimentConfig) -> bool:
    """Whether worker processes of this machine may be wanted, before anything is loaded."""
    if config.backend == "ray":
        return False
    if config.engine != "auto":
        return config.engine.endswith("workers")
    # More threads than one, asked for, are those of this process.
    several = (config.workers or usable_cores()) > 1 and config.threads in (None, 1)
    cohort = config.cohort.size or config.clients.count
    return several and cohort > 1 and resolve_device(config.device) == CPU


def starts_ahead(config: ExperimentConfig) -> bool:
    """Whether workers are likely enough that they should begin to start before data are loaded."""
    cohort = config.cohort.size or config.clients.count
    steps = config.rounds * cohort * config.training.local_steps
    likely = config.engine != "auto" or steps >= LIKELY_STEPS
    return likely and may_take_workers(config)


def _workers_that_pay(
    config: ExperimentConfig, shape: JobShape, workers: int, cohort: int
) -> tuple[int, str]:
    """How many workers to take (1: none), and why not as many as there might be."""
    steps = config.rounds * cohort * config.training.local_steps
    alone_s = steps * shape.step_flops / STEP_FLOP_RATE
    if alone_s * (1 - 1 / workers) < WORKERS_START_S:
        return 1, f"about {alone_s:.2g} s of training, too short for worker processes"
    stack = min(clients_at_once(shape.adapter), -(-cohort // workers)) * client_bytes(shape.adapter)
    needed, free = WORKER_BYTES + shape.pass_bytes + stack, free_bytes()
    # The first term alone is infinite where the free memory is not known.
    fitting = int(min(MEMORY_SHARE * free / needed, workers))
    if fitting >= workers:
        return workers, ""
    told = f"a worker needs {needed / 1e9:.2g} GB, and {free / 1e9:.2g} GB are free"
    return max(fitting, 1), told


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
    tuner: Any = side.method.tuner
    if not isinstance(tuner, Tuner) or type(tuner).stackable is Tuner.stackable:
        return f"{type(tuner).__name__} knows no stacks"
    return refuses_stacking(side.model)


SMALL_MODEL_WIDTH = 512
"""Below this width a second thread waits more than it computes, above all on a busy machine."""


def is_small(architecture: Decoder) -> bool:
    """Whether one thread trains it as fast as several."""
    return architecture.hidden_size < SMALL_MODEL_WIDTH


def _new_host(config: ExperimentConfig) -> WorkerHost:
    """Imports what workers of this experiment need; bitsandbytes takes seconds, too."""
    quantiser = (QUANTISER,) if config.dtype in QUANTISED and is_there() else ()
    return WorkerHost((*PRELOADED, __name__, *quantiser))


@contextmanager
def worker_host(config: ExperimentConfig) -> Iterator[WorkerHost | None]:
    """A process that imports what workers need while this one loads data and model.

    None where the job is unlikely to take workers.
    """
    host = _new_host(config) if starts_ahead(config) else None
    try:
        yield host
    finally:
        if host is not None:
            host.close()


def open_backend(
    config: ExperimentConfig, engine: EngineChoice, side: ClientSide, host: WorkerHost | None
) -> Backend:
    """The backend of an engine; workers make `side` again, on this process's frozen weights.

    They start with their first round, from `host` where there is one; it is ended where there are
    to be no workers.
    """
    names = (value for _, value in flat(plain_values(config, templates=False)))
    if engine.workers and config.backend == "local":
        weights = share_weights(side.model)
        make_side = with_rows(partial(load_clients, config, weights and weights.path), names)
        together, new_host = _stacked(engine, side), partial(_new_host, config)
        return Workers(make_side, engine.workers, together, side.watch, weights, host, new_host)
    if host is not None:
        host.close()
    if engine.workers:
        make_side = with_rows(partial(load_clients, config), names)
        return RayActors(make_side, engine.workers, _stacked(engine, side), config.ray_address)
    return in_process(engine, side)


def in_process(engine: EngineChoice, side: ClientSide) -> InProcess:
    """Clients trained by this process, in stacks where the engine stacks them."""
    return InProcess(side, _stacked(engine, side))


def _stacked(engine: EngineChoice, side: ClientSide) -> int:
    """Clients of one stack."""
    return clients_at_once(side.shapes) if engine.name.startswith("batched") else 1


def evaluator(side: ClientSide, backend: Backend) -> Callable[[Mapping[str, Tensor]], Evaluation]:
    """Test loss of an adapter: on running workers as well, by the same code to the same bytes."""

    @cache  # padded once, and only for the backend that evaluates
    def batches() -> list[TokenBatch]:
        return list(side.test_batches())

    def measure(adapter: Mapping[str, Tensor]) -> Evaluation:
        if isinstance(backend, Workers) and backend.running and len(batches()) > 1:
            return total_loss(backend.test_losses(adapter))
        load_whole(side.model, adapter)
        return evaluate(side.model, batches())

    return measure
