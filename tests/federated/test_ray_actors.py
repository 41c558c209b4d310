"""Ray actors answer like the main process; a killed one is replaced and its clients run again."""

import builtins
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from airtune.errors import AirtuneError, InputError
from airtune.experiment import Experiment, Run
from airtune.federated.backends.backend import ClientReport, ClientTask
from airtune.federated.backends.ray_actors import RayActors, connect, disconnect
from airtune.round_plan import ClientPlan

ray = pytest.importorskip("ray", reason="Ray is an optional part: pip install 'airtune[ray]'")


@dataclass(frozen=True)
class FakeSide:
    """Answers with its task's numbers; refuses or kills its own process where told to.

    `dies` names a file that is made at death, so that the second try lives; without a file the
    process dies each time.
    """

    refuses_at: int = -1
    dies_at: int = -1
    dies: Path | None = None

    def answer(self, task: ClientTask) -> ClientReport:
        if task.client == self.refuses_at:
            raise InputError("field", task.client, "something else")
        if task.client == self.dies_at and not (self.dies and self.dies.exists()):
            if self.dies:
                self.dies.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return ClientReport(task.client, task.broadcast, 0.5, task.round_index)

    def answer_stacked(self, tasks: Sequence[ClientTask]) -> Iterator[ClientReport]:
        yield from map(self.answer, tasks)


def make_side(**settings: Any) -> Any:
    return FakeSide(**settings)


def tasks(count: int) -> list[ClientTask]:
    """Two broadcasts among them, so that both must find their way."""
    return [ClientTask(3, c, ClientPlan(c, 1.0, 1.0, 1), bytes([c % 2])) for c in range(count)]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One cluster for all tests of this file: starting it takes seconds."""
    connect(None, 2)
    yield
    disconnect()


@pytest.fixture
def actors(request: pytest.FixtureRequest) -> Iterator[RayActors]:
    backend = RayActors(partial(make_side, **request.param), 2, 3)
    yield backend
    for actor in backend._actors:
        ray.kill(actor)


@pytest.mark.parametrize("actors", [{}], indirect=True)
def test_every_task_is_answered_once_over_rounds(actors: RayActors) -> None:
    for count in (7, 1):
        reports = sorted(actors.run(tasks(count)), key=lambda report: report.client)
        assert [report.client for report in reports] == list(range(count))
        assert all(report.payload == bytes([report.client % 2]) for report in reports)


@pytest.mark.parametrize("actors", [{"refuses_at": 1}], indirect=True)
@pytest.mark.slow
def test_a_refusal_comes_back_as_itself(actors: RayActors) -> None:
    with pytest.raises(InputError, match="field is 1, but it must be"):
        list(actors.run(tasks(3)))


@pytest.mark.parametrize("actors", [{"dies_at": 1}], indirect=True)
@pytest.mark.slow
def test_an_actor_that_always_dies_is_given_up(actors: RayActors) -> None:
    with pytest.raises(AirtuneError, match=r"3 Ray actors in a row died .* client"):
        list(actors.run(tasks(2)))


def test_nobody_answers_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no cluster there")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(InputError, match=r"ray_address is ray://nowhere:1 \(no cluster there\)"):
        connect("ray://nowhere:1")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ModuleNotFoundError("No module named 'ray'", name="ray"), r"pip install 'airtune\[ray\]'"),
        (
            ModuleNotFoundError("No module named 'msgpack'", name="msgpack"),
            "Ray is installed, but its import fails .ModuleNotFoundError: No module named 'msg",
        ),
        (ImportError("libstdc++ is too old"), "its import fails .ImportError: libstdc.. is too"),
    ],
)
def test_why_ray_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str
) -> None:
    whole = builtins.__import__

    def broken(name: str, *arguments: Any) -> Any:
        if name == "ray":
            raise error
        return whole(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(InputError, match=sentence):
        connect(None)


@pytest.mark.slow
def test_a_cluster_leaves_nothing_in_the_temporary_folder() -> None:
    """Neither where it is told to end, nor where its process just ends."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        for end in ("disconnect()", "pass"):
            code = (
                "import os, tempfile\n"
                "from airtune.federated.backends.ray_actors import connect, disconnect\n"
                f"connect(None, 1); assert os.listdir(tempfile.gettempdir()); {end}"
            )
            environment = {**os.environ, "TMPDIR": folder}
            subprocess.run([sys.executable, "-c", code], env=environment, check=True)
            assert os.listdir(folder) == []


def _run(folder: Path, **keys: Any) -> Run:
    settings: dict[str, Any] = {
        "rounds": 2,
        "clients": {"count": 4},
        "training": {"local_steps": 2},
        "data": {"train_limit": 64, "test_limit": 16, "score_rows": 0},
        "workers": 2,
        "engine": "batched-workers",
    }
    return Experiment(**settings | keys).run(folder)


@pytest.mark.slow
def test_a_killed_actor_changes_no_byte(tmp_path: Path) -> None:
    """Records and adapter equal those of the worker processes of one machine."""
    ours = _run(tmp_path / "ours")
    dying = {"use": "tests.federated.dying_tuner:Dying", "died": str(tmp_path / "died")}
    rays = _run(tmp_path / "rays", backend="ray", tuner=dying)
    assert (tmp_path / "died").exists()
    for name in ("rounds.jsonl", "adapter/adapter_model.safetensors"):
        assert (rays.folder.path / name).read_bytes() == (ours.folder.path / name).read_bytes()
