"""A cohort on several processes of this machine, one single-threaded model in each.

A small model's step gains nothing from a second thread, but two steps run side by side. Each
worker makes the same `ClientSide` as the main process would, so the answers are the same bytes,
whoever computes them and in whatever order they arrive. Workers that stack clients are given the
same parts of a cohort each time, whichever of them is free.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import final

from airtune.errors import AirtuneError
from airtune.federated.backend import Backend, ClientReport, ClientSide, ClientTask, deal

MakeSide = Callable[[], ClientSide]


def _serve(make_side: MakeSide, together: int, connection: Connection) -> None:
    """Answer lists of tasks until the main process closes the connection, also by dying."""
    # Ctrl-C reaches the whole process group; the main process decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        side = make_side()
        while True:
            tasks = connection.recv()
            one_by_one = together == 1
            answers = map(side.answer, tasks) if one_by_one else side.answer_stacked(tasks)
            connection.send(list(answers))
    except AirtuneError as error:
        connection.send(error)
    except (EOFError, ConnectionError):
        # The main process has gone, or wants no more answers.
        pass


@final
class Workers(Backend):
    """`count` processes, started at the first round and ended with this object.

    Each trains one client at a time, or stacks of at most `together` clients.

    `make_side` must be picklable: workers are spawned, since a forked torch deadlocks.
    """

    def __init__(self, make_side: MakeSide, count: int, together: int = 1) -> None:
        self._make_side, self._count, self._together = make_side, count, together
        self._processes: list[SpawnProcess] = []
        self._connections: list[Connection] = []

    def run(self, tasks: Sequence[ClientTask]) -> Iterator[ClientReport]:
        if not self._processes:
            self._start()
        count = len(tasks) if self._together == 1 else self._count
        waiting = list(reversed(deal(tasks, count, self._together)))
        busy: dict[Connection, Sequence[ClientTask]] = {}
        for connection in self._connections[: len(waiting)]:
            busy[connection] = self._give(connection, waiting.pop())
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                yield from self._take(ready, busy.pop(ready))
                if waiting:
                    busy[ready] = self._give(ready, waiting.pop())

    def close(self) -> None:
        """End the workers; a later round would start them again."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(timeout=2)
            if process.is_alive():
                process.terminate()
        self._processes, self._connections = [], []

    def _start(self) -> None:
        context = get_context("spawn")
        for _ in range(self._count):
            ours, theirs = context.Pipe()
            arguments = (self._make_side, self._together, theirs)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            # With our copy of the far end closed, a dead worker reads as the end of its stream.
            theirs.close()
            self._processes.append(process)
            self._connections.append(ours)

    @staticmethod
    def _give(connection: Connection, tasks: Sequence[ClientTask]) -> Sequence[ClientTask]:
        connection.send(tasks)
        return tasks

    @staticmethod
    def _take(connection: Connection, tasks: Sequence[ClientTask]) -> list[ClientReport]:
        try:
            answer = connection.recv()
        except (EOFError, ConnectionError):
            clients = ", ".join(str(task.client) for task in tasks)
            raise AirtuneError(
                f"The worker process that trained client {clients} died (out of memory?): "
                "run `airtune resume`, with --set engine=sequential if it happens again."
            ) from None
        if isinstance(answer, AirtuneError):
            raise answer
        assert isinstance(answer, list)
        return answer
