"""What `airtune deploy flower` and `trainer` write, refuse and leave behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Call = Callable[..., tuple[int, str, str]]
STARTS_S = 120.0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["flower", "app", "nowhere.yaml"], "nowhere.yaml"),
        (["flower", "app", "e.yaml", "--set", "method=sflllm"], "use `airtune deploy server` and"),
        (["flower", ".", "e.yaml"], "a new or empty folder"),
        (["trainer", "--socket", "own/t", "--data", "d"], "--data is d, but it must be a file"),
        (["trainer", "--socket", "open/t", "--data", "rows.jsonl"], "chmod 700 open"),
    ],
)
def test_refusals(arguments: list[str], sentence: str, airtune: Call, tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text("rounds: 2\n")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "p", "completion": "c"}\n')
    (tmp_path / "open").mkdir(mode=0o755)
    code, out, err = airtune("deploy", *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
    assert not (tmp_path / "app").exists()


def test_an_app(airtune: Call, tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text("rounds: 2\n")
    code, out, err = airtune("deploy", "flower", "app", "e.yaml", "--set", "clients.count=2")
    assert (code, err) == (0, "")
    assert f"Its run folder will be {tmp_path / 'app-run'}." in out
    names = {str(path.relative_to(tmp_path / "app")) for path in (tmp_path / "app").rglob("*.*")}
    modules = {f"airtune_app/{name}.py" for name in ("__init__", "client_app", "server_app")}
    assert names == {"README.md", "experiment.yaml", "pyproject.toml", *modules}


def test_a_trainer_that_is_ended_removes_its_socket(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    place = tmp_path_factory.mktemp("t")
    (place / "rows.jsonl").write_text('{"prompt": "p", "completion": "c"}\n')
    command = ["deploy", "trainer", "--socket", "own/t", "--data", "rows.jsonl"]
    trainer = subprocess.Popen(
        [sys.executable, "-m", "airtune", *command],
        cwd=place,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert trainer.stderr is not None
    try:
        assert "Waiting at own/t for frames." in trainer.stderr.readline()
        assert (place / "own" / "t").is_socket()
        trainer.send_signal(signal.SIGTERM)
        assert trainer.wait(STARTS_S) == 128 + signal.SIGTERM
        assert trainer.stderr.read() == ""
    finally:
        trainer.kill()
        trainer.wait(STARTS_S)
        trainer.stderr.close()
    assert not (place / "own" / "t").exists()
