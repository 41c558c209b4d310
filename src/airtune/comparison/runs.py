"""Running every arm and seed into its own run folder; what is finished is not run again.

Several runs can proceed at once, each in a process of its own. A run that trains on one thread
leaves the other cores idle while it loads, evaluates and writes; so runs side by side finish sooner
than one run on all cores. Results do not depend on it: every run is the one that it would have been
alone.
"""

import signal
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import Empty
from typing import Any, Protocol

from airtune.comparison.definition import Arm, Comparison
from airtune.comparison.measure import RunResult
from airtune.config.experiment import ExperimentConfig
from airtune.config.text import flat, plain_values, read_resolved, resolved_yaml
from airtune.errors import AirtuneError, InputError, redacted
from airtune.experiment import Experiment, Run
from airtune.experiment.composition import check_names
from airtune.experiment.folder_lock import locked
from airtune.experiment.paths import with_absolute_paths
from airtune.experiment.reading import default_experiment
from airtune.federated.records.record import RoundRecord
from airtune.files import make_folder, write_text_atomic

FREE = ("engine", "threads", "workers", "backend", "ray_address", "report_to", "rounds")
"""Keys in which an earlier run may differ: they change no result, or make it longer."""


class Watcher(Protocol):
    """Events of a comparison."""

    def run_started(self, arm: str, seed: int, rounds_done: int, rounds: int) -> None: ...
    def round_done(self, arm: str, seed: int, record: RoundRecord) -> None: ...
    def run_ended(self, result: RunResult) -> None: ...
    def notice(self, arm: str, seed: int, sentence: str) -> None: ...


class Unwatched:
    """No-op listener."""

    def run_started(self, arm: str, seed: int, rounds_done: int, rounds: int) -> None: ...
    def round_done(self, arm: str, seed: int, record: RoundRecord) -> None: ...
    def run_ended(self, result: RunResult) -> None: ...
    def notice(self, arm: str, seed: int, sentence: str) -> None: ...


class _Relay:
    """An experiment's listener that adds which run it is."""

    def __init__(self, watcher: Watcher, arm: str, seed: int) -> None:
        self._watcher, self._arm, self._seed = watcher, arm, seed

    def notice(self, sentence: str) -> None:
        self._watcher.notice(self._arm, self._seed, sentence)

    def started(self, rounds_done: int, rounds: int, names: tuple[str, ...]) -> None:
        self._watcher.run_started(self._arm, self._seed, rounds_done, rounds)

    def round_done(self, record: RoundRecord) -> None:
        self._watcher.round_done(self._arm, self._seed, record)


def run_folder(out: Path, arm: Arm, seed: int) -> Path:
    """`OUT/ARM/seed-0`."""
    return out / arm.folder / f"seed-{seed}"


def check_comparison(comparison: Comparison, out: Path) -> None:
    """Refuse what cannot work before anything runs: names of parts, and folders of other runs."""
    for arm in comparison.arms:
        try:
            check_names(next(iter(arm.configs.values())))
        except AirtuneError as error:
            raise error.within(f"arm {arm.name}") from None
    for arm, seed in comparison.runs:
        folder = run_folder(out, arm, seed)
        if (folder / "experiment.yaml").is_file():
            _refuse_other_settings(arm.configs[seed], folder)


def asked_file(folder: Path) -> Path:
    """`OUT/ARM/seed-0.yaml`: its settings as given. The run's own file has the resolved ones."""
    return folder.with_suffix(".yaml")


def _refuse_other_settings(config: ExperimentConfig, folder: Path) -> None:
    remedy = "choose another --out, or remove it"
    path = asked_file(folder)
    if not path.is_file():
        raise InputError("--out", str(folder), "a folder of the same comparison", remedy)
    there, found = read_resolved(path)
    wanted = plain_values(with_absolute_paths(config), templates=found > 1)
    # A key that the file does not have yet is at its default there.
    before = dict(flat(plain_values(default_experiment()))) | dict(flat(there))
    changed = [
        key
        for key, value in flat(wanted)
        if key.partition(".")[0] not in FREE and before.get(key) != value
    ]
    if changed:
        raise InputError(
            "--out",
            str(folder),
            "a folder of the same comparison",
            f"the run in it has another {', '.join(changed)}; {remedy}",
        )


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
        return _run_all(comparison, out, watcher, jobs)


def _run_all(comparison: Comparison, out: Path, watcher: Watcher, jobs: int) -> list[RunResult]:
    if jobs > 1:
        # Here, not above: it runs `run_one` in its processes.
        return run_side_by_side(comparison.runs, out, jobs, watcher)
    results = []
    for arm, seed in comparison.runs:
        result = run_one(arm, seed, run_folder(out, arm, seed), watcher)
        watcher.run_ended(result)
        results.append(result)
    return results


def run_one(arm: Arm, seed: int, folder: Path, watcher: Watcher) -> RunResult:
    """One run, new, continued or found finished; a failure is a result, not an exception."""
    try:
        run = _finished_run(arm.configs[seed], folder, _Relay(watcher, arm.name, seed))
        records = run.records[: arm.configs[seed].rounds]
        return RunResult(arm.name, seed, folder, run.summary, records)
    except AirtuneError as error:
        failure = str(error)
        if error.details:
            failure += f" (Traceback in {_kept_traceback(folder, error.details)}.)"
        return RunResult(arm.name, seed, folder, failure=failure)
    except Exception as error:
        # A fault of one method must not cost hours of the others; its traceback is kept.
        name = _kept_traceback(folder, traceback.format_exc())
        kind = type(error).__name__
        failure = redacted(f"{kind}: {error} (traceback in {name}).")
        return RunResult(arm.name, seed, folder, failure=failure)


def _kept_traceback(folder: Path, text: str) -> str:
    """Write a traceback beside the run's folder; its file's name."""
    path = folder.with_suffix(".error.txt")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, redacted(text))
    return path.name


def _finished_run(config: ExperimentConfig, folder: Path, relay: _Relay) -> Run:
    if not (folder / "experiment.yaml").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(asked_file(folder), resolved_yaml(with_absolute_paths(config)))
        return Experiment.of(config).run(folder, relay)
    run = Run.open(folder)
    if _is_finished(run, config.rounds):
        return run
    return Experiment.resume(folder, max(0, config.rounds - run.config.rounds), relay)


def _is_finished(run: Run, rounds: int) -> bool:
    """A run that was being made longer still has the summary of its shorter self."""
    if not (run.folder.path / "summary.json").is_file():
        return False
    return run.summary["stopped"] is not None or run.summary["rounds"] >= rounds


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


POLL_S = 0.2
Task = tuple[Arm, int, Path]


class _Post:
    """A listener in a child process: forwards every event to the parent."""

    def __init__(self, events: Any) -> None:
        self._events = events

    def notice(self, arm: str, seed: int, sentence: str) -> None:
        self._events.put(("notice", (arm, seed, sentence)))

    def run_started(self, arm: str, seed: int, rounds_done: int, rounds: int) -> None:
        self._events.put(("run_started", (arm, seed, rounds_done, rounds)))

    def round_done(self, arm: str, seed: int, record: RoundRecord) -> None:
        self._events.put(("round_done", (arm, seed, replace(record, clients=()))))

    def run_ended(self, result: RunResult) -> None:
        self._events.put(("run_ended", (result,)))


def _work(arm: Arm, seed: int, folder: Path, events: Any) -> None:
    # Ctrl-C reaches every process of the terminal; the parent ends its children itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    post = _Post(events)
    post.run_ended(run_one(arm, seed, folder, post))


def _alone(arm: Arm) -> Arm:
    """The arm on one thread and without workers of its own, where it leaves that open."""
    return Arm(
        arm.name,
        {
            seed: config.model_copy(
                update={"threads": config.threads or 1, "workers": config.workers or 1}
            )
            for seed, config in arm.configs.items()
        },
    )


def run_side_by_side(
    runs: Sequence[tuple[Arm, int]], out: Path, jobs: int, watcher: Watcher
) -> list[RunResult]:
    """Run them `jobs` at a time; results in the order of `runs`.

    A process that is killed (by the system, short of memory) is one failed run.
    """
    waiting: Iterator[Task] = iter(
        [(_alone(arm), seed, run_folder(out, arm, seed)) for arm, seed in runs]
    )
    context: BaseContext = get_context("spawn")
    events = context.Queue()
    running: dict[tuple[str, int], tuple[BaseProcess, Path]] = {}
    results: dict[tuple[str, int], RunResult] = {}
    try:
        while True:
            while len(running) < jobs and (task := next(waiting, None)) is not None:
                arm, seed, folder = task
                process: BaseProcess = context.Process(  # type: ignore[attr-defined]
                    target=_work, args=(*task, events)
                )
                process.start()
                running[arm.name, seed] = (process, folder)
            if not running:
                break
            _take_event(events, running, results, watcher)
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.join()
    return [results[arm.name, seed] for arm, seed in runs]


def _take_event(
    events: Any,
    running: dict[tuple[str, int], tuple[BaseProcess, Path]],
    results: dict[tuple[str, int], RunResult],
    watcher: Watcher,
) -> None:
    """Pass on one event; while there is none, check for processes that died without reporting."""
    # Checked before the queue is read: what a process sent before it ended is then in the queue.
    dead = [key for key, (process, _) in running.items() if not process.is_alive()]
    try:
        name, arguments = events.get(timeout=POLL_S)
    except Empty:
        for key in dead:
            process, folder = running.pop(key)
            words = f"its process ended with code {process.exitcode} (out of memory, or killed)."
            results[key] = RunResult(*key, folder, failure=words)
            watcher.run_ended(results[key])
        return
    if name == "run_ended":
        (result,) = arguments
        key = (result.arm, result.seed)
        process, _ = running.pop(key)
        process.join()
        results[key] = result
    getattr(watcher, name)(*arguments)
