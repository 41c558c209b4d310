"""A cohort on several processes of this machine, one single-threaded model in each.

A small model's step gains nothing from a second thread, but two steps run side by side. Each
worker makes the same `ClientSide` as the main process would, so the answers are the same bytes,
whoever computes them and in whatever order they arrive. Workers that stack clients are given the
same parts of a cohort each time, whichever of them is free.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, TypeAlias, final

from torch import Tensor

from airtune.errors import AirtuneError
from airtune.federated.backend import Backend, ClientReport, ClientSide, ClientTask, deal
from airtune.federated.messages import receive, send
from airtune.federated.stopwatch import Stopwatch
from airtune.federated.worker_host import FORKS, WorkerHost

MakeSide = Callable[[], ClientSide]


@dataclass(frozen=True)
class TestShare:
    """Every so many test batches of an adapter."""

    __test__ = False  # pytest would take it for a test

    adapter: Mapping[str, Tensor]
    share: slice


Message: TypeAlias = Sequence[ClientTask] | TestShare
Answer: TypeAlias = tuple[list[ClientReport], dict[str, float]] | list[tuple[float, int]]


def _serve(make_side: MakeSide, together: int, connection: Connection) -> None:
    """Answer lists of tasks until the main process closes the connection, also by dying."""
    try:
        side = make_side()
        while True:
            send(connection, _answer(side, together, receive(connection)))
    except AirtuneError as error:
        send(connection, error)
    except (EOFError, ConnectionError):
        # The main process has gone, or wants no more answers.
        pass


def _answer(side: ClientSide, together: int, message: Message) -> Answer:
    """Reports with the seconds that they took by stage, or losses of test batches."""
    if isinstance(message, TestShare):
        return side.test_losses(message.adapter, message.share)
    answers = map(side.answer, message) if together == 1 else side.answer_stacked(message)
    reports = list(answers)
    return reports, side.watch.take()


@final
class Workers(Backend):
    """`count` processes, started at the first round and ended with this object.

    Each trains one client at a time, or stacks of at most `together` clients. `keeps` is whatever
    must live as long as workers may be started (the memory of shared weights). `host` is the host
    of the workers where one was started ahead.

    `make_side` must be picklable, and no function of `__main__`: workers are forks of a host.
    """

    def __init__(
        self,
        make_side: MakeSide,
        count: int,
        together: int = 1,
        watch: Stopwatch | None = None,
        keeps: object = None,
        host: WorkerHost | None = None,
    ) -> None:
        self._make_side, self._count, self._together = make_side, count, together
        self._watch = watch or Stopwatch()
        self._keeps = keeps
        self._hosts = [] if host is None else [host]
        self._connections: list[Connection] = []

    def run(self, tasks: Sequence[ClientTask]) -> Iterator[ClientReport]:
        if not self._connections:
            self._start()
        count = len(tasks) if self._together == 1 else self._count
        waiting = list(reversed(deal(tasks, count, self._together)))
        busy: dict[Connection, Sequence[ClientTask]] = {}
        for connection in self._connections[: len(waiting)]:
            busy[connection] = self._give(connection, waiting.pop())
        spent: Counter[str] = Counter()
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                reports, seconds = self._take(ready, busy.pop(ready))
                spent.update(seconds)
                if waiting:
                    busy[ready] = self._give(ready, waiting.pop())
                yield from reports
        self._watch.share("tune", spent)

    @property
    def running(self) -> bool:
        """Whether the processes are there, so that asking them costs no start."""
        return bool(self._connections)

    def test_losses(self, adapter: Mapping[str, Tensor]) -> list[tuple[float, int]]:
        """Summed loss and label tokens of each test batch, dealt out in turn to the workers."""
        count = len(self._connections)
        for first, connection in enumerate(self._connections):
            send(connection, TestShare(adapter, slice(first, None, count)))
        shares = [
            self._receive(connection, "measured the test loss") for connection in self._connections
        ]
        losses: list[tuple[float, int]] = [(0.0, 0)] * sum(len(share) for share in shares)
        for first, share in enumerate(shares):
            losses[first::count] = share
        return losses

    def close(self) -> None:
        """End the workers; a later round would start them again."""
        for connection in self._connections:
            connection.close()
        for host in self._hosts:
            host.close()
        self._hosts, self._connections = [], []

    def _start(self) -> None:
        hosts = 1 if FORKS else self._count
        self._hosts += [WorkerHost() for _ in range(hosts - len(self._hosts))]
        serve = partial(_serve, self._make_side, self._together)
        self._connections = [
            self._hosts[worker % hosts].start(serve) for worker in range(self._count)
        ]

    @staticmethod
    def _give(connection: Connection, tasks: Sequence[ClientTask]) -> Sequence[ClientTask]:
        send(connection, tasks)
        return tasks

    def _take(
        self, connection: Connection, tasks: Sequence[ClientTask]
    ) -> tuple[list[ClientReport], dict[str, float]]:
        clients = ", ".join(str(task.client) for task in tasks)
        answer: tuple[list[ClientReport], dict[str, float]]
        answer = self._receive(connection, f"trained client {clients}")
        return answer

    @staticmethod
    def _receive(connection: Connection, work: str) -> Any:
        try:
            answer = receive(connection)
        except (EOFError, ConnectionError):
            raise AirtuneError(
                f"The worker process that {work} died (out of memory?): "
                "run `airtune resume`, with --set engine=sequential if it happens again."
            ) from None
        if isinstance(answer, AirtuneError):
            raise answer
        return answer
