"""One run of several: what it is, and what became of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from airtune.config.experiment import ExperimentConfig
from airtune.errors import AirtuneError, DivergedError, InfeasibleError, InputError
from airtune.federated.records.record import RoundRecord
from airtune.report.view import Records

FINISHED, DIVERGED, INFEASIBLE, REFUSED, FAILED = (
    "finished",
    "diverged",
    "infeasible",
    "refused",
    "failed",
)
"""States of a run: it has a summary (`finished`, also where a rule stopped it), its training left
the finite numbers, no plan exists, its input was refused, or anything else went wrong."""


FREE = ("engine", "threads", "workers", "backend", "ray_address", "report_to")
"""Keys in which what goes on may differ from what began: they change no result."""


def state_of(error: AirtuneError) -> str:
    """What a run is that ended with this error."""
    kinds = ((DivergedError, DIVERGED), (InfeasibleError, INFEASIBLE), (InputError, REFUSED))
    return next((state for kind, state in kinds if isinstance(error, kind)), FAILED)


@dataclass(frozen=True)
class Job:
    """A run: what it belongs to (an arm, a point), its seed, its experiment and its folder."""

    name: str
    seed: int
    config: ExperimentConfig
    folder: Path

    @property
    def asked_file(self) -> Path:
        """`FOLDER.yaml`: its settings as given. The run's own file has the resolved ones."""
        return self.folder.with_suffix(".yaml")


@dataclass(frozen=True)
class RunResult:
    """One run: `summary` and `records` of a finished one, else the reason why there are none."""

    name: str
    seed: int
    folder: Path
    summary: Mapping[str, Any] | None = None
    records: Records = ()
    failure: str | None = None
    state: str = FINISHED


class Watcher(Protocol):
    """Events of several runs; each says by name and seed which run it is."""

    def run_started(self, name: str, seed: int, rounds_done: int, rounds: int) -> None: ...
    def round_done(self, name: str, seed: int, record: RoundRecord) -> None: ...
    def run_ended(self, result: RunResult) -> None: ...
    def notice(self, name: str, seed: int, sentence: str) -> None: ...


class Unwatched:
    """No-op listener."""

    def run_started(self, name: str, seed: int, rounds_done: int, rounds: int) -> None: ...
    def round_done(self, name: str, seed: int, record: RoundRecord) -> None: ...
    def run_ended(self, result: RunResult) -> None: ...
    def notice(self, name: str, seed: int, sentence: str) -> None: ...
