"""Completion of names in a shell, as the shell asks for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from airtune.cli.completing import arms, devices, experiments, methods, models, problems


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("airtune cite jc", ["jcpba"]),
        ("airtune compare --methods fedlora,ff", ["fedlora,ffa_lora"]),
        ("airtune dev", ["device"]),
    ],
)
def test_bash_is_answered(line: str, answer: list[str]) -> None:
    words = line.split()
    environment = {
        **os.environ,
        "_AIRTUNE_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "airtune"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == answer


def test_every_kind_of_name() -> None:
    assert {"fedlora", "tsfa"} <= set(methods(""))
    assert arms("jc") == ["jcpba"]
    assert models("gpt2-x") == ["gpt2-xl"]
    assert models("buil") == ["builtin"]
    assert devices("galaxy") == ["galaxy-s25"]
    assert problems("jc") == ["jcpba", "jcpba_cell"]
    assert "compare-builtin" in experiments("comp")


def test_it_is_installed_for_a_shell(tmp_path: Path) -> None:
    # By name: where `make` runs the tests, the shell that typer would find is `sh`.
    by_name = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    environment = {**os.environ, **by_name, "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "airtune", "--install-completion", "bash"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "completion installed" in done.stdout
    assert (
        "_AIRTUNE_COMPLETE=complete_bash"
        in (tmp_path / ".bash_completions" / "airtune.sh").read_text()
    )
