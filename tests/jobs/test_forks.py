"""Tasks in forks of a warm host: their answers, what they post, and what happens when they die."""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from airtune.jobs.forks import TRIES, Lost, Post, run_in_forks
from tests.federated.test_worker_host import alive

_left_behind: list[int] = []


def work(number: int, post: Post) -> tuple[int, int, list[int], list[str]]:
    """Its square, its process, what an earlier task left in its module, and the command."""
    post(f"task {number}")
    found = list(_left_behind)
    _left_behind.append(number)
    return number * number, os.getpid(), found, sys.argv


def die(marks: Path, times: int, post: Post) -> str:
    """Killed so many times, as the kernel would for want of memory."""
    tried = len(list(marks.iterdir()))
    if tried < times:
        (marks / str(tried)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def kill_host(post: Post) -> str:
    """The host dies under its forks."""
    os.kill(os.getppid(), signal.SIGKILL)
    return "done"


def sleep(post: Post) -> None:
    post(os.getpid())
    time.sleep(600)


def answers(tasks: list[Any], at_once: int = 2, heard: list[Any] | None = None) -> list[Any]:
    told = [] if heard is None else heard
    found = dict(run_in_forks(tasks, at_once, (), lambda index, value: told.append((index, value))))
    return [found[index] for index in range(len(tasks))]


def test_each_task_has_a_clean_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["airtune", "sweep", "a=1,2"])
    heard: list[Any] = []
    found = answers([partial(work, number) for number in range(5)], 2, heard)
    assert [square for square, *_ in found] == [0, 1, 4, 9, 16]
    assert len({process for _, process, *_ in found} | {os.getpid()}) == 6
    assert [left for *_, left, _ in found] == [[]] * 5
    assert {tuple(arguments) for *_, arguments in found} == {("airtune", "sweep", "a=1,2")}
    assert sorted(heard) == [(number, f"task {number}") for number in range(5)]


def test_a_killed_task_is_tried_once_more(tmp_path: Path) -> None:
    for name in ("once", "always"):
        (tmp_path / name).mkdir()
    tasks = [
        partial(die, tmp_path / "once", TRIES - 1),
        partial(die, tmp_path / "always", TRIES),
        partial(work, 3),
    ]
    once, always, other = answers(tasks)
    assert once == "done"
    assert isinstance(always, Lost)
    assert other[0] == 9
    assert len(list((tmp_path / "always").iterdir())) == TRIES


def test_a_killed_host_is_replaced() -> None:
    found = answers([kill_host, partial(work, 2), partial(work, 3)], 1)
    assert (found[0], found[1][0], found[2][0]) == ("done", 4, 9)


def test_nothing_is_left_after_an_interrupt() -> None:
    started: list[int] = []

    def interrupt(index: int, process: int) -> None:
        started.append(process)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_in_forks([sleep], 1, (), interrupt))
    until = time.monotonic() + 10
    while alive(started[0]) and time.monotonic() < until:
        time.sleep(0.01)
    assert not alive(started[0])
