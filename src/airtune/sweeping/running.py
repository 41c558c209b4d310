"""Running a sweep: what is missing of it, then its table."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from airtune.comparison.measure import costs_until
from airtune.files import make_folder
from airtune.folder_lock import locked
from airtune.jobs.job import FINISHED, RunResult, Unwatched, Watcher
from airtune.jobs.pool import run_jobs
from airtune.jobs.running import refuse_other_settings
from airtune.report.costs import COSTS, SERVER_COSTS
from airtune.sweeping.definition import Sweep, refuse_other_sweep, write_definition
from airtune.sweeping.table import Metric, Row, SweepResult
from airtune.sweeping.training import (
    TrainingPoint,
    refuse_run_folder_as_sweep,
    training_points,
    written,
)

LOSSES = (
    Metric("final_test_loss", "final test loss", "nat"),
    Metric("best_test_loss", "lowest test loss", "nat"),
    Metric("start_test_loss", "test loss before round 1", "nat"),
)
METRICS = (*LOSSES, *(Metric(cost.key, cost.label, cost.unit) for cost in (*COSTS, *SERVER_COSTS)))


def run_training(
    sweep: Sweep, out: Path, watcher: Watcher | None = None, at_once: int = 1
) -> SweepResult:
    """Run what is missing of a sweep of training runs, and write its table.

    Raises InputError before anything is run, for a folder of something else or of another sweep,
    and where every point is refused; AirtuneError where another process works in the folder.
    """
    points = training_points(sweep)
    kept = written(sweep, points)
    refuse_run_folder_as_sweep(out)
    refuse_other_sweep(out, kept)
    make_folder("--out", out)
    with locked(out):
        # Once more: another sweep may have come and gone since.
        refuse_other_sweep(out, kept)
        jobs = [job for point in points for job in point.jobs(out)]
        for job in jobs:
            refuse_other_settings(job, "sweep")
        write_definition(out, kept)
        results = run_jobs(jobs, at_once, watcher or Unwatched())
        by_run = {(result.name, result.seed): result for result in results}
        rows = [row for point in points for row in _rows(point, by_run, out)]
        result = SweepResult(out, sweep.kind, sweep.axes.keys, rows, _shared(points))
        result.write()
        return result


def _shared(points: Sequence[TrainingPoint]) -> dict[str, Any]:
    """What the runs of all points have alike, of what a reader wants to know first."""
    configs = [config for point in points for config in point.configs.values()]
    found = {}
    for name, of in _NAMES.items():
        values = {of(config) for config in configs}
        if len(values) == 1:
            found[name] = values.pop()
    return found


_NAMES: Mapping[str, Callable[[Any], Any]] = {
    "model": lambda config: Path(config.model).name,
    "method": lambda config: config.method,
    "rounds": lambda config: config.rounds,
    "charge_as": lambda config: config.charge_as and Path(config.charge_as).name,
}


def _rows(
    point: TrainingPoint, results: Mapping[tuple[str, int], RunResult], out: Path
) -> list[Row]:
    number, values = point.point.number, point.point.values
    if point.refusal is not None:
        return [Row(number, values, None, point.refusal.state, {}, point.refusal.sentence)]
    made = []
    for job in point.jobs(out):
        result = results[job.name, job.seed]
        folder = job.folder.relative_to(out).as_posix() if job.folder.is_dir() else None
        parts = result.state, measured(result), result.failure, folder
        made.append(Row(number, values, job.seed, *parts))
    return made


def measured(result: RunResult) -> dict[str, float | str | None]:
    """The numbers of a finished run."""
    if result.state != FINISHED or result.summary is None:
        return {}
    losses = [record.test_loss for record in result.records]
    costs = costs_until(result.records, len(result.records))
    start = float(result.summary["start_test_loss"])
    return {
        "final_test_loss": losses[-1] if losses else start,
        "best_test_loss": min(losses, default=start),
        "start_test_loss": start,
        "stopped": result.summary["stopped"],
        # `rounds` may be swept.
        "rounds_done": costs.pop("rounds"),
        **costs,
    }
