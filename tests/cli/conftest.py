"""Running the command line in this process, as `airtune ...` would."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

QUICK = [
    "rounds=2",
    "clients.count=3",
    "training.local_steps=1",
    "training.batch_size=2",
    "data.train_limit=60",
    "data.test_limit=6",
    "data.score_rows=2",
    "adapter.rank=2",
    "cell.path_loss=log_distance",
    "threads=1",
    "engine=sequential",
    "training.schedule=constant",
]
"""An experiment of a few seconds, whose first rounds do not depend on how many are planned."""


def quick(*changes: str) -> list[str]:
    """`--set` arguments of the quick experiment with some changes."""
    chosen = [key for key in QUICK if not (key.startswith("adapter.rank") and _unranked(changes))]
    return [part for setting in (*chosen, *changes) for part in ("--set", setting)]


def _unranked(changes: tuple[str, ...]) -> bool:
    """Whether a given LoRA rank would be refused, since it has no effect."""
    return "adapter.kind=full" in changes


@pytest.fixture
def airtune(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Call with arguments; answers exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments: Any) -> tuple[int, str, str]:
        from airtune.cli.main import entry

        monkeypatch.setattr(sys, "argv", ["airtune", *map(str, arguments)])
        code = 0
        try:
            entry()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
