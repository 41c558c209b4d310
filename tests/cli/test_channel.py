"""Channels written by one program and read by another."""

from collections.abc import Callable
from pathlib import Path

import pytest

from airtune.experiment import Experiment
from airtune.experiment.reading import read_config
from tests.cli.conftest import quick

Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("name", ["cell.csv", pytest.param("cell.npz", marks=pytest.mark.slow)])
def test_a_run_on_replayed_channels_is_the_same_run(
    airtune: Call, tmp_path: Path, name: str
) -> None:
    settings = quick("training.local_steps=1", "rounds=1")
    code, out, _ = airtune("channel", name, "--rounds", 2, *settings)
    assert code == 0
    assert "Wrote 2 rounds of 3 clients" in out
    drawn = Experiment.load(None, settings[1::2]).run(tmp_path / "drawn")
    replayed = Experiment.load(None, [*settings[1::2], f"cell.replay={tmp_path / name}"]).run(
        tmp_path / "replayed"
    )
    assert replayed.records == drawn.records
    assert read_config(tmp_path / "replayed/experiment.yaml").cell.replay == str(tmp_path / name)


def test_never_overwrites(airtune: Call, tmp_path: Path) -> None:
    (tmp_path / "cell.csv").write_text("mine")
    code, _, err = airtune("channel", "cell.csv", *quick())
    assert code == 2
    assert "cell.csv, but it must be a new file" in err
    assert (tmp_path / "cell.csv").read_text() == "mine"


def test_other_endings_are_refused(airtune: Call, tmp_path: Path) -> None:
    code, _, err = airtune("channel", "cell.xyz", *quick())
    assert code == 2
    assert err.count("\n") == 1
    assert not (tmp_path / "cell.xyz").exists()
