"""Running every arm and seed of a comparison into its own run folder."""

from pathlib import Path
from typing import Any

from airtune.comparison.definition import Comparison
from airtune.errors import AirtuneError, InputError
from airtune.experiment import Experiment
from airtune.experiment.composition import check_names
from airtune.files import make_folder
from airtune.folder_lock import locked
from airtune.jobs.job import Job, RunResult, Unwatched, Watcher
from airtune.jobs.pool import run_jobs
from airtune.jobs.running import refuse_other_settings


def jobs_of(comparison: Comparison, out: Path) -> list[Job]:
    """Every run, in `OUT/ARM/seed-0`, seed by seed."""
    return [
        Job(arm.name, seed, arm.configs[seed], out / arm.folder / f"seed-{seed}")
        for arm, seed in comparison.runs
    ]


def check_comparison(comparison: Comparison, out: Path) -> None:
    """Refuse what cannot work before anything runs: names of parts, and folders of other runs."""
    for arm in comparison.arms:
        try:
            check_names(next(iter(arm.configs.values())))
        except AirtuneError as error:
            raise error.within(f"arm {arm.name}") from None
    for job in jobs_of(comparison, out):
        refuse_other_settings(job, "comparison")


def run_comparison(
    comparison: Comparison, out: Path | str, watcher: Watcher | None = None, jobs: int = 1
) -> list[RunResult]:
    """Run what is missing, `jobs` runs at a time. A run that fails does not lose the others.

    Raises InputError before anything is run, for names that do not exist and folders of others, and
    AirtuneError where another process works in the folder.
    """
    out, watcher = Path(out), watcher or Unwatched()
    if (out / "experiment.yaml").is_file():
        raise InputError(
            "--out",
            str(out),
            "a new folder, or that of a comparison",
            "it holds a run, whose report would be lost; choose another one",
        )
    check_comparison(comparison, out)
    make_folder("--out", out)
    with locked(out):
        # Once more: another comparison may have come and gone since.
        check_comparison(comparison, out)
        return run_jobs(jobs_of(comparison, out), jobs, watcher)


def preview_arms(comparison: Comparison) -> list[dict[str, Any]]:
    """The first round of every arm as planned, on its first seed; times are of one run."""
    previews = []
    for arm in comparison.arms:
        try:
            shown = Experiment.of(next(iter(arm.configs.values()))).preview()
        except AirtuneError as error:
            raise error.within(f"arm {arm.name}") from None
        clients = shown["clients"]
        previews.append(
            {
                "arm": arm.name,
                "seeds": len(arm.configs),
                "rounds": shown["rounds"],
                "latency_s": shown["latency_s"],
                "lower_bound_s": shown["lower_bound_s"],
                "uplink_bits": sum(entry["uplink_bits"] for entry in clients),
                "virtual_time_s": shown["virtual_time_s"],
                "real_s": shown["real_s"],
                "message": shown["message"],
            }
        )
    return previews
