"""What ships under experiments/: every file is read, its parts exist, and its first round plans."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import airtune
from airtune import Experiment
from airtune.comparison.definition import read_comparison
from airtune.comparison.runs import check_comparison, preview_arms
from airtune.experiment.composition import check_names
from airtune.experiment.reading import read_config
from airtune.files import read_yaml_mapping
from tests.conftest import DATA

ROOT = Path(airtune.__file__).parents[2]
FILES = sorted((ROOT / "experiments").glob("*.yaml"))
pytestmark = pytest.mark.skipif(not FILES, reason="airtune is installed without its experiments")
IDS = [path.stem for path in FILES]
COMPARISONS = [path for path in FILES if "arms" in read_yaml_mapping(path, "")]
SINGLE = [path for path in FILES if path not in COMPARISONS]
SMALL = [
    "clients.count=3",
    "training.local_steps=1",
    "data.train_limit=300",
    "data.test_limit=20",
    "rounds=2",
    "threads=1",
    "engine=auto",
    "workers=1",
]


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_is_read_and_its_parts_exist(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRTUNE_DATA", str(tmp_path))
    if path in COMPARISONS:
        check_comparison(read_comparison(path), tmp_path)
    else:
        check_names(read_config(path))


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_its_head_says_how_to_run_it(path: Path) -> None:
    head = path.read_text()
    verb = "compare" if path in COMPARISONS else "run"
    assert re.search(rf"^# .*airtune {verb} experiments/{path.name}", head, re.MULTILINE)
    assert not re.search(r"/(work|home|tmp|Users)/", path.read_text())


def _data(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    if "AIRTUNE_DATA" in path.read_text():
        if not DATA.is_dir():
            pytest.skip(f"no data folder at {DATA}; set AIRTUNE_TEST_DATA to one")
        monkeypatch.setenv("AIRTUNE_DATA", str(DATA))


@pytest.mark.parametrize("path", COMPARISONS, ids=[path.stem for path in COMPARISONS])
def test_first_arm_plans(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _data(monkeypatch, path)
    first = read_comparison(path).arms[0].name
    (shown,) = preview_arms(read_comparison(path, [first], SMALL, 1))
    assert 0 < shown["latency_s"] < 3600


@pytest.mark.parametrize("path", SINGLE, ids=[path.stem for path in SINGLE])
def test_first_round_plans(path: Path, request: pytest.FixtureRequest) -> None:
    experiment = Experiment.load(path, ["data.train_limit=400", "data.test_limit=6", "threads=1"])
    if not experiment.config.data.train.startswith("builtin"):
        # Files of other people are named as they lie in a folder of data sets.
        folder = request.getfixturevalue("real_data")
        request.getfixturevalue("monkeypatch").chdir(folder)
    preview = experiment.preview()
    assert preview["latency_s"] > 0
    assert preview["clients"]


@pytest.mark.slow
@pytest.mark.parametrize("path", COMPARISONS, ids=[path.stem for path in COMPARISONS])
def test_every_arm_plans(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _data(monkeypatch, path)
    previews = preview_arms(read_comparison(path, settings=SMALL, seeds=1))
    assert all(0 < shown["latency_s"] < 3600 for shown in previews)


def test_tables_in_the_documents_are_those_of_the_results() -> None:
    script = ROOT / "scripts" / "comparison_tables.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
