"""`airtune check-part`: a user-defined part against what its base class promises, and in a run.

A small built-in experiment is composed with the part, each promise is tried on its own
(`federated.checks.contracts`), and then two rounds are run, once whole and once resumed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, final

import torch
from torch.utils.flop_counter import FlopCounterMode

from airtune.config.experiment import ExperimentConfig
from airtune.errors import AirtuneError, InputError, foreign_code
from airtune.experiment.composition import BASES
from airtune.experiment.experiment import Experiment
from airtune.experiment.reading import read_config
from airtune.experiment.world import World, build_world
from airtune.federated.backends.backend import ClientReport, ClientTask
from airtune.federated.checks.contracts import (
    check_affine_bits,
    check_aggregator,
    check_codec,
    check_planner,
    check_tuner,
    require,
)
from airtune.federated.context import CohortSettings, RoundContext
from airtune.federated.observation import planning_view
from airtune.federated.round import start_round, tasks_of
from airtune.tuning.tuner import CohortTuner, TuningJob
from airtune.update.server import Update
from airtune.user_parts import import_class
from airtune.wireless.channel import open_channel
from airtune.wireless.channel_model import ChannelModel

CHANNEL = "channel"
CLIENTS, ROUNDS = 3, 2
_SMALL = (
    f"rounds={ROUNDS}",
    f"clients.count={CLIENTS}",
    "training.local_steps=2",
    "training.batch_size=2",
    "adapter.rank=4",
    "data.train_limit=24",
    "data.test_limit=4",
    "data.score_rows=0",
    "threads=1",
    "engine=sequential",
    "cell.path_loss=log_distance",
)


@final
@dataclass(frozen=True)
class Finding:
    """One promise, and what is wrong with it (`reason`; empty: it is kept)."""

    promise: str
    reason: str = ""

    @property
    def kept(self) -> bool:
        return not self.reason


@final
@dataclass(frozen=True)
class PartCheck:
    """What was found about a part of one `kind` beside the parts of `method`."""

    part: str
    kind: str
    method: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether every promise is kept."""
        return all(finding.kept for finding in self.findings)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{'kept' if finding.kept else 'broken'}</td>"
            f"<td>{escape(finding.promise)}</td><td>{escape(finding.reason)}</td></tr>"
            for finding in self.findings
        )
        heading = f"{self.kind} {self.part} beside {self.method}"
        return f"<table><caption>{escape(heading)}</caption>{rows}</table>"


def check_part(
    part: str | type,
    options: Mapping[str, Any] | None = None,
    *,
    settings: Sequence[str] = (),
) -> PartCheck:
    """Try a user-defined planner, tuner, codec, aggregator or channel model.

    Args:
        part: the class, or its import path `module:Class`.
        options: what the experiment file has beside `use`.
        settings: `key=value` of the small experiment, such as `method=NAME` for the parts that
            this one is to stand beside.

    Returns:
        What each check found; `passed` says whether all went well.

    Raises:
        InputError: for a class that cannot be imported, that subclasses no base, or that does not
            take the options; and for parts that do not fit together, in a sentence that names them.
    """
    name = part if isinstance(part, str) else f"{part.__module__}:{part.__qualname__}"
    kind = _kind(import_class(name, (), "part"), name)
    spec = {"use": name, **(options or {})}
    config = _experiment(kind, spec, settings)
    world = build_world(config)
    found = tuple(_Found(kind, world).findings())
    return PartCheck(name, kind, config.method, (*found, *_runs(config)))


def _kind(cls: Any, name: str) -> str:
    bases = {**BASES, CHANNEL: (ChannelModel,)}
    for kind, classes in bases.items():
        if isinstance(cls, type) and issubclass(cls, classes):
            return kind
    allowed = ", ".join(base.__name__ for classes in bases.values() for base in classes)
    raise InputError("part", name, f"a subclass of one of {allowed}", "derive your class")


def _experiment(kind: str, spec: Mapping[str, Any], settings: Sequence[str]) -> ExperimentConfig:
    """The small experiment with the part in its place."""
    small = [s for s in _SMALL if kind != CHANNEL or not s.startswith("cell.path_loss")]
    values = read_config(None, [*small, *settings])
    if kind == CHANNEL:
        cell = values.cell.model_copy(update={"channel": dict(spec)})
        return values.model_copy(update={"cell": cell})
    return values.model_copy(update={kind: dict(spec)})


class _Found:
    """The promises of one part in a world that was built with it."""

    def __init__(self, kind: str, world: World) -> None:
        self.kind, self.world, self.context = kind, world, world.context
        self.state = world.unmeasured_start()

    def findings(self) -> Iterator[Finding]:
        checks: dict[str, dict[str, Callable[[], None]]] = {
            "planner": {
                "the same view gives the same plan": self.plans,
                "its plan passes the independent check": self.feasible,
                "a cohort of one client is planned": self.alone,
            },
            "tuner": {
                "training is repeatable and a stack answers the same": self.trains,
                "it computes the FLOPs that it states": self.flops,
            },
            "codec": {
                "bits are predicted, and decoding undoes encoding": self.codes,
                "a change of zeros is encoded": self.zeros,
                "half a payload is refused": self.halves,
            },
            "aggregator": {"merging is repeatable and follows the weights": self.merges},
            CHANNEL: {"gains depend on round and client alone": self.observes},
        }
        for promise, check in checks[self.kind].items():
            if self.kind in ("tuner", "codec", "aggregator") and self.together:
                break  # A cohort that trains together is tried by the runs alone.
            yield _tried(promise, check)

    @property
    def together(self) -> bool:
        return isinstance(self.context.method.tuner, CohortTuner)

    def tasks(self) -> list[ClientTask]:
        return tasks_of(self.context, self.state, start_round(self.context, self.state))

    def reports(self) -> list[tuple[ClientTask, ClientReport]]:
        return [(task, self.world.side.answer(task)) for task in self.tasks()]

    def plans(self) -> None:
        for index in range(ROUNDS):
            view = planning_view(self.context, index)
            check_planner(self.context.method.planner, view, self.state.planner)

    def feasible(self) -> None:
        for index in range(ROUNDS):
            start_round(self.context, replace(self.state, rounds_done=index))

    def alone(self) -> None:
        context: RoundContext = replace(self.context, cohort=CohortSettings(1, 0.0))
        start_round(context, self.state)

    def jobs(self) -> list[TuningJob]:
        return [self.world.side.job(task) for task in self.tasks()]

    def trains(self) -> None:
        tuner = self.context.method.tuner
        assert not isinstance(tuner, CohortTuner)
        check_tuner(tuner, self.jobs())

    def flops(self) -> None:
        costs = start_round(self.context, self.state).costs
        for task in self.tasks():
            with _countable(self.world.model), FlopCounterMode(display=False) as counter:
                self.world.side.answer(task)
            stated, done = costs.compute_flops(task.plan), float(counter.get_total_flops())
            require(
                abs(stated - done) <= 1e-6 * done,
                f"flops states {stated:.6g} FLOP of client {task.client}, which computed "
                f"{done:.6g}.",
            )

    def codes(self) -> None:
        codec, shapes = self.context.method.codec, self.context.shapes
        for task, report in self.reports():
            bound = codec.in_round(dict(self.state.adapter))
            change = bound.decode(report.payload, shapes, task.plan)
            check_codec(bound, change, task.plan, idempotent=False)
            check_affine_bits(bound, shapes, task.plan)

    def zeros(self) -> None:
        codec = self.context.method.codec.in_round(dict(self.state.adapter))
        change = {name: torch.zeros(shape) for name, shape in self.context.shapes.items()}
        decoded = check_codec(codec, change, self.tasks()[0].plan, idempotent=False)
        require(
            not any(bool(tensor.any()) for tensor in decoded.values()),
            "a change of zeros comes back as another one.",
        )

    def halves(self) -> None:
        codec, shapes = self.context.method.codec, self.context.shapes
        task, report = self.reports()[0]
        bound = codec.in_round(dict(self.state.adapter))
        for length in (0, len(report.payload) // 2, len(report.payload) - 1):
            try:
                bound.decode(report.payload[:length], shapes, task.plan)
            except Exception:
                continue
            require(
                False, f"decode takes {length} of {len(report.payload)} bytes without an error."
            )

    def merges(self) -> None:
        codec = self.context.method.codec.in_round(dict(self.state.adapter))
        updates = [
            Update(
                task.client,
                task.weight,
                codec.decode(report.payload, self.context.shapes, task.plan),
                codec.trained(task.plan),
                codec.sent(report.payload, self.context.shapes, task.plan),
            )
            for task, report in self.reports()
        ]
        aggregator = self.context.method.aggregator
        check_aggregator(aggregator, self.state.adapter, updates)
        check_aggregator(aggregator, self.state.adapter, updates[:1])

    def observes(self) -> None:
        config = self.world.config
        # Two channels, asked in different orders: one remembers what it has answered.
        one, other = (open_channel(config.cell, CLIENTS, config.seed) for _ in range(2))
        first, later = one.observe(0).truth.gain, one.observe(1).truth.gain
        again, before = other.observe(1).truth.gain, other.observe(0).truth.gain
        require(
            bool((later == again).all() and (first == before).all()),
            "it answers other gains when it is asked again, or in another order.",
        )
        require(bool((first > 0).any()), "no client is in reach in round 1.")


@contextmanager
def _countable(model: Any) -> Iterator[None]:
    """The model with plain attention: FlopCounterMode does not see a processor's fused one."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    before = base.config._attn_implementation
    base.set_attn_implementation("eager")
    try:
        yield
    finally:
        base.set_attn_implementation(before)


def _tried(promise: str, check: Callable[[], None]) -> Finding:
    try:
        with foreign_code("The part"):
            check()
    except AirtuneError as error:
        return Finding(promise, str(error))
    return Finding(promise)


def _runs(config: ExperimentConfig) -> Iterator[Finding]:
    """Two rounds in one go, and the same two with a resume between them."""
    with TemporaryDirectory(prefix="airtune-part-") as folder:
        whole, parted = Path(folder) / "whole", Path(folder) / "parted"

        def once() -> None:
            Experiment.of(config).run(whole, progress=False)

        def twice() -> None:
            Experiment.of(config.model_copy(update={"rounds": 1})).run(parted, progress=False)
            Experiment.resume(parted, progress=False, rounds=ROUNDS)
            for name in ("rounds.jsonl", "adapter/adapter_model.safetensors"):
                require(
                    (whole / name).read_bytes() == (parted / name).read_bytes(),
                    f"after a resume, {name} is another one: draw from (seed, round, client), "
                    "and keep nothing in the part itself.",
                )

        ran = _tried(f"{ROUNDS} rounds run", once)
        yield ran
        if ran.kept:
            yield _tried("a resumed run has the same bytes", twice)
