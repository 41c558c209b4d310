"""A run over Flower has the records and the adapter of `airtune run`, byte for byte."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from airtune.experiment import Experiment
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
