"""A cohort on several processes of this machine, one single-threaded model in each.

A small model's step gains nothing from a second thread, but two steps run side by side. Each
worker makes the same `ClientSide` as the main process would, so the answers are the same bytes,
whatever process computes them and in whatever order they arrive. Workers that stack clients are
given the same parts of a cohort each time, whichever of them is free. A worker that dies or hangs
is replaced, and its clients run again: their draws come from (seed, round, client), so nothing of
the first try remains.

Messages carry tensors as plain bytes: torch would move every tensor that goes through a pipe to a
file of shared memory of its own. A client that keeps its optimiser carries hundreds of small ones,
and then a round is spent on files.
"""

import io
import os
import pickle
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from airtune.errors import AirtuneError, foreign_code
from airtune.federated.backends.backend import Backend, ClientReport, ClientSide, ClientTask, deal
from airtune.federated.backends.worker_host import FORKS, WorkerHost
from airtune.federated.records.stopwatch import Stopwatch


@final
class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, Tensor):
            return NotImplemented
        flat = obj.detach().cpu().contiguous().reshape(-1)
        return _restored, (flat.view(torch.uint8).numpy().tobytes(), obj.dtype, tuple(obj.shape))


def _restored(content: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if not content:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=dtype).reshape(shape)


def packed(message: Any) -> memoryview:
    """Anything that can be pickled, as bytes; tensors arrive as copies on the processor."""
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(message)
    return buffer.getbuffer()


def send(connection: Connection, message: Any) -> None:
    """Send a message; waits until the other end has taken most of a long one."""
    connection.send_bytes(packed(message))


def receive(connection: Connection) -> Any:
    """What the other end sent; EOFError where it has gone."""
    return pickle.loads(connection.recv_bytes())


LOST_AT_MOST = 3
"""A part of the cohort that lost so many workers would lose the next one, too."""
HANGS_AFTER_S = 120.0
"""A busy worker that has used no processor time for so long is stopped or waits for ever."""
STARTS_WITHIN_S = 600.0
"""From being asked for until a worker says who it is; its host imports first."""
LOOKS_EVERY_S = 5.0
_LEAST_PROCESSOR_S = 0.1
_ENDS_WITHIN_S = 5.0

MakeSide = Callable[[], ClientSide]


@dataclass(frozen=True)
class TestShare:
    """Every so many test batches of an adapter."""

    __test__ = False  # pytest would take it for a test

    adapter: Mapping[str, Tensor]
    share: slice


Message: TypeAlias = Sequence[ClientTask] | TestShare
Answer: TypeAlias = tuple[list[ClientReport], dict[str, float]] | list[tuple[float, int]]


@dataclass(frozen=True)
class Hello:
    """The first message of a worker: its process."""

    pid: int


def _serve(make_side: MakeSide, together: int, connection: Connection) -> None:
    """Answer lists of tasks until the main process closes the connection, also by dying."""
    # A connection that breaks means that the main process has gone, or wants no more answers.
    with suppress(EOFError, ConnectionError):
        send(connection, Hello(os.getpid()))
        try:
            with foreign_code("A worker process"):
                side = make_side()
        except AirtuneError as error:
            send(connection, error)
            return
        while True:
            message = receive(connection)
            try:
                with foreign_code("A worker process"):
                    answer: Answer | AirtuneError = _answer(side, together, message)
            except AirtuneError as error:
                answer = error
            send(connection, answer)


def _answer(side: ClientSide, together: int, message: Message) -> Answer:
    """Reports with the seconds that they took by stage, or losses of test batches."""
    if isinstance(message, TestShare):
        return side.test_losses(message.adapter, message.share)
    answers = map(side.answer, message) if together == 1 else side.answer_stacked(message)
    reports = list(answers)
    return reports, side.watch.take()


def processor_seconds(pid: int) -> float | None:
    """What a process has computed so far, all threads; None where the system does not tell.

    A process that waits for a disk counts as computing: it is not stuck by its own doing.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the name in brackets, which may hold blanks.
    state, *numbers = text.rpartition(")")[2].split()
    if state == "D":
        return None
    return (int(numbers[10]) + int(numbers[11])) / os.sysconf("SC_CLK_TCK")


@final
class _Worker:
    """One process, and how long it has done nothing."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._pid: int | None = None
        self._delivery: threading.Thread | None = None
        self._moved()

    def give(self, message: Any) -> None:
        """Send, without waiting for a worker that is stopped or still starts.

        One that has died is noticed when its answer is awaited.
        """
        self._moved()
        content = packed(message)

        def deliver() -> None:
            # A connection that is closed meanwhile has no handle any more: TypeError.
            with suppress(OSError, TypeError):
                self.connection.send_bytes(content)

        # A worker that has answered has taken what came before, so there is one such thread.
        self._delivery = threading.Thread(target=deliver, daemon=True)
        self._delivery.start()

    def take(self) -> Any:
        """Its next message; EOFError or ConnectionError where it has died."""
        message = receive(self.connection)
        if isinstance(message, Hello):
            self._pid = message.pid
        self._moved()
        return message

    def hangs(self) -> bool:
        """Whether it has been busy for too long without using the processor."""
        idle_s = time.monotonic() - self._since
        if self._pid is None:
            return idle_s > STARTS_WITHIN_S
        spent = processor_seconds(self._pid)
        if spent is None or spent >= self._spent + _LEAST_PROCESSOR_S:
            self._moved()
            return False
        return idle_s > HANGS_AFTER_S

    def end(self) -> None:
        """Kill it, also where it is stopped."""
        if self._pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        self.leave()

    def leave(self) -> None:
        """Close the connection, once nothing is being sent on it.

        The next worker's connection may get the same descriptor: what is still sent by the closed
        one would reach that worker as a message of its own.
        """
        if self._delivery is not None:
            self._delivery.join(_ENDS_WITHIN_S)
        self.connection.close()

    def _moved(self) -> None:
        self._since = time.monotonic()
        known = None if self._pid is None else processor_seconds(self._pid)
        self._spent = known or 0.0


@final
class Workers(Backend):
    """`count` processes, started at the first round and ended with this object.

    Each trains one client at a time, or stacks of at most `together` clients. `keeps` is whatever
    must live as long as workers may be started (the memory of shared weights). `host` is the host
    of the workers where one was started ahead; `new_host` starts others.

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
        new_host: Callable[[], WorkerHost] = WorkerHost,
    ) -> None:
        self._make_side, self._count, self._together = make_side, count, together
        self._watch = watch or Stopwatch()
        self._keeps = keeps
        self._hosts, self._new_host = [] if host is None else [host], new_host
        self._workers: list[_Worker] = []

    def run(self, tasks: Sequence[ClientTask]) -> Iterator[ClientReport]:
        if not self._workers:
            self._start()
        count = len(tasks) if self._together == 1 else self._count
        parts = deal(tasks, count, self._together)
        works = [f"trained client {', '.join(str(t.client) for t in part)}" for part in parts]
        spent: Counter[str] = Counter()
        for _, (reports, seconds) in self._answers(parts, works):
            spent.update(seconds)
            yield from reports
        self._watch.share("tune", spent)

    @property
    def running(self) -> bool:
        """Whether the processes are there, so that asking them costs no start."""
        return bool(self._workers)

    def test_losses(self, adapter: Mapping[str, Tensor]) -> list[tuple[float, int]]:
        """Summed loss and label tokens of each test batch, dealt out in turn to the workers."""
        count = len(self._workers)
        parts = [TestShare(adapter, slice(first, None, count)) for first in range(count)]
        shares = dict(self._answers(parts, ["measured the test loss"] * count))
        losses: list[tuple[float, int]] = [(0.0, 0)] * sum(len(share) for share in shares.values())
        for first, share in shares.items():
            losses[first::count] = share
        return losses

    def close(self) -> None:
        """End the workers; a later round would start them again."""
        for worker in self._workers:
            worker.leave()
        for host in self._hosts:
            host.close()
        self._hosts, self._workers = [], []

    def _answers(
        self, messages: Sequence[Message], works: Sequence[str]
    ) -> Iterator[tuple[int, Any]]:
        """The answer to every message, with its index, in any order; `works` says what each is.

        Lost workers are replaced. Raises AirtuneError for one that a worker raised, and where
        `LOST_AT_MOST` workers in a row are lost to one message.
        """
        waiting, idle = list(range(len(messages)))[::-1], self._workers[::-1]
        busy: dict[_Worker, int] = {}
        lost = [0] * len(messages)
        try:
            while waiting or busy:
                while waiting and idle:
                    index, worker = waiting.pop(), idle.pop()
                    busy[worker] = index
                    worker.give(messages[index])
                for worker in self._ready(busy):
                    answer = self._heard(worker)
                    if isinstance(answer, Hello):
                        continue
                    index = busy.pop(worker)
                    if answer is None:
                        lost[index] += 1
                        _give_up(lost[index], works[index])
                        idle.append(self._replaced(worker))
                        waiting.append(index)
                        continue
                    idle.append(worker)
                    yield index, answer
        finally:
            if busy:
                # Their answers would be taken for answers to the next messages.
                self.close()

    @staticmethod
    def _ready(busy: Mapping[_Worker, int]) -> list[_Worker]:
        """Busy workers that have something to say, or never will."""
        by_connection = {worker.connection: worker for worker in busy}
        ready = wait(list(by_connection), LOOKS_EVERY_S)
        if ready:
            return [by_connection[connection] for connection in ready]  # type: ignore[index]
        hung = [worker for worker in busy if worker.hangs()]
        for worker in hung:
            worker.end()
        return hung

    @staticmethod
    def _heard(worker: _Worker) -> Any:
        """A worker's message; None where it is lost."""
        if worker.connection.closed:
            return None
        try:
            answer = worker.take()
        except (EOFError, ConnectionError):
            return None
        if isinstance(answer, AirtuneError):
            raise answer
        return answer

    def _start(self) -> None:
        hosts = 1 if FORKS else self._count
        self._hosts += [self._new_host() for _ in range(hosts - len(self._hosts))]
        self._workers = [self._new(index) for index in range(self._count)]

    def _new(self, index: int) -> _Worker:
        serve = partial(_serve, self._make_side, self._together)
        return _Worker(self._hosts[index % len(self._hosts)].start(serve))

    def _replaced(self, worker: _Worker) -> _Worker:
        """A new worker in the place of a lost one, and a new host where that makes no other."""
        index = self._workers.index(worker)
        worker.leave()
        place = index % len(self._hosts)
        if FORKS:
            with suppress(OSError):
                self._workers[index] = self._new(index)
                return self._workers[index]
        self._hosts[place] = self._hosts[place].again()
        self._workers[index] = self._new(index)
        return self._workers[index]


def _give_up(lost: int, work: str) -> None:
    if lost >= LOST_AT_MOST:
        raise AirtuneError(
            f"{lost} worker processes in a row died or hung while they {work} (out of memory?): "
            "run `airtune resume`, with --set engine=sequential in a new run if it happens again."
        )
