"""Tasks in processes that are forks of one warm host, each in a process of its own.

A fork begins with everything imported and nothing computed: what one task leaves in a process
(threads of torch, random generators, filters of warnings, caches, memory) ends with that process,
so a task answers as it would have in a fresh one. A process that dies (killed, out of memory) is
replaced, once for the same task.
"""

import pickle
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, TypeAlias, final

from airtune.federated.backends.worker_host import FORKS, WorkerHost

TRIES = 2
"""Processes that a task may lose."""
Post: TypeAlias = Callable[[Any], None]
Task: TypeAlias = Callable[[Post], Any]
"""Does its work, posts what happens meanwhile, and answers; picklable, no function of `__main__`,
and it raises nothing."""


@dataclass(frozen=True)
class _Event:
    value: Any


@dataclass(frozen=True)
class _Answer:
    value: Any


@dataclass(frozen=True)
class Lost:
    """The answer of a task whose processes died, `TRIES` of them."""

    sentence: str = (
        f"its process was killed {TRIES} times, by hand or for want of memory; the same command "
        "tries it again."
    )


def _serve(task: Task, arguments: Sequence[str], connection: Connection) -> None:
    # What records the command of a run finds the user's.
    sys.argv[:] = arguments
    connection.send(_Answer(task(lambda value: connection.send(_Event(value)))))


@final
class _Forks:
    """The processes of tasks, by connection, and the hosts that they are forks of."""

    def __init__(self, preloaded: Sequence[str]) -> None:
        self._preloaded = preloaded
        self._hosts = [self._new_host()]
        self._used = False

    def _new_host(self) -> WorkerHost:
        return WorkerHost(self._preloaded, whole_runs=True)

    def start(self, task: Task) -> Connection:
        """A process that works on a task."""
        if self._used and not FORKS:
            self._hosts.append(self._new_host())
        self._used = True
        serve = partial(_serve, task, sys.argv)
        with suppress(OSError):
            return self._hosts[-1].start(serve)
        # The host itself was killed; its forks go on, and end with it at the latest.
        self._hosts.append(self._new_host())
        return self._hosts[-1].start(serve)

    def kill(self) -> None:
        for host in self._hosts:
            host.kill()


def run_in_forks(
    tasks: Sequence[Task],
    at_once: int,
    preloaded: Sequence[str],
    on_event: Callable[[int, Any], None],
) -> Iterator[tuple[int, Any]]:
    """The answer to every task with its index, in any order; `Lost` for one whose processes died.

    `on_event(index, value)` is called for everything that a task posts, `preloaded` names
    modules that the host imports. However this ends, no process is left.
    """
    forks = _Forks(preloaded)
    waiting = deque(range(len(tasks)))
    running: dict[Connection, int] = {}
    lost: Counter[int] = Counter()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                index = waiting.popleft()
                running[forks.start(tasks[index])] = index
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                index = running[connection]
                message = _received(connection)
                if isinstance(message, _Event):
                    on_event(index, message.value)
                    continue
                del running[connection]
                connection.close()
                if isinstance(message, _Answer):
                    yield index, message.value
                    continue
                lost[index] += 1
                if lost[index] < TRIES:
                    waiting.appendleft(index)
                else:
                    yield index, Lost()
    finally:
        forks.kill()


def _received(connection: Connection) -> Any:
    """The next message of a process; None where it has died, also in the midst of one."""
    with suppress(EOFError, OSError, pickle.UnpicklingError):
        return connection.recv()
    return None
