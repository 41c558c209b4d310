"""Several runs of a comparison at once, each in a process of its own.

A run that trains on one thread leaves the other cores idle while it loads, evaluates and writes; so
runs side by side finish sooner than one run on all cores. Results do not depend on it: every run is
the one that it would have been alone.
"""

import signal
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import Empty
from typing import Any

from airtune.comparison.definition import Arm
from airtune.comparison.measure import RunResult
from airtune.comparison.runs import Watcher, run_folder, run_one

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

    def round_done(self, arm: str, seed: int, record: dict[str, Any]) -> None:
        shown = {key: record[key] for key in ("round", "test_loss", "virtual_time_s")}
        self._events.put(("round_done", (arm, seed, shown)))

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
            _hear(events, running, results, watcher)
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.join()
    return [results[arm.name, seed] for arm, seed in runs]


def _hear(
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
