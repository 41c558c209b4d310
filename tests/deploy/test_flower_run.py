"""A run over Flower has the records and the adapter of `airtune run`, byte for byte."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from airtune.deploy.issuing import make_keys
from airtune.experiment import Experiment
from airtune.folder_lock import is_held
from tests.deploy.flower_fleet import FlowerFleet, flower_environment
from tests.deploy.harness import same_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
CASES = {
    "fedlora": ("method=fedlora",),
    "jcpba": ("method=jcpba", "jcpba.pruning_budget=0.3"),
}


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of flower-superlink and its like."""
    return flower_environment(tmp_path_factory.mktemp("flower") / "venv")


@pytest.fixture
def fleets() -> Iterator[list[FlowerFleet]]:
    found: list[FlowerFleet] = []
    yield found
    for fleet in found:
        fleet.end()


@pytest.mark.parametrize("case", CASES)
def test_a_run_over_flower_is_the_simulated_one(
    case: str, commands: Path, fleets: list[FlowerFleet], tmp_path: Path
) -> None:
    fleet = FlowerFleet(commands, tmp_path, ("clients.count=2", *CASES[case]))
    fleets.append(fleet)
    Experiment.load(None, fleet.settings).run(tmp_path / "simulated")
    fleet.start_all()
    said = fleet.run()
    assert fleet.statuses() == ["finished:completed"], (said, fleet.logs())
    assert "Round 2: test loss" in said
    same_run(tmp_path / "simulated", fleet.folder)


def test_what_is_killed_goes_on_over_tls(
    commands: Path, fleets: list[FlowerFleet], tmp_path: Path
) -> None:
    """A SuperNode and its trainer, then the ServerApp; nodes have keys of their own."""
    make_keys(tmp_path / "keys", 2)
    kept = ("training.keep_optimizer=true", "deploy.patience_s=600")
    settings = ("clients.count=2", "rounds=4", *kept)
    fleet = FlowerFleet(commands, tmp_path, settings, tmp_path / "keys")
    fleets.append(fleet)
    Experiment.load(None, fleet.settings).run(tmp_path / "simulated")
    fleet.start_all()
    fleet.begin()
    fleet.await_rounds(1)
    fleet.kill("supernode-1")
    fleet.kill("trainer-1")
    fleet.start_trainer(1)
    fleet.bring_back(1)
    fleet.await_rounds(3)
    fleet.stop()
    deadline = time.monotonic() + 60.0
    while is_held(fleet.folder):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    said = fleet.run()
    assert sorted(fleet.statuses()) == ["finished:completed", "finished:stopped"], said
    same_run(tmp_path / "simulated", fleet.folder)


def test_nobody_joins(commands: Path, fleets: list[FlowerFleet], tmp_path: Path) -> None:
    """A sentence in the log, the run has failed, and no folder is left; the run-config counts."""
    fleet = FlowerFleet(commands, tmp_path, ("clients.count=2",))
    fleets.append(fleet)
    fleet.start_superlink()
    said = fleet.run("--run-config", 'settings="deploy.join_s=1 rounds=3"')
    assert "Clients 0, 1 (2 of 2) have not joined within 1 s (deploy.join_s): start each" in said
    assert fleet.statuses() == ["finished:failed"]
    assert not fleet.folder.exists()
