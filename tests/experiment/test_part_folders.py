"""Where user-defined parts may come from: a run folder is data."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airtune import part_folders
from airtune.errors import InputError
from tests.cli.conftest import airtune, quick

__all__ = ["airtune"]
Call = Callable[..., tuple[int, str]]

PART = """from pathlib import Path

from airtune.update.codec import DenseCodec

Path({mark!r}).touch()


class Mine(DenseCodec):
    pass
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An experiment with a part beside it; the module leaves a mark when it is imported."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "own_part.py").write_text(PART.format(mark=str(tmp_path / "imported")))
    (folder / "mine.yaml").write_text("codec: own_part:Mine\n")
    return folder


@pytest.fixture
def call(airtune: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """airtune in some folder and as some user, as if in a process of its own."""

    def call(cwd: Path, *arguments: object, user: str = "me") -> tuple[int, str]:
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            patch.setenv("XDG_STATE_HOME", str(tmp_path / user))
            patch.setenv(part_folders._NAMED, "")
            patch.setattr(sys, "path", list(sys.path))
            patch.setattr(part_folders, "_recorded", {})
            sys.modules.pop("own_part", None)
            code, _, err = airtune(*arguments)
        return code, err

    return call


def test_who_runs_it_finds_it_again_and_others_are_asked(
    project: Path, tmp_path: Path, call: Call
) -> None:
    settings = quick("rounds=1", "clients.count=2", "data.score_rows=0")
    assert call(project, "run", "mine.yaml", "--out", "run", "--quiet", *settings) == (0, "")
    (part,) = json.loads((project / "run/environment.json").read_text())["parts"]
    assert part["folder"] == str(project)
    assert part["file"] == str(project / "own_part.py")
    # From anywhere, by the same user.
    (tmp_path / "elsewhere").mkdir()
    assert call(tmp_path / "elsewhere", "eval", project / "run") == (0, "")
    # By somebody who never ran it: the module is not imported, and the sentence says where it was.
    (tmp_path / "imported").unlink()
    code, err = call(project, "export", "run", "out", user="other")
    assert (code, err.count("\n")) == (2, 1)
    assert f"the run found it in {project}; give --parts {project} if you trust" in err
    assert not (tmp_path / "imported").exists()
    assert call(project, "export", "run", "out", "--parts", ".", user="other") == (0, "")


def test_a_module_in_a_run_folder_is_not_imported(
    project: Path, tmp_path: Path, call: Call
) -> None:
    """Neither by standing in it, nor by running its experiment file."""
    (project / "mine.yaml").rename(project / "experiment.yaml")
    (project / "rounds.jsonl").touch()
    for command in (("resume", "."), ("eval", "."), ("run", "experiment.yaml", "--out", "x")):
        code, err = call(project, *command)
        assert (code, err.count("\n")) == (2, 1)
        assert not (tmp_path / "imported").exists()


@pytest.mark.slow
def test_python_m_airtune_does_not_look_in_the_current_folder(
    project: Path, tmp_path: Path
) -> None:
    (project / "mine.yaml").rename(project / "experiment.yaml")
    (project / "rounds.jsonl").touch()
    done = subprocess.run(
        [sys.executable, "-m", "airtune", "resume", "."],
        cwd=project,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "imported").exists()


def test_a_run_folder_on_the_path_must_be_named(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "experiment.yaml").touch()
    (project / "rounds.jsonl").touch()
    monkeypatch.syspath_prepend(str(project))
    monkeypatch.setenv(part_folders._NAMED, "")
    with pytest.raises(InputError, match=r"a run folder is data; give --parts .*project if you"):
        part_folders.refuse_run_folder("codec", "own_part:Mine")
    part_folders.name_folders([project])
    part_folders.refuse_run_folder("codec", "own_part:Mine")
    with pytest.raises(InputError, match=r"--parts is .*nowhere, but it must be a folder"):
        part_folders.name_folders([project / "nowhere"])
