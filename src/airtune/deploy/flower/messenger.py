"""Between the hub of a server and a carrier: the job to every node, then tasks, and the answers.

A node states the number of its client with its facts; from then on it is that client's connection.
Nothing is delivered twice by the carrier: what has no reply is sent again, and the client answers a
task that it did before from memory.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from airtune.deploy.facts import LABELS, LENGTHS
from airtune.deploy.flower.carrier import Carrier, Fault, Reply
from airtune.deploy.hub import Hub
from airtune.deploy.messages import (
    ANSWER,
    JOB,
    JOIN,
    LONGEST_SENTENCE,
    MOST_ROWS,
    PROBLEM,
    READY,
    TASK,
    Answer,
    Problem,
    Ready,
    Task,
)
from airtune.deploy.wire import Frame, WireError, read_frame
from airtune.errors import AirtuneError

NODES_EVERY_S = 2.0
ASKS_AGAIN_S = 5.0
"""After a node that could not answer, before it is given the job again."""
FIRST_TTL_S, MOST_TTL_S = 60.0, 12 * 3600.0
"""Message and reply are void after so long, at first; twice as long after each that was void."""
READY_LIMITS = {LENGTHS: 4 * MOST_ROWS, LABELS: 4 * MOST_ROWS}


@dataclass
class _Node:
    """`client` is None until the node is ready; `stream` is its connection's number in the hub.
    `said` is the last sentence about it, so that it is not said at every try. Its messages are void
    after `ttl_s`."""

    client: int | None = None
    stream: int = 0
    process: str = ""
    is_asked: bool = False
    ask_at_s: float = 0.0
    ttl_s: float = FIRST_TTL_S
    said: str = ""


@dataclass(frozen=True)
class _Sent:
    node: int
    frame: Frame
    client: int | None
    void_at_s: float


@final
class Messenger:
    """Carries what the hub has open; `step` again and again."""

    def __init__(
        self, hub: Hub, carrier: Carrier, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._hub, self._carrier, self._clock = hub, carrier, clock
        self._nodes: dict[int, _Node] = {}
        self._sent: dict[str, _Sent] = {}
        self._looked_s: float | None = None

    def step(self) -> None:
        """Send what is due, and take what has come."""
        self._look_for_nodes()
        for number, node in list(self._nodes.items()):
            if node.client is None:
                self._send_job(number, node)
            else:
                self._send_task(number, node)
        if self._sent:
            for reply in self._carrier.replies(list(self._sent)):
                self._take(reply)
            self._expire()

    def _look_for_nodes(self) -> None:
        now = self._clock()
        if self._looked_s is not None and now - self._looked_s < NODES_EVERY_S:
            return
        self._looked_s, here = now, set(self._carrier.nodes())
        for number in self._nodes.keys() - here:
            node = self._nodes.pop(number)
            if node.client is not None:
                self._hub.stream_closed(node.client, node.stream)
        for number in here - self._nodes.keys():
            self._nodes[number] = _Node()

    def _send_job(self, number: int, node: _Node) -> None:
        job = self._hub.job
        if job is not None and not node.is_asked and self._clock() >= node.ask_at_s:
            node.is_asked = self._send(number, Frame.of(JOB, job), None)
            node.ask_at_s = self._clock() + ASKS_AGAIN_S

    def _send_task(self, number: int, node: _Node) -> None:
        assert node.client is not None
        frame = self._hub.next_task(node.client, node.stream, 0.0)
        if frame is None:
            return
        if frame.read(TASK, Task).is_split:
            raise AirtuneError("Flower carries no split model: use `airtune deploy server`.")
        if not self._send(number, frame, node.client):
            self._lose(number, node, "took no task")

    def _send(self, number: int, frame: Frame, client: int | None) -> bool:
        ttl_s = self._nodes.get(number, _Node()).ttl_s
        name = self._carrier.send(number, frame, ttl_s)
        if name is not None:
            self._sent[name] = _Sent(number, frame, client, self._clock() + ttl_s)
        return name is not None

    def _expire(self) -> None:
        """Give up messages of which the carrier itself should have said that they are void."""
        limit_s = self._clock() - ASKS_AGAIN_S
        for name in [name for name, sent in self._sent.items() if sent.void_at_s < limit_s]:
            self._take(Reply(name, problem="no reply", fault=Fault.EXPIRED))

    def _take(self, reply: Reply) -> None:
        sent = self._sent.pop(reply.message, None)
        if sent is None or sent.frame.kind == PROBLEM:
            return
        node = self._nodes.get(sent.node, _Node())
        if reply.fault is Fault.EXPIRED:
            node.ttl_s = min(2 * node.ttl_s, MOST_TTL_S)
        try:
            if sent.frame.kind == JOB:
                node.is_asked = False
                self._take_facts(sent.node, node, reply)
            else:
                self._take_answer(sent, node, reply)
        except AirtuneError as error:
            self._refuse(sent, node, str(error))

    def _take_facts(self, number: int, node: _Node, reply: Reply) -> None:
        """What a node answers to the job."""
        if not reply.frame:
            self._say(node, f"Node {number}{_number(reply)} is not ready: {_why(reply)}.")
            return
        frame = read_frame([reply.frame], READY_LIMITS)
        if frame.kind == PROBLEM:
            sentence = frame.read(PROBLEM, Problem).sentence
            self._say(node, f"Node {number}{_number(reply)} is not ready: {sentence}")
            return
        ready, client = frame.read(READY, Ready), reply.client
        self._of_this_run(ready.run)
        others = [other for other, found in self._nodes.items() if found.client == client]
        if others:
            raise AirtuneError(
                f"Node {number} is client {client} by its node-config, and so is node {others[0]}: "
                "give each SuperNode a number of its own."
            )
        self._hub.admit(client, ready.process)
        self._hub.report(client, ready, frame.parts)
        node.client, node.process, node.said = client, ready.process, ""
        node.stream = self._hub.stream_opened(client, ready.process)

    def _take_answer(self, sent: _Sent, node: _Node, reply: Reply) -> None:
        """What a node answers to a task."""
        client = sent.client
        assert client is not None
        if not reply.frame:
            self._take_silence(sent, node, reply)
            return
        frame = read_frame([reply.frame], self._hub.limits)
        if frame.kind == PROBLEM:
            problem = frame.read(PROBLEM, Problem)
            self._hub.say(f"Client {client}: {problem.sentence}")
            self._hub.problem(client, problem)
        elif frame.kind == JOIN:
            self._lose(sent.node, node, "has a new trainer")
            node.ask_at_s = self._clock()
        else:
            answer = frame.read(ANSWER, Answer)
            self._of_this_run(answer.run)
            if not client == answer.client == reply.client:
                raise WireError(f"Client {reply.client} answered the task of client {client}.")
            self._hub.answer(client, answer, frame.parts.get("payload", b""))

    def _take_silence(self, sent: _Sent, node: _Node, reply: Reply) -> None:
        """A task without an answer is sent again, at once where only its time ran out."""
        if reply.fault is Fault.EXPIRED and node.client == sent.client and node.client is not None:
            self._say(node, f"Client {node.client} has not answered yet: its task is sent again.")
            node.stream = self._hub.stream_opened(node.client, node.process)
        else:
            self._lose(sent.node, node, f"did not answer: {_why(reply)}")

    def _lose(self, number: int, node: _Node, why: str) -> None:
        """A node that has to be given the job again before it is a client's connection."""
        if node.client is None:
            return
        self._say(node, f"Client {node.client} (node {number}) {why}.")
        self._hub.stream_closed(node.client, node.stream)
        node.client, node.ask_at_s = None, self._clock() + ASKS_AGAIN_S

    def _refuse(self, sent: _Sent, node: _Node, sentence: str) -> None:
        """Say what was wrong, here and at the node; in this round its client is silent."""
        self._say(node, f"Refused node {sent.node}: {sentence}")
        problem = Problem(run=self._hub.run, sentence=sentence[:LONGEST_SENTENCE])
        if sent.frame.kind == TASK and sent.client is not None:
            number = sent.frame.read(TASK, Task).round_index
            problem = problem.model_copy(update={"round_index": number, "client": sent.client})
            self._hub.problem(sent.client, problem)
        self._send(sent.node, Frame.of(PROBLEM, problem), None)

    def _say(self, node: _Node, sentence: str) -> None:
        if node.said != sentence:
            node.said = sentence
            self._hub.say(sentence)

    def _of_this_run(self, run: str) -> None:
        if run != self._hub.run:
            raise WireError("The message is of another run.")


def _number(reply: Reply) -> str:
    return f" (client {reply.client})" if reply.client >= 0 else ""


def _why(reply: Reply) -> str:
    """Why there is no frame, as the end of a sentence."""
    fault = "" if reply.fault is None else reply.fault.value
    said = " ".join(reply.problem.split()).rstrip(".")[:300]
    return f"{fault} ({said})" if fault and said else fault or said or "it sent nothing"
