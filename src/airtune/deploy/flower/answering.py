"""What a trainer answers to a frame: facts to a job, an update to a task, or why it cannot."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import final

from airtune.deploy.hub import Say
from airtune.deploy.messages import (
    JOB,
    LONGEST_SENTENCE,
    PROBLEM,
    TAKEN,
    TASK,
    Job,
    Problem,
    Taken,
    Task,
    introduction,
    problem_with,
)
from airtune.deploy.trainer import (
    ClientOptions,
    Trainer,
    Trainers,
    device_figures,
    task_digest,
)
from airtune.deploy.wire import Frame, read_frame
from airtune.errors import AirtuneError, InputError

LONGEST = 1 << 32
"""Of a frame from this machine's own SuperNode, which holds all of it already [byte]."""


@final
class Answerer:
    """One client's trainer, loaded with the first job; `state` may depend on its number."""

    def __init__(self, options: ClientOptions, state: Callable[[int], Path], say: Say) -> None:
        self._options, self._say = options, say
        self._trainers = Trainers(options, state, say)
        self._process = secrets.token_hex(8)
        self._number: int | None = None
        self._trainer: Trainer | None = None
        self._job: Job | None = None

    def answer(self, client: int, data: bytes) -> bytes:
        """The encoded answer to an encoded frame; whatever is wrong with it is an answer, too."""
        try:
            return self._answer(client, read_frame([data], {"broadcast": LONGEST})).encode()
        except AirtuneError as error:
            self._say(str(error))
            sentence = str(error)[:LONGEST_SENTENCE]
            return Frame.of(PROBLEM, Problem(client=client, sentence=sentence)).encode()

    def _answer(self, client: int, frame: Frame) -> Frame:
        if frame.kind == PROBLEM:
            self._say(f"From the server: {frame.read(PROBLEM, Problem).sentence}")
            return Frame.of(TAKEN, Taken())
        self._check_number(client)
        if frame.kind == JOB:
            return self._take_job(client, frame.read(JOB, Job))
        return self._do(client, frame.read(TASK, Task), frame.parts.get("broadcast", b""))

    def _check_number(self, client: int) -> None:
        if self._number not in (None, client):
            raise InputError(
                "node-config: client",
                client,
                f"{self._number}, whose rows this trainer holds",
                "give each client a trainer and a socket of its own",
            )

    def _take_job(self, client: int, job: Job) -> Frame:
        self._trainer = trainer = self._trainers.of(job, client)
        self._job, self._number = job, client
        ready = trainer.ready(job, self._process, device_figures(self._options))
        self._say(f"Client {client} is ready with {ready.head['rows']} rows.")
        return ready

    def _do(self, client: int, task: Task, broadcast: bytes) -> Frame:
        job, trainer = self._job, self._trainer
        if job is None or trainer is None or job.run != task.run:
            # Another trainer was here when this task was sent.
            return introduction(client, self._process)
        if task.client != client or task.is_split or len(broadcast) > job.limit_bytes:
            raise AirtuneError(f"The server sent client {client} a task that is not its own.")
        try:
            answer = trainer.answer(task, task_digest(task, broadcast), broadcast)
        except AirtuneError as error:
            self._say(str(error))
            return Frame.of(PROBLEM, problem_with(task, error))
        length = len(answer.parts["payload"])
        self._say(f"Round {task.round_index + 1}: answered with {length} bytes.")
        return answer
