"""A cohort on several processes of this machine, one single-threaded model in each.

A small model's step gains nothing from a second thread, but two steps run side by side. Each
worker makes the same `ClientSide` as the main process would, so the answers are the same bytes,
whoever computes them and in whatever order they arrive.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import final

from airtune.errors import AirtuneError
from airtune.federated.backend import Backend, ClientReport, ClientSide, ClientTask

MakeSide = Callable[[], ClientSide]


def _serve(make_side: MakeSide, connection: Connection) -> None:
    """Answer tasks until the main process closes the connection, also by dying."""
    # Ctrl-C reaches the whole process group; the main process decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        side = make_side()
        while True:
            connection.send(side.answer(connection.recv()))
    except AirtuneError as error:
        connection.send(error)
    except (EOFError, ConnectionError):
        # The main process has gone, or wants no more answers.
        pass


@final
class Workers(Backend):
    """`count` processes, started at the first round and ended with this object.

    `make_side` must be picklable: workers are spawned, since a forked torch deadlocks.
    """

    def __init__(self, make_side: MakeSide, count: int) -> None:
        self._make_side, self._count = make_side, count
        self._processes: list[SpawnProcess] = []
        self._connections: list[Connection] = []

    def run(self, tasks: Sequence[ClientTask]) -> Iterator[ClientReport]:
        if not self._processes:
            self._start()
        waiting = list(reversed(tasks))
        busy: dict[Connection, ClientTask] = {}
        for connection in self._connections[: len(tasks)]:
            busy[connection] = self._give(connection, waiting.pop())
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                yield self._take(ready, busy.pop(ready))
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
            process = context.Process(target=_serve, args=(self._make_side, theirs), daemon=True)
            process.start()
            # With our copy of the far end closed, a dead worker reads as the end of its stream.
            theirs.close()
            self._processes.append(process)
            self._connections.append(ours)

    @staticmethod
    def _give(connection: Connection, task: ClientTask) -> ClientTask:
        connection.send(task)
        return task

    @staticmethod
    def _take(connection: Connection, task: ClientTask) -> ClientReport:
        try:
            answer = connection.recv()
        except (EOFError, ConnectionError):
            raise AirtuneError(
                f"The worker process that trained client {task.client} died (out of memory?): "
                "run `airtune resume`, with --set engine=sequential if it happens again."
            ) from None
        if isinstance(answer, AirtuneError):
            raise answer
        assert isinstance(answer, ClientReport)
        return answer
