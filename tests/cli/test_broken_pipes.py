"""Pipes that break: standard output's reader may have enough; any other is an error."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import airtune as package

Call = Callable[..., tuple[int, str, str]]


def test_a_reader_that_has_enough_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "airtune", "device", "list"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_broken_pipe_is_an_error(airtune: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("airtune.cli.terminal.run_experiment", broken)
    code, _, error = airtune("run", "--out", "run")
    assert code == 2
    assert error == (
        "airtune: another process that airtune spoke to has ended: run the command again; a run "
        "goes on with `airtune resume`.\n"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_on_a_full_disk_is_a_sentence() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "airtune", "device", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("airtune: something cannot be written (No space left on device)")
    assert done.stderr.count("\n") == 1
