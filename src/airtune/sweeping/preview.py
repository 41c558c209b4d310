"""What a sweep would do: its points, and how long it may take; nothing is run or written."""

import time
from pathlib import Path
from typing import Any

from airtune.config.experiment import ExperimentConfig
from airtune.errors import AirtuneError
from airtune.methods.file_kinds import PROBLEM
from airtune.sweeping.definition import Sweep, refuse_other_sweep
from airtune.sweeping.planning import problem_at, read_problem

TO_RUN, DONE = "to run", "done"


def preview_sweep(sweep: Sweep, out: Path, at_once: int) -> dict[str, Any]:
    """The points, each `to run`, `done`, or refused with its sentence, and the expected time.

    `real_s` is the time of the runs that are left, at the pace of the first; None for plans, which
    take as long as their solver does.
    """
    if sweep.kind == PROBLEM:
        points, runs, left, real_s = *_plans(sweep, out), None
    else:
        points, runs, left, real_s = _runs(sweep, out, at_once)
    return {
        "kind": sweep.kind,
        "keys": sweep.axes.keys,
        "jobs": at_once,
        "runs": runs,
        "left": left,
        "real_s": real_s,
        "points": points,
    }


def _plans(sweep: Sweep, out: Path) -> tuple[list[dict[str, Any]], int, int]:
    refuse_other_sweep(out, sweep)
    found = []
    for point in sweep.points:
        entry = {"point": point.number, **point.values, "state": TO_RUN, "sentence": None}
        try:
            read_problem(problem_at(sweep.base, point), sweep.solver)
        except AirtuneError as error:
            entry |= {"state": "refused", "sentence": str(error)}
        found.append(entry)
    left = sum(entry["state"] == TO_RUN for entry in found)
    return found, len(found), left


def _runs(
    sweep: Sweep, out: Path, at_once: int
) -> tuple[list[dict[str, Any]], int, int, float | None]:
    from airtune.jobs.running import finished
    from airtune.sweeping.training import refuse_run_folder_as_sweep, training_points, written

    points = training_points(sweep)
    refuse_run_folder_as_sweep(out)
    refuse_other_sweep(out, written(sweep, points))
    found, runs = [], 0
    left: list[ExperimentConfig] = []
    for made in points:
        missing = [job.config for job in made.jobs(out) if finished(job) is None]
        runs += len(made.configs)
        left += missing
        entry: dict[str, Any] = {"point": made.point.number, **made.point.values}
        entry |= {"state": TO_RUN if missing else DONE, "sentence": None}
        if made.refusal is not None:
            entry |= {"state": made.refusal.state, "sentence": made.refusal.sentence}
        found.append(entry)
    return found, runs, len(left), _expected_s(left, at_once)


def _expected_s(configs: list[ExperimentConfig], at_once: int) -> float | None:
    """Load and train time of the first run that can be previewed, for all in proportion."""
    from airtune.experiment import Experiment

    if not configs:
        return 0.0
    for config in configs:
        began = time.perf_counter()
        try:
            shown = Experiment.of(config).preview()
        except AirtuneError:
            continue
        beside_s = time.perf_counter() - began
        pace = float(shown["real_s"]) / _steps(config)
        parallel = min(at_once, len(configs))
        return sum(beside_s + pace * _steps(other) for other in configs) / parallel
    return None


def _steps(config: ExperimentConfig) -> float:
    """Rows that a run trains, over all rounds and clients."""
    cohort = config.cohort.size or config.clients.count
    training = config.training
    return float(config.rounds * cohort * training.local_steps * training.batch_size)
