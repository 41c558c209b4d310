"""Every experiment file under experiments/ is read, and its first round is planned."""

from pathlib import Path

import pytest

import airtune
from airtune import Experiment

ROOT = Path(airtune.__file__).parents[2] / "experiments"
FILES = sorted(ROOT.glob("*.yaml"))
SMALL = ["data.train_limit=60", "data.test_limit=6", "threads=1"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_experiments_plan(path: Path) -> None:
    preview = Experiment.load(path, SMALL).preview()
    assert preview["latency_s"] > 0
    assert preview["clients"]
