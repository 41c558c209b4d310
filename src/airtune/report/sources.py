"""What a report is asked for: a run, several runs, or a comparison, read from their folders.

Read are the rounds written so far, the settings as text, and the numbers of a finished comparison;
no model, no data, no channel.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airtune.config.text import read_resolved
from airtune.errors import AirtuneError, InputError
from airtune.federated.records.checkpoint import read_start_loss
from airtune.federated.records.run_folder import RunFolder
from airtune.files import read_text
from airtune.report.view import Records

COMPARISON = "comparison.json"
FIELD = "RUN"
_ALLOWED = "the folder of a run or of a comparison"


@dataclass(frozen=True)
class RunSource:
    """One run: its settings that a report names, and the rounds that are written.

    `start_loss` is None where only a lost checkpoint would tell. `rounds_asked` is what the run was
    told to do; `finished` says that it has ended, early or not.
    """

    folder: Path
    name: str
    seed: int
    method: str
    model: str
    charge_as: str | None
    rounds_asked: int
    start_loss: float | None
    records: Records
    finished: bool


@dataclass(frozen=True)
class ArmSource:
    """Runs that differ by their seed alone, under one name."""

    name: str
    runs: tuple[RunSource, ...]

    @property
    def curves(self) -> list[tuple[float | None, Records]]:
        """Start loss and records of each run."""
        return [(run.start_loss, run.records) for run in self.runs]


@dataclass(frozen=True)
class Source:
    """What is reported: arms in order. `comparison` is what `comparison.json` holds, if anything.

    `notes` say what is not finished, and what is left out.
    """

    arms: tuple[ArmSource, ...]
    comparison: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @property
    def runs(self) -> list[RunSource]:
        """Every run, arm by arm."""
        return [run for arm in self.arms for run in arm.runs]

    @property
    def single(self) -> RunSource | None:
        """The run, where there is one alone and no comparison around it."""
        runs = self.runs
        return runs[0] if len(runs) == 1 and self.comparison is None else None


def arm_folder(name: str) -> str:
    """An arm's name as a folder's name."""
    return re.sub(r"[^\w.+=-]+", "-", name)


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return (folder / "experiment.yaml").is_file()


def read_source(paths: Sequence[Path]) -> Source:
    """A run, several, or a comparison.

    Raises InputError for what is none of them, for runs without a round, and for runs that are
    charged as different models.
    """
    if len(paths) == 1 and not is_run(paths[0]):
        return _comparison(paths[0])
    for path, times in Counter(path.resolve() for path in paths).items():
        if times > 1:
            raise InputError(FIELD, str(path), "each run once")
    runs = [read_run(path, name) for path, name in zip(paths, _names(paths), strict=True)]
    _refuse_mixed(runs)
    return Source(
        tuple(ArmSource(run.name, (run,)) for run in runs),
        notes=tuple(_unfinished(run) for run in runs if not run.finished),
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """As many last parts of each path as distinguish them."""
    places = [path.resolve().parts for path in paths]
    for count in range(1, max(map(len, places)) + 1):
        names = ["/".join(parts[-count:]) for parts in places]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def read_run(folder: Path, name: str) -> RunSource:
    """One run. Raises InputError for another folder, and for a run without a round."""
    if not is_run(folder):
        raise InputError(FIELD, str(folder), _ALLOWED, _why_not(folder))
    values = read_resolved(RunFolder(folder).experiment)[0]
    records = RunFolder(folder).read_records()
    if not records:
        raise InputError(
            FIELD, str(folder), "a run with a finished round", "it has none yet: wait for its first"
        )
    summary = _read_json(folder / "summary.json")
    rounds = values.get("rounds")
    asked = rounds if isinstance(rounds, int) else len(records)
    return RunSource(
        folder=folder,
        name=name,
        seed=int(values.get("seed") or 0),
        method=str(values.get("method")),
        model=str(values.get("model")),
        charge_as=values.get("charge_as") or None,
        rounds_asked=asked,
        start_loss=summary.get("start_test_loss", read_start_loss(RunFolder(folder).checkpoints)),
        records=records,
        finished=has_ended(summary, len(records), asked),
    )


def has_ended(summary: Mapping[str, Any], rounds: int, asked: int) -> bool:
    """Whether a summary is that of a run as it is now, and the run was not asked to go on."""
    ended_early = bool(summary.get("stopped")) or "diverged" in summary
    return summary.get("rounds") == rounds and (rounds >= asked or ended_early)


def _read_json(path: Path) -> dict[str, Any]:
    """An object; nothing where there is no file. Raises AirtuneError for a damaged one."""
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(read_text(path, FIELD)))
    except (ValueError, TypeError):
        raise AirtuneError(
            f"{path} is damaged: the command that wrote the folder, given again, makes it anew."
        ) from None


def _why_not(folder: Path) -> str:
    if folder.is_file():
        return "it is a file"
    if not folder.is_dir():
        return "there is no such folder"
    if not any(folder.iterdir()):
        return "it is empty"
    return f"it has neither experiment.yaml nor {COMPARISON}"


def _refuse_mixed(runs: Sequence[RunSource]) -> None:
    """Times and bits of two models are no two values of one quantity."""
    charged = {run.charge_as or run.model: run.folder for run in runs}
    if len(charged) > 1:
        found = ", ".join(f"{model} ({folder})" for model, folder in charged.items())
        raise InputError(
            FIELD,
            f"runs charged as {found}",
            "runs that are charged as one model",
            "their times, bits and energies do not compare: report them one by one",
        )


def _unfinished(run: RunSource) -> str:
    return f"{run.name} is not finished: {len(run.records)} of {run.rounds_asked} rounds so far."


def _comparison(folder: Path) -> Source:
    numbers = _read_json(folder / COMPARISON)
    return _finished(folder, numbers) if numbers else _begun(folder)


def _finished(folder: Path, numbers: Mapping[str, Any]) -> Source:
    """As `comparison.json` counts it: a run that went on since keeps the rounds of then."""
    try:
        arms = tuple(_arm(folder, measured) for measured in numbers["arms"])
    except (KeyError, TypeError):
        raise AirtuneError(
            f"{folder / COMPARISON} is damaged: the same `airtune compare` makes it again."
        ) from None
    return Source(arms, numbers)


def _arm(folder: Path, measured: Mapping[str, Any]) -> ArmSource:
    name, runs = measured["arm"], []
    for run in measured["runs"]:
        if "failure" not in run:
            place = folder / arm_folder(name) / f"seed-{run['seed']}"
            runs.append(_cut(read_run(place, name), int(run["total"]["rounds"])))
    return ArmSource(name, tuple(runs))


def _cut(run: RunSource, rounds: int) -> RunSource:
    if len(run.records) < rounds:
        raise AirtuneError(
            f"{run.folder} has {len(run.records)} rounds, and {COMPARISON} counts {rounds}: give "
            "the same `airtune compare` again."
        )
    return RunSource(**{**vars(run), "records": run.records[:rounds], "finished": True})


def _begun(folder: Path) -> Source:
    """The runs of a comparison that has not ended, an arm a folder."""
    places = sorted(path.parent for path in folder.glob("*/seed-*/experiment.yaml"))
    begun = [place for place in places if RunFolder(place).records_length()]
    if not begun:
        raise InputError(FIELD, str(folder), _ALLOWED, _why_not(folder))
    runs = [read_run(place, place.parent.name) for place in begun]
    _refuse_mixed(runs)
    arms = {
        name: tuple(run for run in runs if run.name == name) for name in {r.name: 0 for r in runs}
    }
    waiting = [f"{place.parent.name}, {place.name}" for place in places if place not in begun]
    notes = ["This comparison is not finished: it has no table of costs to a target yet."]
    notes += [
        f"{run.name}, seed {run.seed}: {len(run.records)} of {run.rounds_asked} rounds so far."
        for run in runs
        if not run.finished
    ]
    notes += [f"No round yet of {'; '.join(waiting)}."] if waiting else []
    return Source(tuple(ArmSource(name, own) for name, own in arms.items()), notes=tuple(notes))
