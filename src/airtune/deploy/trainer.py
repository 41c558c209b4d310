"""A client's own part: its model, its rows, and what it answers to a task."""

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

import numpy as np

from airtune.config.data import template_inputs
from airtune.config.experiment import ExperimentConfig
from airtune.cost.device import find_device, load_devices
from airtune.data.encoding import encode, pad_token, refuse_unknown_ids
from airtune.data.partition import Partition
from airtune.data.sources import SourceOptions, load_client_data
from airtune.deploy.facts import RowFacts, local_facts, parts_of
from airtune.deploy.hub import Say
from airtune.deploy.job import (
    BUILTIN,
    check_versions,
    client_config,
    compare_contents,
    same_work,
)
from airtune.deploy.kept import ClientStore
from airtune.deploy.link import (
    ACTIVATIONS,
    BODY,
    GRADIENT,
    HIDDEN,
    HIDDEN_GRADIENT,
    REPORT,
    TAKEN,
)
from airtune.deploy.messages import (
    ANSWER,
    READY,
    Answer,
    DeviceFigures,
    Job,
    Measuring,
    Ready,
    Task,
    plan_of,
)
from airtune.deploy.pipe import Pipe
from airtune.deploy.wire import Frame
from airtune.errors import InputError
from airtune.experiment.clients import compose_clients
from airtune.experiment.digests import shared_contents
from airtune.experiment.loading import LoadedModel, load_model, prepared
from airtune.experiment.shards import Shards
from airtune.experiment.trained import precision_of
from airtune.federated.backends.backend import ClientReport, ClientSide, ClientTask
from airtune.round_plan import ClientPlan
from airtune.tuning.local import LocalResult
from airtune.tuning.split.client import ClientHalf
from airtune.tuning.tuner import CohortTuner, FullTuner, TuningContext
from airtune.update.error_feedback import add_lost, holds_residual
from airtune.workload.model_work import ModelWork

FOREVER_S = 7 * 24 * 3600.0
"""A client waits for its server's next message until the connection ends."""


@dataclass(frozen=True)
class ClientOptions:
    """What the operator of a client decides.

    `files` maps keys of the method that name a file to the client's own;
    `allowed` are import paths of parts and names of installed methods that may run here;
    `delimiter` is the character between the cells of a csv or tsv file.
    """

    data: Path
    model: str | None = None
    device: str | None = None
    device_file: Path | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    allowed: Collection[str] = ()
    template: Path | None = None
    trust_remote_code: bool = False
    threads: int | None = None
    delimiter: str | None = None


@final
class Trainer:
    """One client with its model and rows loaded."""

    def __init__(
        self, client: int, side: ClientSide, shards: Shards, store: ClientStore, work: ModelWork
    ) -> None:
        self.client, self.side, self.shards, self.store = client, side, shards, store
        self._work = work

    def facts(self, *, exact: bool) -> RowFacts:
        """What this client states of its rows."""
        return local_facts(self.shards, self.client, exact=exact)

    def measured_flop_rate(self) -> float:
        """FLOPs of a step on this client's own batches over its seconds, after a first one."""
        side, shapes = self.side, self.shards.step_shapes(self.client, 0)
        batches = list(side.batches(self.client, 0))
        start = side.method.start(side.model, side.seed)
        plan = ClientPlan(self.client, 0.0, 0.0, rank=0)
        times = []
        for measured in (batches[:1], batches):
            context = TuningContext(side.model, measured, side.training, side.seed, 0, {})
            began = time.perf_counter()
            FullTuner().tune(start, plan, context)
            times.append(time.perf_counter() - began)
        return sum(map(self._work.step_flops, shapes)) / times[1]

    def ready(
        self,
        job: Job,
        process: str,
        device: DeviceFigures | None,
        probed: Mapping[str, float | None] = MappingProxyType({}),
    ) -> Frame:
        """The report that this client is ready for a job; `probed` are rates of its link."""
        facts = self.facts(exact=job.exact_lengths)
        head = Ready(
            run=job.run,
            process=process,
            rows=facts.rows,
            digest=facts.digest,
            means=facts.means,
            device=device,
            flop_rate=self.measured_flop_rate() if job.calibrates else None,
            **probed,
        )
        return Frame.of(READY, head, **parts_of(facts))

    def answer(self, task: Task, digest: str, broadcast: bytes) -> Frame:
        """The answer to a task: from memory where it was answered before, else by training."""
        return self._repeated(task, digest) or self._trained(task, digest, broadcast)

    def _repeated(self, task: Task, digest: str) -> Frame | None:
        """The answer to a task that was answered before, for this try."""
        kept = self.store.answer(task.round_index, digest)
        if kept is None:
            return None
        head = Answer.model_validate({**kept.head, "attempt": task.attempt})
        return Frame.of(ANSWER, head, payload=kept.parts["payload"])

    def _trained(self, task: Task, digest: str, broadcast: bytes) -> Frame:
        """Train, encode, keep what is carried over, and answer."""
        began = time.monotonic()
        mine = self._task(task, broadcast)
        report = self.side.answer(mine)
        _wait_until(began, task.measuring, 0, 0)
        tuned_s = self.side.watch.take().get("tune", 0.0)
        frame = self._answer_frame(task, report, time.monotonic() - began, tuned_s)
        self.store.keep(
            task.round_index, digest, frame, report.carried, self._if_late(mine, report)
        )
        return frame

    def converse(self, task: Task, broadcast: bytes, pipe: Pipe) -> None:
        """Train this client's half step by step; messages go through the pipe."""
        mine = self._task(task, broadcast)
        tuner = self.side.method.tuner
        assert isinstance(tuner, CohortTuner), "refused by the server"
        party, turn = self.side.party(mine), _Turn(pipe, task.measuring)
        with tuner.client_half(party) as half:
            for step in range(half.steps):
                _train_step(half, turn, step)
            result = half.finish()
        # The server counts losses and label tokens; these stand in for them.
        nothing = LocalResult(result.state, (0.0,) * half.steps, half.steps, dict(result.carried))
        report = self.side.encoded(mine, party.start, nothing)
        late = self._if_late(mine, report)
        self.store.keep(task.round_index, "", Frame(ANSWER, {}, {}), report.carried, late)
        arrivals = {"arrivals": turn.arrivals} if turn.arrivals else {}
        head = {"keeps": bool(report.carried), **arrivals}
        pipe.send(Frame(REPORT, head, {BODY: report.payload}))
        pipe.receive(TAKEN, FOREVER_S)

    def _task(self, task: Task, broadcast: bytes) -> ClientTask:
        carried: Mapping[str, Any] = {}
        if task.carry_from is not None:
            carried = self.store.carried(task.carry_from, late=task.came_late)
        return ClientTask(task.round_index, self.client, plan_of(task.plan), broadcast, carried)

    def _if_late(self, task: ClientTask, report: ClientReport) -> Mapping[str, Any]:
        """What is carried over if the update will not count: the update as well."""
        if not holds_residual(report.carried):
            return report.carried
        method, shapes = self.side.method, self.side.shapes
        received = method.downlink.decode(task.broadcast, shapes, task.plan)
        codec = method.codec.in_round(received)
        return add_lost(report.carried, codec.decode(report.payload, shapes, task.plan))

    def _answer_frame(
        self, task: Task, report: ClientReport, compute_s: float, tune_s: float
    ) -> Frame:
        head = Answer(
            run=task.run,
            round_index=task.round_index,
            attempt=task.attempt,
            client=self.client,
            train_loss=report.train_loss,
            label_tokens=report.label_tokens,
            keeps=bool(report.carried),
            compute_s=compute_s,
            tune_s=tune_s,
        )
        return Frame.of(ANSWER, head, payload=report.payload)


class _Turn:
    """A client's end of a split conversation; with `measuring` it keeps times and waits.

    `arrivals` are kind, step, bytes, and when each message was sent and had arrived [s].
    """

    def __init__(self, pipe: Pipe, measuring: Measuring | None) -> None:
        self._pipe, self._measuring = pipe, measuring
        self._since = time.monotonic()
        self.arrivals: list[list[Any]] = []

    def send(self, kind: str, step: int, part: int, payload: bytes, **head: float) -> None:
        """Send what was computed in this part of a step, no earlier than it is modelled."""
        self.done(step, part)
        self._pipe.send(Frame(kind, {"step": step, **head}, {BODY: payload}))

    def take(self, kind: str, step: int) -> bytes:
        """The next message from the server."""
        frame = self._pipe.receive(kind, FOREVER_S)
        self._since = time.monotonic()
        if self._measuring is not None:
            head = frame.head
            self.arrivals.append([kind, step, frame.size, head.get("at_s"), head["arrived_s"]])
        return frame.parts[BODY]

    def done(self, step: int, part: int) -> None:
        """A part of the computing is over, no earlier than it is modelled."""
        _wait_until(self._since, self._measuring, step, part)
        self._since = time.monotonic()


def _train_step(half: ClientHalf, turn: _Turn, step: int) -> None:
    """One local step: activations up, with labels here the hidden states, gradient down."""
    turn.send(ACTIVATIONS, step, 0, half.activations(step))
    if half.keeps_labels:
        half.send_hidden(turn.take(HIDDEN, step))
        payload, loss = half.hidden_gradient()
        turn.send(HIDDEN_GRADIENT, step, 1, payload, loss=loss)
    half.send_gradient(turn.take(GRADIENT, step))
    turn.done(step, 2)


def _wait_until(began: float, measuring: Measuring | None, step: int, part: int) -> None:
    """Sleep until the modelled seconds since `began` are over; not at all for no such task."""
    if measuring is not None and measuring.compute_s is not None:
        time.sleep(max(0.0, began + measuring.compute_s[step][part] - time.monotonic()))


def task_digest(task: Task, broadcast: bytes) -> str:
    """What an answer depends on, by SHA-256; the try is not part of it."""
    head = task.model_dump(mode="json", exclude={"attempt", "pace_bps", "measuring"})
    text = json.dumps(head, sort_keys=True).encode()
    return hashlib.sha256(text + broadcast).hexdigest()


@final
class Trainers:
    """The trainer of the newest job; it is loaded again for other work alone.

    `state(client)` is the folder of what the client keeps.
    """

    def __init__(self, options: ClientOptions, state: Callable[[int], Path], say: Say) -> None:
        self._options, self._state, self._say = options, state, say
        self._loaded: tuple[Job, Trainer] | None = None

    def of(self, job: Job, client: int) -> Trainer:
        """The trainer for a job; errors as in `load_trainer`, and for another version."""
        check_versions(job)
        if self._loaded is not None and same_work(self._loaded[0], job):
            return self._loaded[1]
        self._say(f"Client {client}: loading the model and {self._options.data}.")
        self._loaded = None
        trainer = load_trainer(job, client, self._options, self._state(client))
        self._loaded = job, trainer
        return trainer


def load_trainer(job: Job, client: int, options: ClientOptions, state: Path) -> Trainer:
    """Load the model and the client's rows.

    Raises InputError for parts that are not allowed, and AirtuneError where the model is not the
    server's.
    """
    config = client_config(
        job,
        options.model or _default_model(job),
        options.files,
        options.allowed,
        template=options.template,
        trust_remote_code=options.trust_remote_code,
    )
    config = prepared(config.model_copy(update={"threads": options.threads}))
    loaded = load_model(config)
    own = shared_contents(loaded.config, loaded.base)
    compare_contents(job, own, f"Client {client}")
    shards = load_shard(job, client, loaded, options)
    # Only the planner reads devices, and the server plans.
    devices = tuple(load_devices().values())[:1] * loaded.config.clients.count
    side = compose_clients(
        loaded.config, loaded.base, devices, shards.batches, _no_tests, check_fit=False
    )
    work = ModelWork(loaded.architecture, loaded.trained, precision_of(loaded.config))
    return Trainer(client, side, shards, ClientStore(state / job.run[:16]), work)


def _default_model(job: Job) -> str:
    if job.model != BUILTIN:
        raise InputError("--model", "left out", "given", "name the folder of the base model")
    return BUILTIN


def _no_tests(tokens: int) -> Iterator[Any]:
    """A client holds no test rows."""
    return iter(())


def load_shard(job: Job, client: int, loaded: LoadedModel, options: ClientOptions) -> Shards:
    """The rows of one client's file, as those of this client among all."""
    config: ExperimentConfig = loaded.config
    data, tokenizer = config.data, loaded.base.tokenizer
    source = SourceOptions(
        job.format_name,
        data.prompt_column,
        data.completion_column,
        delimiter=options.delimiter,
    )
    examples = load_client_data(options.data, source)
    inputs = template_inputs(data)
    train = encode(tokenizer, examples, data.max_tokens, job.separator, inputs)
    refuse_unknown_ids(tokenizer, train.token_ids, loaded.base.embeddings)
    starts = np.zeros(config.clients.count + 1, dtype=np.int64)
    starts[client + 1 :] = len(train)
    parts = Partition(np.arange(len(train), dtype=np.int64), starts)
    training = config.training
    return Shards(
        train,
        parts,
        pad_token(tokenizer),
        training.batch_size,
        training.local_steps,
        config.seed,
    )


def device_figures(options: ClientOptions) -> DeviceFigures | None:
    """The device that the operator names; None: the server's experiment decides."""
    if options.device is None:
        return None
    profile = find_device(options.device, load_devices(options.device_file), "--device")
    return DeviceFigures(
        name=profile.name,
        training_flop_rate=profile.training_flop_rate,
        memory_bytes=profile.memory_bytes,
        computing_power_w=profile.computing_power_w,
        tx_power_dbm=profile.tx_power_dbm,
    )
