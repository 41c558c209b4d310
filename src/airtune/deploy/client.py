"""A client on its own machine: join, load, answer tasks until the server ends.

The client dials out; nothing listens on its machine. A broken connection is dialled again, and what
was answered is answered from memory. Whatever the server sends is data.
"""

import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import final

from airtune.deploy.connection import Connection, Retries, UnreachableError
from airtune.deploy.hub import Say
from airtune.deploy.keys import ClientKeys
from airtune.deploy.link import BODY
from airtune.deploy.messages import (
    DONE,
    JOB,
    PROBLEM,
    TASK,
    Done,
    Job,
    Problem,
    Resume,
    Task,
    introduction,
    problem_with,
)
from airtune.deploy.pacing import paced
from airtune.deploy.pipe import Pipe
from airtune.deploy.probing import Rates, probe
from airtune.deploy.service import frames
from airtune.deploy.trainer import (
    ClientOptions,
    Trainer,
    Trainers,
    device_figures,
    task_digest,
)
from airtune.deploy.wire import Frame, FrameReader, WireError, chunked, read_frame
from airtune.errors import AirtuneError, DivergedError

LOADING_PAUSE_S = 0.5
"""Between questions whether the server has loaded its model."""


@dataclass
class _Half:
    """A split round in progress: its pipe, and the thread that trains."""

    digest: str
    attempt: int
    pipe: Pipe
    thread: threading.Thread
    problem: AirtuneError | None = None


@final
class Client:
    """One client process. `wait_s` is how long it tries to reach a server that is away.

    `validates`: it was started by `airtune validate`, and tasks may ask it for times.
    """

    def __init__(
        self,
        server: str,
        client: int,
        keys: ClientKeys | None,
        options: ClientOptions,
        state: Path,
        say: Say,
        wait_s: float = 600.0,
        *,
        validates: bool = False,
    ) -> None:
        self._validates = validates
        self.number, self._options, self._say = client, options, say
        self._process = secrets.token_hex(8)
        self._connection = Connection(server, client, keys, say)
        self._retries = Retries(wait_s, say)
        self._trainers = Trainers(options, lambda number: state, say)
        self._trainer: Trainer | None = None
        self._job: Job | None = None
        self._half: _Half | None = None

    def run(self) -> str:
        """Work until the server ends; its last sentence. Raises AirtuneError for what is final."""
        try:
            while True:
                try:
                    job = self._join()
                    self._report_ready(job)
                    ended = self._work(job)
                    if ended is not None:
                        return ended
                except UnreachableError as error:
                    self._retries.failed(error)
        finally:
            if self._half is not None:
                self._half.pipe.close("The client ends.")
            self._connection.close()

    def _join(self) -> Job:
        """The job, once the server has loaded; the trainer is loaded when it is another one."""
        pause = threading.Event()
        while True:
            answer = read_frame([self._connection.unary("Join", self._introduction())], {})
            self._retries.succeeded()
            if answer.kind == JOB:
                break
            pause.wait(LOADING_PAUSE_S)
        self._job = job = answer.read(JOB, Job)
        try:
            self._trainer = self._trainers.of(job, self.number)
        except AirtuneError as error:
            self._report_problem(Problem(client=self.number, sentence=str(error)))
            raise
        return job

    def _introduction(self) -> bytes:
        return introduction(self.number, self._process).encode()

    def _report_ready(self, job: Job) -> None:
        assert self._trainer is not None
        rates = probe(self._connection) if job.probes else Rates()
        ready = self._trainer.ready(
            job, self._process, device_figures(self._options), asdict(rates)
        )
        self._connection.upload("Ready", ready.chunks())
        self._say(f"Client {self.number} is ready with {ready.head['rows']} rows.")

    def _work(self, job: Job) -> str | None:
        """Answer tasks; the server's last sentence, or None where the stream ended without it."""
        reader = FrameReader({"broadcast": job.limit_bytes})
        pieces = self._connection.download("Work", self._introduction())
        for frame in frames(pieces, reader):
            if frame.kind == DONE:
                return frame.read(DONE, Done).sentence
            head = frame.read(TASK, Task)
            if (head.run, head.client) != (job.run, self.number):
                raise WireError("The server sent the task of another run or client.")
            if head.measuring is not None and not self._validates:
                raise WireError(
                    "The server asks to be sent times, which clients of `airtune validate` do."
                )
            self._received(head)
            try:
                self._do(head, frame.parts.get("broadcast", b""))
            except UnreachableError:
                raise
            except DivergedError as error:
                self._say(str(error))
                self._report_problem(problem_with(head, error))
            except AirtuneError as error:
                self._report_problem(problem_with(head, error))
                raise
        return None

    def _do(self, task: Task, broadcast: bytes) -> None:
        assert self._trainer is not None
        digest = task_digest(task, broadcast)
        if task.is_split:
            self._split(task, digest, broadcast)
            return
        answer = self._trainer.answer(task, digest, broadcast)
        if task.measuring is not None:
            answer = replace(answer, head={**answer.head, "sent_s": time.monotonic()})
        self._connection.upload("Answer", paced(answer.chunks(), task.pace_bps))
        self._say(f"Round {task.round_index + 1}: sent {len(answer.parts['payload'])} bytes.")

    def _split(self, task: Task, digest: str, broadcast: bytes) -> None:
        """Train a half; after a broken connection the same half goes on."""
        half = self._half
        if half is None or (half.digest, half.attempt) != (digest, task.attempt):
            if half is not None:
                half.pipe.close("The round was started again.")
                half.thread.join()
            half = self._half = self._started(task, digest, broadcast)
        self._converse(task, half.pipe)
        half.thread.join()
        self._half = None
        if half.problem is not None:
            raise half.problem
        self._say(f"Round {task.round_index + 1}: trained {self._steps()} steps with the server.")

    def _started(self, task: Task, digest: str, broadcast: bytes) -> _Half:
        pipe, trainer = Pipe(stamps=task.measuring is not None), self._trainer
        assert trainer is not None

        def train() -> None:
            try:
                trainer.converse(task, broadcast, pipe)
            except WireError as error:  # the pipe was closed
                half.problem = None if pipe.closed else error
            except AirtuneError as error:
                half.problem = error
            pipe.close("The half is trained.")

        half = _Half(digest, task.attempt, pipe, threading.Thread(target=train, daemon=True))
        half.thread.start()
        return half

    def _converse(self, task: Task, pipe: Pipe) -> None:
        """Carry the pipe's messages over one connection until both sides are done."""
        assert self._job is not None
        connection, there = pipe.connect(), threading.Event()
        begins_at = [0]
        resume = Resume(
            run=task.run,
            round_index=task.round_index,
            attempt=task.attempt,
            received=pipe.received,
        )

        def outgoing() -> Iterator[bytes]:
            yield from chunked(Frame.of("resume", resume).encode())
            there.wait()
            for message in pipe.outgoing(connection, begins_at[0]):
                if message is not None:
                    number, frame = message
                    head = {**frame.head, "number": number}
                    whole = Frame(frame.kind, head, frame.parts)
                    yield from paced(whole.chunks(), task.pace_bps)

        reader = FrameReader({BODY: self._job.limit_bytes})
        try:
            for frame in frames(self._connection.both("Split", outgoing()), reader):
                if not there.is_set():
                    begins_at[0] = frame.read("resume", Resume).received
                    there.set()
                    continue
                pipe.deliver(int(frame.head.get("number", -1)), frame)
        finally:
            there.set()
        if not pipe.closed:
            # The server has ended the round without this client, or is about to start again.
            pipe.close("The server ended the round.")

    def _steps(self) -> int:
        assert self._trainer is not None
        return self._trainer.side.training.local_steps

    def _received(self, task: Task) -> None:
        head = Resume(
            run=task.run,
            round_index=task.round_index,
            attempt=task.attempt,
            at_s=None if task.measuring is None else time.monotonic(),
        )
        self._connection.unary("Received", Frame.of("received", head).encode())

    def _report_problem(self, problem: Problem) -> None:
        """Send it to the server; one that is away notices by itself."""
        try:
            self._connection.unary("Problem", Frame.of(PROBLEM, problem).encode())
        except AirtuneError:
            return
