"""How far a run is, and the runs of a comparison or a sweep, read from their folders.

Nothing is written there, and no lock is taken: whether a process works in a folder is what the
kernel lists of its lock.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from airtune.config.text import read_resolved
from airtune.errors import AirtuneError, InputError
from airtune.federated.records.run_folder import RunFolder
from airtune.files import read_yaml_mapping
from airtune.folder_lock import is_held
from airtune.report.sources import COMPARISON, has_ended, is_run
from airtune.report.view import Records
from airtune.sweeping.definition import FILE as SWEEP_FILE
from airtune.sweeping.table import JSON as SWEEP_TABLE

FIELD = "RUN"
RECENT = 10
"""Rounds whose real seconds give the pace."""
RUNNING, ENDED, WAITING = "running", "ended", "not running"


@dataclass(frozen=True)
class RunState:
    """One run as it is now.

    `state` is `running`, `ended`, or `not running`: it has rounds to go and no process works on it.
    `reason` is why it ended early. `real_left_s` is None where no pace is known yet.
    """

    folder: Path
    name: str
    method: str
    model: str
    rounds: int
    records: Records
    state: str
    reason: str | None
    real_left_s: float | None

    @property
    def done(self) -> int:
        """Finished rounds."""
        return len(self.records)

    @property
    def virtual_left_s(self) -> float | None:
        """Virtual time of the rounds to come, at the mean of those that are done."""
        if not self.records or self.state == ENDED:
            return None
        return self.records[-1].virtual_time_s / self.done * (self.rounds - self.done)


@dataclass(frozen=True)
class RunsState:
    """The runs of a comparison or a sweep, in order; `planned` None: not known before all began.

    `solved` counts the points of a planning problem, `finished` says that the table is written.
    """

    folder: Path
    kind: str
    runs: Sequence[RunState]
    planned: int | None
    working: bool
    solved: int
    finished: bool

    @property
    def ended(self) -> int:
        """Runs that have ended, and points that are solved."""
        return self.solved + sum(run.state == ENDED for run in self.runs)


def kind_of_folder(folder: Path) -> str:
    """`run`, `sweep` or `comparison`. Raises InputError for any other."""
    if is_run(folder):
        return "run"
    if (folder / SWEEP_FILE).is_file():
        return "sweep"
    begun = folder.is_dir() and any(folder.glob("*/seed-*/experiment.yaml"))
    if begun or (folder / COMPARISON).is_file():
        return "comparison"
    words = "it has no experiment.yaml" if folder.is_dir() else "there is no such folder"
    if folder.is_file():
        words = "it is a file"
    raise InputError(FIELD, str(folder), "the folder of a run, a comparison or a sweep", words)


def read_run_state(folder: Path, name: str = "") -> RunState:
    """A run, begun or not. Raises AirtuneError for a damaged file."""
    run = RunFolder(folder)
    values = read_resolved(run.experiment)[0]
    records = run.read_records()
    summary = _object(folder / "summary.json")
    asked = values.get("rounds")
    rounds = asked if isinstance(asked, int) else len(records)
    ended = has_ended(summary, len(records), rounds)
    state = ENDED if ended else RUNNING if is_held(folder) else WAITING
    reason = summary.get("diverged") or summary.get("stopped") if ended else None
    paces = [float(entry["real_s"]) for entry in run.read_timings()[-RECENT:]]
    left_s = fmean(paces) * max(0, rounds - len(records)) if paces and not ended else None
    return RunState(
        folder=folder,
        name=name or folder.name,
        method=str(values.get("method")),
        model=Path(str(values.get("model"))).name,
        rounds=rounds,
        records=records,
        state=state,
        reason=reason,
        real_left_s=left_s,
    )


def read_runs_state(folder: Path) -> RunsState:
    """The begun runs of a comparison or a sweep; a run that cannot be read is left out."""
    kind = kind_of_folder(folder)
    pattern = "points/*/seed-*/experiment.yaml" if kind == "sweep" else "*/seed-*/experiment.yaml"
    runs = []
    for path in sorted(folder.glob(pattern)):
        with suppress(AirtuneError):
            name = f"{path.parent.parent.name}, {path.parent.name.replace('-', ' ')}"
            runs.append(read_run_state(path.parent, name))
    planned, solved, table = None, 0, COMPARISON
    if kind == "sweep":
        planned, table = _planned(folder), SWEEP_TABLE
        solved = sum(1 for _ in folder.glob("points/*.json"))
    return RunsState(
        folder, kind, runs, planned, is_held(folder), solved, (folder / table).is_file()
    )


def _planned(folder: Path) -> int | None:
    """The runs of a sweep, from its definition."""
    content: Mapping[str, Any] = {}
    with suppress(AirtuneError):
        content = read_yaml_mapping(folder / SWEEP_FILE, FIELD)
    with suppress(TypeError, AttributeError):
        count = max(1, len(content.get("list") or ())) * int(content.get("seeds", 1))
        for values in content.get("grid", {}).values():
            count *= len(values)
        return count
    return None


def _object(path: Path) -> dict[str, Any]:
    """A JSON object; nothing for a file that is not there, or just being replaced."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}
