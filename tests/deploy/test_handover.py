"""The socket of a trainer: its owner's alone, one at a path, and what comes through it."""

import socket
import stat
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from airtune.deploy.flower import app
from airtune.deploy.flower.handover import LONGEST_PATH, answer_one, listening
from airtune.errors import InputError

WITHIN_S = 20.0


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short path: a socket's is limited."""
    return tmp_path_factory.mktemp("s") / "own" / "t.sock"


@pytest.fixture
def ask() -> Iterator[Callable[[str, int, bytes], bytes]]:
    """The function of the generated ClientApp, with a stand-in for flwr."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("flwr", "flwr.app", "flwr.clientapp"):
            patch.setitem(sys.modules, name, ModuleType(name))

        class App:
            def query(self) -> Any:
                return lambda function: function

            train = query

        for name in ("ConfigRecord", "Context", "Message", "RecordDict"):
            setattr(sys.modules["flwr.app"], name, object)
        sys.modules["flwr.clientapp"].ClientApp = App  # type: ignore[attr-defined]
        space: dict[str, Any] = {"__name__": "client_app"}
        source = Path(app.__path__[0], "client_app.py")
        exec(compile(source.read_text(), str(source), "exec"), space)
        yield space["ask"]


def answered(
    listener: socket.socket, times: int = 1, answer: Callable[[int, bytes], bytes] | None = None
) -> tuple[threading.Thread, list[str]]:
    said: list[str] = []

    def echo(client: int, frame: bytes) -> bytes:
        return b"%d:" % client + frame

    def work() -> None:
        for _ in range(times):
            answer_one(listener, answer or echo, said.append)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, said


def test_a_frame_and_its_answer(path: Path, ask: Callable[[str, int, bytes], bytes]) -> None:
    frame = bytes(range(256)) * 4000
    with listening(path) as listener:
        thread, said = answered(listener, 2)
        assert ask(str(path), 3, frame) == b"3:" + frame
        assert ask(str(path), 0, b"") == b"0:"
        thread.join(WITHIN_S)
    assert said == []
    assert not path.exists()


def test_the_socket_is_its_owners_alone(path: Path) -> None:
    with listening(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_a_folder_that_others_may_enter(mode: int, path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(mode)
    with pytest.raises(InputError, match="chmod 700"), listening(path):
        pass
    assert not path.exists()


def test_two_trainers_at_one_path(path: Path) -> None:
    with listening(path):
        with pytest.raises(InputError, match="no other trainer uses"), listening(path):
            pass
        assert path.exists()


def test_the_socket_of_a_killed_trainer_is_replaced(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with listening(path) as listener:
        assert listener.getsockname() == str(path)


def test_a_file_in_its_place(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_text("mine")
    with pytest.raises(InputError, match="a path where nothing is"), listening(path):
        pass
    assert path.read_text() == "mine"


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=f"at most {LONGEST_PATH} bytes"),
        listening(tmp_path / ("x" * LONGEST_PATH)),
    ):
        pass


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\0\0",
        struct.pack(">I", 1 << 30),
        struct.pack(">I", 5) + b"nope!",
        struct.pack(">I", 40) + b'{"kind":"handover","parts":[],"head":{}}',
    ],
)
def test_what_is_not_a_frame(
    sent: bytes, path: Path, ask: Callable[[str, int, bytes], bytes]
) -> None:
    """Said in a sentence; the next question is answered."""
    with listening(path) as listener:
        thread, said = answered(listener, 2)
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(path))
            line.sendall(sent)
            line.shutdown(socket.SHUT_WR)
            assert line.recv(10) == b""
        assert ask(str(path), 1, b"x") == b"1:x"
        thread.join(WITHIN_S)
    assert len(said) == 1
    assert said[0].startswith("Refused what came through the socket: ")


def test_who_asked_is_gone_before_the_answer(
    path: Path, ask: Callable[[str, int, bytes], bytes]
) -> None:
    asked = threading.Event()

    def slow(client: int, frame: bytes) -> bytes:
        if client == 0:
            assert asked.wait(WITHIN_S)
        return bytes(1 << 22)

    with listening(path) as listener:
        thread, said = answered(listener, 2, slow)
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(path))
            head = b'{"kind":"handover","parts":[["frame",0]],"head":{"client":0}}'
            line.sendall(struct.pack(">I", len(head)) + head)
            line.shutdown(socket.SHUT_WR)
        asked.set()
        assert len(ask(str(path), 1, b"x")) == 1 << 22
        thread.join(WITHIN_S)
    assert any("is gone" in sentence for sentence in said)


def test_no_trainer(path: Path, ask: Callable[[str, int, bytes], bytes]) -> None:
    with pytest.raises(OSError, match="No such file"):
        ask(str(path), 0, b"x")


def test_a_trainer_that_ends_without_an_answer(
    path: Path, ask: Callable[[str, int, bytes], bytes]
) -> None:
    with listening(path) as listener:
        thread, _ = answered(listener, answer=lambda client, frame: b"")
        with pytest.raises(ConnectionAbortedError, match="without an answer"):
            ask(str(path), 0, b"x")
        thread.join(WITHIN_S)
