"""MLflow's own client finds what rounds.jsonl holds, in its file store."""

import json
from pathlib import Path
from typing import Any

import pytest

from airtune import Experiment
from tests.trackers.runs import SECRET, expected, seen_files, tracked_run

pytest.importorskip(
    "mlflow", reason="airtune[mlflow] is not installed (70 MB; see docs/trackers.md)"
)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return MlflowClient("mlruns")


def test_rounds_of_a_run_that_goes_on_are_read_back(client: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    tracked_run(folder, {"use": "mlflow", "experiment": "cells"})
    number = json.loads((folder / "trackers.json").read_text())["mlflow"]["id"]
    (folder / "checkpoints" / "round-00002.safetensors").unlink()
    Experiment.resume(folder, rounds=3)
    assert json.loads((folder / "trackers.json").read_text())["mlflow"] == {
        "id": number,
        "rounds": 3,
    }
    for step, numbers in expected(folder).items():
        for name, value in numbers.items():
            there = [m.value for m in client.get_metric_history(number, name) if m.step == step]
            assert there == [value], (step, name)
    run = client.get_run(number)
    assert run.data.params["cell.bandwidth_hz"] == "3000000.0"
    assert run.data.params["rounds"] == "2"
    assert run.data.tags["changed.rounds"] == "3"
    assert run.data.tags["adapter"] == str(folder / "adapter")
    assert run.info.status == "FINISHED"
    assert client.get_experiment(run.info.experiment_id).name == "cells"


def test_no_command_is_recorded(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["airtune", "run", "--set", f"codec.token={SECRET}"])
    tracked_run(tmp_path / "run", "mlflow", "rounds=1")
    assert seen_files(tmp_path, SECRET) == []
