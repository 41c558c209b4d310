"""Every experiment file under experiments/ is read, and its first round is planned."""

from pathlib import Path

import pytest

import airtune
from airtune import Experiment

ROOT = Path(airtune.__file__).parents[2] / "experiments"
FILES = sorted(ROOT.glob("*.yaml"))
SMALL = ["data.train_limit=400", "data.test_limit=6", "threads=1"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_experiments_plan(path: Path, request: pytest.FixtureRequest) -> None:
    experiment = Experiment.load(path, SMALL)
    if not experiment.config.data.train.startswith("builtin"):
        # Files of other people are named as they lie in a folder of data sets.
        folder = request.getfixturevalue("real_data")
        request.getfixturevalue("monkeypatch").chdir(folder)
    preview = experiment.preview()
    assert preview["latency_s"] > 0
    assert preview["clients"]
