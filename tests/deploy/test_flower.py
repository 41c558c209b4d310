"""Frames over a carrier that loses messages, without Flower: the same bytes, and what is said."""

import ast
import tomllib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from airtune.config.experiment import ExperimentConfig
from airtune.deploy.facts import LABELS, LENGTHS
from airtune.deploy.flower import messenger
from airtune.deploy.flower.answering import Answerer
from airtune.deploy.flower.app_folder import write_app
from airtune.deploy.flower.carrier import Fault, Reply
from airtune.deploy.flower.fit import refuse_unfit
from airtune.deploy.flower.messenger import ASKS_AGAIN_S, FIRST_TTL_S, NODES_EVERY_S, Messenger
from airtune.deploy.flower.serving import run_over
from airtune.deploy.hub import Hub
from airtune.deploy.messages import (
    ANSWER,
    JOB,
    JOIN,
    PROBLEM,
    READY,
    TASK,
    Answer,
    Join,
    Problem,
    Ready,
    Task,
)
from airtune.deploy.shard_files import write_shards
from airtune.deploy.trainer import ClientOptions
from airtune.deploy.wire import Frame, read_frame
from airtune.errors import AirtuneError, InputError
from airtune.experiment import Experiment
from airtune.experiment.listening import Silent
from airtune.experiment.reading import read_config
from airtune.methods.registry import shipped_methods
from tests.deploy.harness import SMALL, bare_job, same_run

RUN, PROCESS = "ab" * 16, "cd" * 8
Node = Callable[[bytes], Reply]


@dataclass
class Carried:
    """A carrier in this process. `nodes_here` answer at once, and `faults` befall the messages of a
    kind, one after another, in place of their replies; `sent` lists all by node and kind."""

    nodes_here: dict[int, Node]
    faults: list[tuple[str, Fault]] = field(default_factory=list)
    sent: list[tuple[int, str]] = field(default_factory=list)
    ttls_s: list[float] = field(default_factory=list)
    waiting: dict[str, Reply] = field(default_factory=dict)

    def nodes(self) -> Collection[int]:
        return list(self.nodes_here)

    def send(self, node: int, frame: Frame, ttl_s: float) -> str | None:
        self.sent.append((node, frame.kind))
        self.ttls_s.append(ttl_s)
        if node not in self.nodes_here:
            return None
        name = str(len(self.sent))
        # The node does its work; what is lost is the reply.
        reply = self.nodes_here[node](frame.encode())
        if self.faults and self.faults[0][0] == frame.kind:
            reply = Reply(name, problem="as the test wants", fault=self.faults.pop(0)[1])
        self.waiting[name] = Reply(name, reply.client, reply.frame, reply.problem, reply.fault)
        return name

    def replies(self, messages: Collection[str]) -> Iterator[Reply]:
        for name in messages:
            if name in self.waiting:
                yield self.waiting.pop(name)


def asked(answerer: Answerer, client: int) -> Node:
    """A node whose app hands frames to a trainer of this process."""
    return lambda data: Reply("", client, answerer.answer(client, data))


@dataclass
class Place:
    """An experiment, its shards, and trainers of its clients."""

    folder: Path
    settings: tuple[str, ...]
    said: list[str] = field(default_factory=list)
    trainer_said: list[str] = field(default_factory=list)

    def trainer(self, client: int) -> Answerer:
        data = self.folder / "shards" / f"client-{client}.jsonl"
        options = ClientOptions(data, threads=1)
        state = self.folder / f"state-{client}"
        return Answerer(options, lambda number: state, self.trainer_said.append)

    def run(self, carrier: Carried) -> None:
        job = Experiment.load(None, self.settings)
        run_over(carrier, job, self.folder / "real", Silent(), self.said.append)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(messenger, "ASKS_AGAIN_S", 0.1)
    monkeypatch.setattr(messenger, "NODES_EVERY_S", 0.1)
    found = Place(tmp_path, (*SMALL, "clients.count=2", "training.keep_optimizer=true"))
    write_shards(read_config(None, found.settings), tmp_path / "shards")
    return found


@pytest.mark.slow
def test_lost_replies_change_no_byte(place: Place) -> None:
    """Replies that expire, apps that fail, a node that goes: asked again, answered from memory."""
    trainers = [place.trainer(client) for client in range(2)]
    carrier = Carried({10 + k: asked(trainer, k) for k, trainer in enumerate(trainers)})
    carrier.faults += [
        (JOB, Fault.FAILED),
        (TASK, Fault.EXPIRED),
        (TASK, Fault.GONE),
    ]
    Experiment.load(None, place.settings).run(place.folder / "simulated")
    place.run(carrier)
    same_run(place.folder / "simulated", place.folder / "real")
    assert not carrier.faults
    assert any("is not ready: its app failed (as the test wants)" in s for s in place.said)
    assert any("has not answered yet: its task is sent again" in s for s in place.said)
    assert any("did not answer: its node is gone" in s for s in place.said)


@pytest.mark.slow
def test_a_carrier_that_breaks_and_a_trainer_that_starts_again(place: Place) -> None:
    """The run stops in a sentence; the same run goes on, with a new trainer that has its state."""
    trainers = [place.trainer(client) for client in range(2)]
    carrier = Carried({k: asked(trainer, k) for k, trainer in enumerate(trainers)})

    def broken(data: bytes) -> Reply:
        if read_frame([data], {"broadcast": 1 << 30}).head.get("round_index") == 1:
            raise ConnectionError("no SuperLink")
        return asked(trainers[1], 1)(data)

    carrier.nodes_here[1] = broken
    with pytest.raises(
        AirtuneError, match=r"Round 2 was not made.*no SuperLink.*flwr run.*goes on"
    ):
        place.run(carrier)
    Experiment.load(None, place.settings).run(place.folder / "simulated")
    trainers[0] = place.trainer(0)
    place.run(Carried({k: asked(trainer, k) for k, trainer in enumerate(trainers)}))
    same_run(place.folder / "simulated", place.folder / "real")


class Clock:
    """Seconds as a test sets them."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Station:
    """A messenger between a hub and scripted nodes."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.hub = Hub(RUN, 2, self.said.append)
        self.hub.limits = {"payload": 1000}
        self.hub.job = bare_job(run=RUN, airtune="0")
        self.carrier, self.clock = Carried({}), Clock()
        self.messenger = Messenger(self.hub, self.carrier, self.clock)

    def step(self, seconds: float = NODES_EVERY_S) -> None:
        self.clock.now += seconds
        self.messenger.step()

    def post(self, round_index: int = 0, *, is_split: bool = False) -> None:
        tasks = {}
        for client in range(2):
            head = Task(
                run=RUN,
                round_index=round_index,
                attempt=1,
                client=client,
                plan={},
                is_split=is_split,
            )
            tasks[client] = (head, Frame.of(TASK, head, broadcast=b"adapter"))
        self.hub.post(tasks)


def scripted(client: int, process: str = PROCESS, answers: int | None = None) -> Node:
    """A node that states facts, and answers tasks as client `answers` (default: as itself)."""
    numbers = client if answers is None else answers

    def answer(data: bytes) -> Reply:
        frame = read_frame([data], {"broadcast": 1000})
        if frame.kind == JOB:
            ready = Ready(run=RUN, process=process, rows=1, digest="ab" * 16)
            parts = {LENGTHS: b"\3\0\0\0", LABELS: b"\1\0\0\0"}
            return Reply("", client, Frame.of(READY, ready, **parts).encode())
        if frame.kind == PROBLEM:
            return Reply("", client, b"")
        task = frame.read(TASK, Task)
        head = Answer(
            run=RUN,
            round_index=task.round_index,
            attempt=task.attempt,
            client=numbers,
            train_loss=1.0,
            label_tokens=1,
            keeps=False,
            compute_s=0.0,
            tune_s=0.0,
        )
        return Reply("", client, Frame.of(ANSWER, head, payload=b"update").encode())

    return answer


def test_two_nodes_with_one_number() -> None:
    station = Station()
    station.carrier.nodes_here = {7: scripted(0)}
    station.step()
    station.carrier.nodes_here[8] = scripted(0, process="ef" * 8)
    station.step()
    station.post()
    station.step()
    assert any("Node 8 is client 0" in s and "so is node 7" in s for s in station.said)
    assert (8, PROBLEM) in station.carrier.sent
    assert (7, TASK) in station.carrier.sent
    assert (8, TASK) not in station.carrier.sent
    # Once the first is gone, the second is that client.
    del station.carrier.nodes_here[7]
    station.step(ASKS_AGAIN_S)
    station.post(1)
    station.step()
    assert (8, TASK) in station.carrier.sent


def test_a_node_of_no_client() -> None:
    station = Station()
    station.carrier.nodes_here = {7: scripted(2)}
    station.step()
    assert any("Client 2 is not of this run, which has 2 clients" in s for s in station.said)
    assert station.hub.sessions[0].ready is None


def test_an_answer_in_the_name_of_another_client() -> None:
    station = Station()
    station.carrier.nodes_here = {7: scripted(0, answers=1), 8: scripted(1)}
    station.step()
    station.post()
    station.step()
    assert station.hub.open[0].answer is None
    assert station.hub.open[0].problem is not None
    assert station.hub.open[1].payload == b"update"


def test_a_damaged_answer_makes_its_client_silent() -> None:
    station = Station()
    node = scripted(0)

    def damaged(data: bytes) -> Reply:
        reply = node(data)
        return reply if b'"job"' in data[:20] else Reply("", 0, reply.frame[:-1])

    station.carrier.nodes_here = {7: damaged}
    station.step()
    station.post()
    station.step()
    assert station.hub.open[0].problem is not None
    assert any("Refused node 7: A message was cut short" in s for s in station.said)


def test_a_new_trainer_is_given_the_job_before_its_task() -> None:
    station = Station()
    node, knows = scripted(0), [True]

    def restarted(data: bytes) -> Reply:
        kind = read_frame([data], {"broadcast": 1000}).kind
        if kind == TASK and not knows[0]:
            head = Join(protocol=1, airtune="0", client=0, process="ef" * 8)
            return Reply("", 0, Frame.of(JOIN, head).encode())
        knows[0] = True
        return node(data)

    station.carrier.nodes_here = {7: restarted}
    station.step()
    knows[0] = False
    station.post()
    for _ in range(3):
        station.step()
    assert [kind for _, kind in station.carrier.sent] == [JOB, TASK, JOB, TASK]
    assert station.hub.open[0].payload == b"update"


def test_a_node_without_a_trainer_is_asked_again_and_said_once() -> None:
    station = Station()
    problem = "no trainer answers at /run/x (No such file): start it there"
    station.carrier.nodes_here = {7: lambda data: Reply("", 0, b"", problem)}
    for _ in range(4):
        station.step(ASKS_AGAIN_S)
    assert len(station.carrier.sent) == 4
    assert station.said == [f"Node 7 (client 0) is not ready: {problem}."]


def test_a_message_whose_end_the_carrier_never_tells() -> None:
    station = Station()
    station.carrier.nodes_here = {7: scripted(0)}
    station.step()
    station.post()
    station.carrier.waiting.clear()
    lost = station.carrier.replies
    station.carrier.replies = lambda messages: iter(())  # type: ignore[method-assign]
    station.step()
    station.carrier.replies = lost  # type: ignore[method-assign]
    station.carrier.waiting.clear()
    station.step(FIRST_TTL_S / 2)
    assert [kind for _, kind in station.carrier.sent] == [JOB, TASK]
    station.step(FIRST_TTL_S)
    station.step()
    assert [kind for _, kind in station.carrier.sent] == [JOB, TASK, TASK]
    assert station.hub.open[0].payload == b"update"
    assert station.carrier.ttls_s == [FIRST_TTL_S, FIRST_TTL_S, 2 * FIRST_TTL_S]


def test_no_split_model_travels() -> None:
    station = Station()
    station.carrier.nodes_here = {7: scripted(0)}
    station.step()
    station.post(is_split=True)
    with pytest.raises(AirtuneError, match="Flower carries no split model"):
        station.step()


def test_a_trainer_has_one_number(place: Place) -> None:
    trainer = place.trainer(0)
    captured: list[bytes] = []

    def node(data: bytes) -> Reply:
        captured.append(data)
        raise ConnectionError("enough")

    with pytest.raises(AirtuneError, match="enough"):
        place.run(Carried({1: node}))
    (job,) = captured
    assert read_frame([trainer.answer(0, job)], {LENGTHS: 1000, LABELS: 1000}).kind == READY
    refused = read_frame([trainer.answer(1, job)], {}).read(PROBLEM, Problem)
    assert "0, whose rows this trainer holds" in refused.sentence
    garbage = read_frame([trainer.answer(0, b"\0\0\0\5nope!")], {}).read(PROBLEM, Problem)
    assert "not of this protocol" in garbage.sentence


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("method=sflllm", "airtune deploy server"),
        ("deploy.rates=measured", "deploy.rates is measured"),
        ("deploy.pace=true", "deploy.pace is true"),
        ("backend=ray", "backend is ray"),
    ],
)
def test_what_flower_cannot_carry(setting: str, named: str, tmp_path: Path) -> None:
    config = read_config(None, (setting,))
    with pytest.raises(InputError, match=named):
        write_app(config, tmp_path / "app")
    assert not (tmp_path / "app").exists()


def test_methods_that_split_say_so() -> None:
    """The declaration goes with the options: what splits has a main server."""
    for name, spec in shipped_methods().items():
        assert spec.splits == ("server_flop_rate" in spec.options.model_fields), name
    refuse_unfit(ExperimentConfig())


def test_the_app_is_one_that_flower_reads(tmp_path: Path) -> None:
    config = read_config(None, ("clients.count=3", "rounds=7"))
    run = write_app(config, tmp_path / "My App!", tmp_path / "runs" / "a")
    folder = tmp_path / "My App!"
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    app = project["tool"]["flwr"]["app"]
    assert project["project"]["name"] == "my-app"
    assert app["config"] == {"out": str(run), "settings": ""}
    for kind, decorator in (("serverapp", "main"), ("clientapp", "train")):
        module, _, name = app["components"][kind].partition(":")
        text = (folder / f"{module.replace('.', '/')}.py").read_text()
        assert f"@{name}.{decorator}()" in text
        compile(text, module, "exec")
    read = Experiment.load(folder / "experiment.yaml").config
    assert (read.clients.count, read.rounds) == (3, 7)
    readme = (folder / "README.md").read_text()
    assert "{" not in readme
    assert "the numbers 0 to 2" in readme


def test_the_client_app_imports_flwr_and_the_standard_library_alone(tmp_path: Path) -> None:
    write_app(read_config(None), tmp_path / "app")
    tree = ast.parse((tmp_path / "app" / "airtune_app" / "client_app.py").read_text())
    named = {
        (node.module or "").partition(".")[0] if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert named == {"flwr", "json", "socket", "struct"}


def test_an_app_is_written_into_a_new_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a new or empty folder"):
        write_app(read_config(None), tmp_path)


def test_a_secret_is_not_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TARGET", "q_proj")
    experiment = tmp_path / "e.yaml"
    experiment.write_text("format: 2\nadapter: {target_modules: ['${TARGET}']}\n")
    with pytest.raises(InputError, match="never sent"):
        write_app(read_config(experiment), tmp_path / "app")
