"""A run of several, new, continued or found finished; a failure is a result, not an exception."""

import traceback
from dataclasses import dataclass
from pathlib import Path

from airtune.config.experiment import ExperimentConfig
from airtune.config.text import flat, plain_values, read_resolved, resolved_yaml
from airtune.errors import AirtuneError, InputError, redacted
from airtune.experiment import Experiment, Listener, Run
from airtune.experiment.paths import with_absolute_paths
from airtune.experiment.reading import default_experiment
from airtune.files import write_text_atomic
from airtune.jobs.job import FAILED, FINISHED, FREE, Job, RunResult, state_of


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its state and, unless it finished, the sentence why."""

    state: str = FINISHED
    failure: str | None = None


def perform(job: Job, listener: Listener) -> Outcome:
    """Run what is missing of a job."""
    try:
        _perform(job, listener)
        return Outcome()
    except AirtuneError as error:
        failure = str(error)
        if error.details:
            failure += f" (Traceback in {_kept_traceback(job.folder, error.details)}.)"
        return Outcome(state_of(error), failure)
    except Exception as error:
        # A fault of one run must not cost hours of the others; its traceback is kept.
        name = _kept_traceback(job.folder, traceback.format_exc())
        kind = type(error).__name__
        return Outcome(FAILED, redacted(f"{kind}: {error} (traceback in {name})."))


def _perform(job: Job, listener: Listener) -> None:
    if not (job.folder / "experiment.yaml").is_file():
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(job.asked_file, resolved_yaml(with_absolute_paths(job.config)))
        Experiment.of(job.config).run(job.folder, listener)
        return
    run = Run.open(job.folder)
    if not _is_finished(run, job.config.rounds):
        more = max(0, job.config.rounds - run.config.rounds)
        Experiment.resume(job.folder, more, listener)


def _is_finished(run: Run, rounds: int) -> bool:
    """A run that was being made longer still has the summary of its shorter self."""
    if not (run.folder.path / "summary.json").is_file():
        return False
    return run.summary["stopped"] is not None or run.summary["rounds"] >= rounds


def finished(job: Job) -> RunResult | None:
    """A finished run as its folder has it; None for one that is still to be run."""
    if not (job.folder / "experiment.yaml").is_file():
        return None
    try:
        run = Run.open(job.folder)
        if _is_finished(run, job.config.rounds):
            return result_of(job, Outcome())
    except AirtuneError:
        pass  # damaged: to be run, which mends it or says what is wrong
    return None


def result_of(job: Job, outcome: Outcome) -> RunResult:
    """The result of a run that has ended; that of a finished one is read from its folder."""
    if outcome.failure is not None:
        return RunResult(
            job.name, job.seed, job.folder, failure=outcome.failure, state=outcome.state
        )
    run = Run.open(job.folder)
    return RunResult(job.name, job.seed, job.folder, run.summary, run.records[: job.config.rounds])


def _kept_traceback(folder: Path, text: str) -> str:
    """Write a traceback beside the run's folder; its file's name."""
    path = folder.with_suffix(".error.txt")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, redacted(text))
    return path.name


def refuse_other_settings(job: Job, whole: str) -> None:
    """Refuse a folder whose run had other settings, by name; `whole`: what the run belongs to."""
    if not (job.folder / "experiment.yaml").is_file():
        return
    allowed, remedy = f"a folder of the same {whole}", "choose another --out, or remove it"
    if not job.asked_file.is_file():
        raise InputError("--out", str(job.folder), allowed, remedy)
    changed = _changed(job.config, job.asked_file)
    if changed:
        words = f"the run in it has another {', '.join(changed)}; {remedy}"
        raise InputError("--out", str(job.folder), allowed, words)


def _changed(config: ExperimentConfig, path: Path) -> list[str]:
    """Keys in which an experiment differs from the settings in a file, apart from `FREE` and
    `rounds`, which makes a run longer."""
    there, found = read_resolved(path)
    wanted = plain_values(with_absolute_paths(config), templates=found > 1)
    # A key that the file does not have yet is at its default there.
    before = dict(flat(plain_values(default_experiment()))) | dict(flat(there))
    return [
        key
        for key, value in flat(wanted)
        if key.partition(".")[0] not in (*FREE, "rounds") and before.get(key) != value
    ]
