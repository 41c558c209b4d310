"""A sweep of training runs: each point and seed is a run folder."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airtune.config.experiment import ExperimentConfig, with_values
from airtune.errors import AirtuneError, InputError
from airtune.experiment.composition import check_names
from airtune.experiment.paths import absolute_values
from airtune.experiment.reading import check_filled
from airtune.experiment.unused import unused_error, unused_keys
from airtune.jobs.job import Job, state_of
from airtune.sweeping.axes import Point, folder_names
from airtune.sweeping.definition import Sweep
from airtune.wireless.unused import refuse_unused_cell_keys

POINTS = "points"


@dataclass(frozen=True)
class Refusal:
    """Why a point is not run."""

    state: str
    sentence: str


@dataclass(frozen=True)
class TrainingPoint:
    """A point with the checked experiment of each seed, or with what is wrong with it."""

    point: Point
    folder: str
    configs: Mapping[int, ExperimentConfig]
    refusal: Refusal | None = None

    def jobs(self, out: Path) -> list[Job]:
        """Its runs: `OUT/points/POINT/seed-0`."""
        place = out / POINTS / self.folder
        return [
            Job(self.folder, seed, config, place / f"seed-{seed}")
            for seed, config in self.configs.items()
        ]


def training_points(sweep: Sweep) -> list[TrainingPoint]:
    """Every point, checked as far as it can be without a file.

    Raises the error of the first point where all of them are refused, and InputError for a key of
    the experiment that has an effect at no point.
    """
    made: list[TrainingPoint] = []
    errors: list[AirtuneError] = []
    for point, folder in zip(sweep.points, folder_names(sweep.points), strict=True):
        try:
            made.append(TrainingPoint(point, folder, _configs(sweep, point)))
        except AirtuneError as error:
            errors.append(error)
            refusal = Refusal(state_of(error), str(error))
            made.append(TrainingPoint(point, folder, {}, refusal))
    if len(errors) == len(made):
        raise errors[0]
    _refuse_unused(sweep, made)
    return made


def _configs(sweep: Sweep, point: Point) -> dict[int, ExperimentConfig]:
    values = with_values(sweep.base, point.values)
    first = check_filled(values)
    check_names(first)
    for key, needed in unused_keys(first):
        if any(f"{key}.".startswith(f"{swept}.") for swept in point.values):
            raise unused_error(first, key, needed)
    refuse_unused_cell_keys(first.cell)
    return {
        seed: check_filled({**values, "seed": seed})
        for seed in range(first.seed, first.seed + sweep.seeds)
    }


def _refuse_unused(sweep: Sweep, points: list[TrainingPoint]) -> None:
    """Refuse a key that all points share and that changes nothing at any of them."""
    firsts = [next(iter(point.configs.values())) for point in points if point.configs]
    unused = [dict(unused_keys(config)) for config in firsts]
    for key in unused[0]:
        if all(key in keys for keys in unused):
            raise unused_error(firsts[0], key, unused[0][key])


def written(sweep: Sweep, points: list[TrainingPoint]) -> Sweep:
    """The sweep as its file has it: paths hold in any folder, and secrets are templates."""
    first = next(config for point in points for config in point.configs.values())
    base: dict[str, Any] = absolute_values(with_values(sweep.base, {}))
    for place, (template, filled) in first._templates.items():
        _replace(base, place, template, filled)
    return Sweep(sweep.kind, base, sweep.axes, sweep.seeds, sweep.solver, sweep.source)


def _replace(values: Any, place: tuple[str | int, ...], template: str, filled: str) -> None:
    """The template in the place of its text, where the keys that all points share have it."""
    with suppress(KeyError, IndexError, TypeError):
        for key in place[:-1]:
            values = values[key]
        if values[place[-1]] == filled:
            values[place[-1]] = template


def refuse_run_folder_as_sweep(out: Path) -> None:
    """A run's report would be lost under that of the sweep."""
    if (out / "experiment.yaml").is_file():
        raise InputError("--out", str(out), "a new folder, or that of a sweep", "it holds a run")
