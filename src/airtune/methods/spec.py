"""The description of a learning method: one `MethodSpec` in the method's own folder.

A method is registered once (`methods/registry.py`, or the entry point group `airtune.methods` of an
installed package). The commands, the experiment file, the documents and the tests read this
description and name no method themselves. Reading a description imports neither torch nor the
method's parts: what is expensive to import is named as a `Lazy`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol, cast, final

from airtune.config.experiment import ExperimentConfig
from airtune.errors import InputError
from airtune.methods.options import NoOptions
from airtune.section import Section

Report = Callable[[str], None]
"""Takes one sentence of progress."""
Unused = tuple[str, str]
"""A key and what would give it an effect."""


@final
@dataclass(frozen=True)
class Lazy:
    """A function by its place, `package.module:name`, imported when it is called."""

    place: str

    @property
    def module(self) -> str:
        """The module's name."""
        return self.place.partition(":")[0]

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.load()(*arguments, **options)

    def load(self) -> Any:
        """The object at this place."""
        return getattr(import_module(self.module), self.place.partition(":")[2])


@final
@dataclass(frozen=True)
class PartSpec:
    """A part that an experiment can name: its options, and `make(bench, options)`.

    `references` are those of a part that is no method's own, as in a `MethodSpec`.
    """

    options: type[Section]
    make: Callable[..., Any]
    references: Sequence[str] = ()


class ProblemModule(Protocol):
    """The module of a planning problem.

    It may also have `simulate(problem, rounds, trace, solver) -> dict`: many rounds, for
    `airtune plan --rounds`; and `front(problem, weights, budgets, others) -> list`: points of
    latency against energy, for `airtune pareto`, with the solvers named in `BESIDE_FRONT` as
    others.
    """

    SOLVERS: Mapping[str, Callable[[Any], Any]]
    """Solver by name; the first is the default."""
    FILE: type[Section]
    """The section of a file in explicit numbers."""

    def read(self, mapping: Mapping[str, Any]) -> Any:
        """The problem in SI units; InputError, in one sentence, for anything it cannot mean."""
        ...

    def answer(self, problem: Any, solution: Any) -> dict[str, Any]:
        """The answer as plain data, what `airtune plan --json` prints."""
        ...


@final
@dataclass(frozen=True)
class ProblemSpec:
    """What `airtune plan` solves under this name.

    `module` is a `ProblemModule`; `from_cell` derives its explicit numbers from a model, a cell and
    devices, in a file of the section `cell_file`; both are None where a problem has explicit
    numbers alone.
    """

    name: str
    module: str
    from_cell: Lazy | None = None
    cell_file: Lazy | None = None

    def load(self) -> ProblemModule:
        """The module, imported now."""
        return cast(ProblemModule, import_module(self.module))


class OfflineTable(Protocol):
    """What a search before round 1 found."""

    @property
    def best(self) -> float:
        """The candidate that wins."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """The choice, how it was made, and a row for each candidate."""
        ...


@final
@dataclass(frozen=True)
class OfflineStage:
    """Something that a run settles before round 1, where the experiment sets it.

    `file` holds the evidence in the run folder; `wanted` reads the switches of the method's
    section. `decide(config, trials, report)` answers the experiment with the switch off and the
    choice put in, and the evidence (`trials`: `methods.trial.Trials`). `search` is the same stage
    as a command of its own, where it has one:
    `search(config, trials, candidates, rounds, clients, target_loss, report) -> OfflineTable`.
    """

    name: str
    file: str
    wanted: Callable[[Any], bool]
    decide: Callable[..., tuple[ExperimentConfig, dict[str, Any]]]
    search: Callable[..., OfflineTable] | None = None


def refuse_changed_base(spec: "MethodSpec") -> None:
    """InputError for a method whose clients would have to merge into the base themselves."""
    if spec.changes_base:
        raise InputError(
            "method",
            spec.name,
            "one that leaves the base as it is where clients are real machines or processes",
            "simulate it with `airtune run`",
        )


def _same(config: ExperimentConfig) -> ExperimentConfig:
    return config


def _none(config: ExperimentConfig, options: Any) -> Iterator[Unused]:
    return iter(())


@final
@dataclass(frozen=True)
class MethodSpec:
    """A learning method, described.

    Args:
        name: of the method, and of its section in an experiment.
        title: one line for lists.
        references: the papers, `Authors, arXiv NUMBER`.
        options: the section.
        compose: `(bench, options) -> Method`; None for a method that is only planned.
        problem: what `airtune plan` solves; None without a planning problem of its own.
        parts: kind of part -> name -> the part, for experiments that mix methods.
        part_options: options that belong to one part and mean nothing where it is replaced.
        offline: what is settled before round 1, in this order.
        prepare: the experiment that really runs; applying it twice changes nothing.
        unused: `(config, options)` -> keys without effect, with what would give them one.
        needs_factors: works on LoRA's factors, so that full tuning is refused.
        is_federated: False where one client holds all data.
        splits: the model is divided between the clients and a main server.
        changes_base: products are merged into the base between rounds; clients on other machines
            do not do that.
        seeded: what travels are coefficients on directions from a seed, far fewer than the numbers
            trained: a round learns far less, so that a shorter one is no shorter job.
        paces: the server may make steps without synchronous rounds (the section `pacing`).
        draws_cohort: its planner draws the cohort itself.
        switches: options that switch an offline stage on; they change no round themselves.
        files: options that name a file or a data set, whose content has a digest.
        rests_on: `config -> {what: content}`: what else the rounds depend on; of a `Path`, the
            content of the file.
        rounds_to_target: `config -> (rounds, source)`: a measured number of rounds to a target
            loss, where the experiment has one.
        chooses_rank: the option that has the LoRA rank chosen before round 1, if it is set.
        not_deployed: `options` -> which of them need all clients in one process, so that a
            deployment is refused; None where none does.
        recorded: `plan` or `measured`, the places of a record for numbers of its own, with the
            dataclass that declares them (`federated.records.fields`).
    """

    name: str
    title: str
    references: tuple[str, ...] = ()
    options: type[Section] = NoOptions
    compose: Callable[..., Any] | None = None
    problem: ProblemSpec | None = None
    parts: Mapping[str, Mapping[str, PartSpec]] = field(default_factory=dict)
    part_options: Mapping[str, Sequence[str]] = field(default_factory=dict)
    offline: tuple[OfflineStage, ...] = ()
    prepare: Callable[[ExperimentConfig], ExperimentConfig] = _same
    unused: Callable[[ExperimentConfig, Any], Iterator[Unused]] = _none
    needs_factors: bool = True
    is_federated: bool = True
    splits: bool = False
    changes_base: bool = False
    seeded: bool = False
    paces: bool = False
    draws_cohort: bool = False
    switches: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    rests_on: Callable[[ExperimentConfig], Mapping[str, Any]] | None = None
    rounds_to_target: Callable[[ExperimentConfig], tuple[float, str] | None] = lambda config: None
    chooses_rank: Callable[[Any], str | None] = lambda options: None
    not_deployed: Callable[[Any], str | None] = lambda options: None
    recorded: Mapping[str, type] = field(default_factory=dict)
