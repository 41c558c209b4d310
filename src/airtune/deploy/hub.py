"""What the server knows of its clients: who is here, what they reported, and their open tasks.

One lock guards all of it. The gRPC handlers put in what arrives; the round waits here for answers.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airtune.deploy.messages import Answer, Job, Problem, Ready, Task
from airtune.deploy.meter import Meter
from airtune.deploy.pipe import Pipe
from airtune.deploy.wire import Frame, WireError
from airtune.errors import AirtuneError

PROBES_AT_MOST_S = 90.0
"""A client that has not reported by then has lost its turn."""
Say = Callable[[str], None]
"""Takes one sentence for the operator."""


@dataclass
class Session:
    """One client. `process` is the newest process with its certificate, `stream` the open stream
    of tasks (0: none); `gone_since` when it last had one [s, monotonic]."""

    process: str = ""
    stream: int = 0
    gone_since: float = 0.0
    ready: Ready | None = None
    facts: Any = None


@dataclass
class Open:
    """A task that waits for its answer, with times on this machine's monotonic clock [s]:
    `sent_s` when it was first on its way, `received_s` when the client had all of it."""

    task: Task
    frame: Frame
    sent_s: float | None = None
    received_s: float | None = None
    answer: Answer | None = None
    payload: bytes = b""
    problem: Problem | None = None
    arrived_s: float = 0.0


@dataclass
class Hub:
    """The shared state of a server. `run` is the run's digest; client numbers are from 0.

    `to_join` and `to_go_on` are what an operator does where clients stay away.
    """

    run: str
    clients: int
    say: Say = lambda sentence: None
    to_join: str = "start them with `airtune deploy client`, and this server again"
    to_go_on: str = "start the same `airtune deploy server` again"
    job: Job | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    meter: Meter = field(default_factory=Meter)
    ended: str | None = None
    failed: str | None = None
    check_ready: Callable[[int, Ready, Mapping[str, bytes]], Any] = lambda client, ready, parts: (
        None
    )
    watch: Callable[[list[dict[str, Any]]], None] = lambda clients: None

    def __post_init__(self) -> None:
        self.changed = threading.Condition()
        # Who probes the link, and until when; clients take turns, so that each has all of it.
        self._probing: tuple[int, float] | None = None
        self.sessions = [Session() for _ in range(self.clients)]
        self.open: dict[int, Open] = {}
        self._streams = 0
        self.answered: dict[int, tuple[int, str]] = {}
        self.pipes: dict[int, Pipe] = {}
        # Client -> the stream that has carried its open task.
        self._carried_by: dict[int, tuple[int, int]] = {}

    def admit(self, client: int, process: str) -> None:
        """A process has introduced itself; an older one with the same certificate has to leave.

        A new process may do what the one before could not: its open task is awaited again.
        """
        with self.changed:
            session, found = self._session(client), self.open.get(client)
            if found is not None and session.process != process:
                found.problem = None
            if session.process not in ("", process) and session.stream:
                self.say(f"Client {client} joined from a new process; the one before is released.")
            session.process = process
            self.changed.notify_all()

    def report(self, client: int, ready: Ready, parts: Mapping[str, bytes]) -> None:
        """A client is ready; raises AirtuneError for facts that cannot be or have changed."""
        facts = self.check_ready(client, ready, parts)
        with self.changed:
            session = self._session(client)
            self._current(client, ready.process)
            before = session.ready
            if before is not None and (before.rows, before.digest) != (ready.rows, ready.digest):
                raise AirtuneError(
                    f"Client {client} joined again with other rows than before ({ready.rows}, and "
                    f"{before.rows} before): start it with the same --data."
                )
            session.facts = facts if before is None else session.facts
            session.ready = ready
            if self._probing is not None and self._probing[0] == client:
                self._probing = None
            self.say(f"Client {client} is ready with {ready.rows} rows.")
            self.changed.notify_all()
            self.watch(self.listed())

    def probe_turn(self, client: int, wait_s: float) -> bool:
        """Whether it is this client's turn to probe; it ends with the client's report."""

        def free() -> bool:
            holder = self._probing
            return holder is None or holder[0] == client or holder[1] < time.monotonic()

        with self.changed:
            self._session(client)
            if not self.changed.wait_for(free, wait_s):
                return False
            self._probing = client, time.monotonic() + PROBES_AT_MOST_S
            return True

    def stream_opened(self, client: int, process: str) -> int:
        """A client listens for tasks; the number of its stream."""
        with self.changed:
            self._current(client, process)
            self._streams += 1
            self._session(client).stream = self._streams
            self.changed.notify_all()
            self.watch(self.listed())
            return self._streams

    def stream_closed(self, client: int, stream: int) -> None:
        """A stream ended; the client is away unless it has a newer one."""
        with self.changed:
            session = self._session(client)
            if session.stream == stream:
                session.stream, session.gone_since = 0, time.monotonic()
                if self.ended is None:
                    self.say(f"Client {client} is not connected.")
                self.changed.notify_all()
                self.watch(self.listed())

    def next_task(self, client: int, stream: int, wait_s: float) -> Frame | None:
        """The client's open task if this stream has not carried it; None after a while."""
        with self.changed:

            def there() -> bool:
                found = self.open.get(client)
                stale = self._session(client).stream != stream
                return stale or self.ended is not None or self._unsent(found, stream)

            self.changed.wait_for(there, wait_s)
            if self._session(client).stream != stream:
                raise WireError(f"Another process of client {client} has joined: this one ends.")
            found = self.open.get(client)
            if found is None or not self._unsent(found, stream):
                return None
            self._carried_by[client] = (stream, id(found))
            if found.sent_s is None:
                found.sent_s = time.monotonic()
            return found.frame

    def answer(self, client: int, answer: Answer, payload: bytes) -> str:
        """Take an answer once; a repeated one is acknowledged again, another one refused."""
        with self.changed:
            found = self.open.get(client)
            same = found is not None and (answer.round_index, answer.attempt) == (
                found.task.round_index,
                found.task.attempt,
            )
            digest = hashlib.sha256(payload).hexdigest()
            if found is None or not same:
                if self.answered.get(client) == (answer.round_index, digest):
                    return "It had arrived before."
                number = answer.round_index + 1
                raise WireError(f"An answer of client {client} to round {number} is not awaited.")
            if found.answer is None:
                found.answer, found.payload, found.arrived_s = answer, payload, time.monotonic()
                self.answered[client] = (answer.round_index, digest)
                self.changed.notify_all()
            return ""

    def received(self, client: int, round_index: int, at_s: float | None = None) -> None:
        """The client has the whole task, since `at_s` on its clock where that is this one."""
        with self.changed:
            found = self.open.get(client)
            if found is None or found.task.round_index != round_index:
                return
            here = at_s is None or found.task.measuring is None
            found.received_s = time.monotonic() if here else at_s

    def pipe(self, client: int, round_index: int, attempt: int) -> Pipe:
        """Where a split client's messages go; WireError for another round or try."""
        with self.changed:
            found, pipe = self.open.get(client), self.pipes.get(client)
            if (
                found is None
                or pipe is None
                or (found.task.round_index, found.task.attempt) != (round_index, attempt)
            ):
                raise WireError(f"Client {client} is not awaited in round {round_index + 1}.")
            return pipe

    def problem(self, client: int, problem: Problem) -> None:
        """A client cannot do its task."""
        with self.changed:
            found = self.open.get(client)
            if found is not None and found.task.round_index == problem.round_index:
                found.problem = problem
            self.changed.notify_all()

    def post(self, tasks: Mapping[int, tuple[Task, Frame]]) -> None:
        """Open the tasks of a round, by client; those of the round before are closed."""
        with self.changed:
            self.open = {client: Open(task, frame) for client, (task, frame) in tasks.items()}
            self._carried_by = {}
            self.pipes = {
                client: Pipe(stamps=task.measuring is not None)
                for client, (task, _) in tasks.items()
                if task.is_split
            }
            self.changed.notify_all()

    def end(self, sentence: str) -> None:
        """No more tasks will come."""
        with self.changed:
            self.ended = sentence
            self.changed.notify_all()

    def fail(self, why: str) -> None:
        """What carries the messages is gone for good: the round in progress stops."""
        with self.changed:
            self.failed = why
            self.changed.notify_all()

    def connected(self, client: int) -> bool:
        """Whether a client listens for tasks now; call it under the lock."""
        return bool(self.sessions[client].stream) and self.sessions[client].ready is not None

    def listed(self) -> list[dict[str, Any]]:
        """The clients as plain values, for the operator."""
        return [
            {
                "client": client,
                "connected": self.connected(client),
                "rows": session.ready.rows if session.ready else None,
            }
            for client, session in enumerate(self.sessions)
        ]

    def _unsent(self, found: "Open | None", stream: int) -> bool:
        if found is None or found.answer is not None or found.problem is not None:
            return False
        return self._carried_by.get(found.task.client) != (stream, id(found))

    def _current(self, client: int, process: str) -> None:
        if self._session(client).process != process:
            raise WireError(f"Another process of client {client} has joined: this one ends.")

    def _session(self, client: int) -> Session:
        if not 0 <= client < self.clients:
            raise WireError(
                f"Client {client} is not of this run, which has {self.clients} clients from 0."
            )
        return self.sessions[client]
