"""Whatever foreign code raises becomes one sentence with the place, and keeps its cause."""

import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from airtune.cli import main
from airtune.errors import (
    AirtuneError,
    InfeasibleError,
    InputError,
    foreign_code,
    foreign_input,
    traceback_text,
)


class RustPanic(BaseException):
    """Like the panics of tokenizers: no subclass of Exception."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no such thing\nand a second line"), "ValueError: no such thing"),
        (KeyError("name"), "KeyError: 'name'"),
        (RustPanic("index out of bounds."), "RustPanic: index out of bounds"),
        (SystemExit(4), "SystemExit: 4"),
        (RecursionError(), "RecursionError"),
        (ValueError("x" * 500), "ValueError: " + "x" * 187 + "…"),
    ],
)
def test_input_that_foreign_code_refuses(error: BaseException, reason: str) -> None:
    with pytest.raises(InputError) as told, foreign_input("data.train", "a.csv, line 3", "a table"):
        raise error
    assert str(told.value) == f"data.train is a.csv, line 3, but it must be a table: {reason}."
    assert told.value.__cause__ is error
    assert type(error).__name__ in told.value.details
    with pytest.raises(InputError) as told, foreign_input("a", "b", "c", "check the file."):
        raise error
    assert str(told.value) == f"a is b, but it must be c: check the file ({reason})."


def test_foreign_code_names_the_line_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The error itself is raised in the standard library, below the user's line.
    (tmp_path / "rough_part.py").write_text("import json\n\n\ndef work():\n    json.loads('{')\n")
    monkeypatch.syspath_prepend(tmp_path)
    part = importlib.import_module("rough_part")
    with (
        pytest.raises(AirtuneError) as told,
        foreign_code("planner rough_part, round 3", "mend it."),
    ):
        part.work()
    assert str(told.value) == (
        "planner rough_part, round 3 failed: JSONDecodeError: Expecting property name enclosed in "
        f"double quotes: line 1 column 2 (char 1) ({tmp_path / 'rough_part.py'}, line 5): mend it."
    )


def test_errors_of_airtune_and_interrupts_pass() -> None:
    for error in (InputError("a", 1, "2"), InfeasibleError("no plan"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as told, foreign_code("a part"):
            raise error
        assert told.value is error


def test_the_traceback_is_shown_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError) as told, foreign_input("model", "x", "a model"):
        raise ValueError("the cause")
    # As a worker process sends it: without the cause itself.
    received = pickle.loads(pickle.dumps(told.value))
    assert str(received) == str(told.value)
    monkeypatch.delenv("AIRTUNE_TRACEBACK", raising=False)
    assert traceback_text(told.value) == ""
    monkeypatch.setenv("AIRTUNE_TRACEBACK", "1")
    for error in (told.value, received):
        assert "ValueError: the cause" in traceback_text(error)


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (ZeroDivisionError("by zero"), 70, "unexpected ZeroDivisionError: by zero; this"),
        (
            PermissionError(13, "Permission denied", "/there"),
            2,
            "/there cannot be used (Permission denied)",
        ),
        (MemoryError(), 2, "the memory of this machine does not suffice"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"),
            2,
            "the memory of this machine does not suffice",
        ),
        (InfeasibleError("nobody is reached."), 3, "nobody is reached."),
    ],
)
def test_every_end_of_the_command_line_is_a_sentence(
    error: Exception,
    code: int,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(main, "app", fail)
    monkeypatch.delenv("AIRTUNE_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as ended:
        main.entry()
    told = capsys.readouterr().err
    assert ended.value.code == code
    assert told.startswith(f"airtune: {sentence}")
    assert told.count("\n") == 1
    monkeypatch.setenv("AIRTUNE_TRACEBACK", "1")
    with pytest.raises(SystemExit):
        main.entry()
    assert "Traceback" in capsys.readouterr().err


def test_a_process_ends_the_same_way() -> None:
    code = "import sys; from airtune.cli import main\nmain.app = lambda **_: 1 / 0\nmain.entry()"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 70
    assert ended.stderr.startswith("airtune: unexpected ZeroDivisionError")
    assert ended.stderr.count("\n") == 1
