"""Running several runs; what is finished is not run again.

Several can proceed at once, each in a process of its own. A run that trains on one thread leaves
the other cores idle while it loads, evaluates and writes; so runs side by side finish sooner than
one run on all cores. The processes are forks of one warm host (`forks.py`), which pays once for
what every run imports.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from airtune.config.text import flat, plain_values
from airtune.data.memory import with_rows
from airtune.federated.records.record import RoundRecord
from airtune.jobs.forks import Lost, Post, run_in_forks
from airtune.jobs.job import FAILED, Job, RunResult, Watcher
from airtune.jobs.running import Outcome, finished, perform, result_of

PRELOADED = ("airtune.jobs.preloaded",)


def run_jobs(jobs: Sequence[Job], at_once: int, watcher: Watcher) -> list[RunResult]:
    """Run what is missing, `at_once` runs at a time; results in the order of `jobs`."""
    results: dict[int, RunResult] = {}
    for index, job in enumerate(jobs):
        found = finished(job)
        if found is not None:
            results[index] = found
            watcher.run_ended(found)
    missing = [index for index in range(len(jobs)) if index not in results]
    if len(missing) == 1 and at_once == 1:
        # Nothing could be shared with another run.
        index = missing[0]
        results[index] = result_of(jobs[index], perform(jobs[index], _Relay(jobs[index], watcher)))
        watcher.run_ended(results[index])
    elif missing:
        tasks = {index: _alone(jobs[index]) if at_once > 1 else jobs[index] for index in missing}
        _run_in_forks(tasks, at_once, watcher, results)
    return [results[index] for index in range(len(jobs))]


class _Relay:
    """An experiment's listener that adds which run it is."""

    def __init__(self, job: Job, watcher: Watcher) -> None:
        self._watcher, self._run = watcher, (job.name, job.seed)

    def notice(self, sentence: str) -> None:
        self._watcher.notice(*self._run, sentence)

    def started(self, rounds_done: int, rounds: int, names: tuple[str, ...]) -> None:
        self._watcher.run_started(*self._run, rounds_done, rounds)

    def round_done(self, record: RoundRecord) -> None:
        self._watcher.round_done(*self._run, record)


class _Mail:
    """An experiment's listener in a process of its own: posts every event to the one here."""

    def __init__(self, post: Post) -> None:
        self._post = post

    def notice(self, sentence: str) -> None:
        self._post(("notice", (sentence,)))

    def started(self, rounds_done: int, rounds: int, names: tuple[str, ...]) -> None:
        self._post(("started", (rounds_done, rounds, names)))

    def round_done(self, record: RoundRecord) -> None:
        self._post(("round_done", (replace(record, clients=()),)))


def _work(job: Job, rows: Any, post: Post) -> Outcome:
    rows()
    return perform(job, _Mail(post))


def _nothing() -> None:
    """What a process makes before its run, beside the rows that it is given."""


def _task(job: Job) -> partial[Outcome]:
    names = (value for _, value in flat(plain_values(job.config, templates=False)))
    return partial(_work, job, with_rows(_nothing, names))


def _alone(job: Job) -> Job:
    """The run on one thread and without workers of its own, where it leaves that open."""
    config = job.config
    settled = {"threads": config.threads or 1, "workers": config.workers or 1}
    return replace(job, config=config.model_copy(update=settled))


def _run_in_forks(
    jobs: Mapping[int, Job], at_once: int, watcher: Watcher, results: dict[int, RunResult]
) -> None:
    places = list(jobs)

    def on_event(place: int, event: tuple[str, tuple[Any, ...]]) -> None:
        name, arguments = event
        getattr(_Relay(jobs[places[place]], watcher), name)(*arguments)

    tasks = [_task(job) for job in jobs.values()]
    for place, answer in run_in_forks(tasks, at_once, PRELOADED, on_event):
        job = jobs[places[place]]
        outcome = Outcome(FAILED, answer.sentence) if isinstance(answer, Lost) else answer
        results[places[place]] = result_of(job, outcome)
        watcher.run_ended(results[places[place]])
