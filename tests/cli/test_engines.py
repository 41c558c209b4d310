"""Engines: the same records wherever the clients are trained, and the same bytes after a resume."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from airtune.experiment import Experiment
from airtune.experiment.run import Run
from airtune.federated.records.checkpoint import read_checkpoint
from airtune.federated.records.stopwatch import STAGES
from tests.cli.conftest import quick
from tests.rounding import assert_same_sgd_step

SETTINGS = ("clients.count=5", "training.local_steps=2", "training.keep_optimizer=true")
RATE = 0.3
STEP = ("clients.count=5", "training.optimizer=sgd", f"training.learning_rate={RATE}")
"""One step of SGD a round: what is compared between engines is the first one."""


def run(folder: Path, *changes: str) -> list[dict[str, Any]]:
    Experiment.load(None, quick(*SETTINGS, *changes)[1::2]).run(folder)
    return [json.loads(line) for line in (folder / "rounds.jsonl").open()]


@pytest.fixture(scope="module")
def sequential(tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("engines") / "sequential"
    run(folder, *STEP)
    return folder


def assert_same_records(ours: list[dict[str, Any]], folder: Path) -> None:
    theirs = [json.loads(line) for line in (folder / "rounds.jsonl").open()]
    for one, other in zip(ours, theirs, strict=True):
        # What is computed from trained numbers agrees to rounding after the first step, all else
        # exactly and in every round.
        for key in ("train_loss", "test_loss", "measured"):
            found, expected = one.pop(key, {}), other.pop(key, {})
            if one["round"] == 1:
                assert found == pytest.approx(expected, abs=1e-5)
        for a, b in zip(one["clients"], other["clients"], strict=True):
            for key in ("train_loss", "update_norm"):
                found, expected = a.pop(key), b.pop(key)
                if one["round"] == 1:
                    assert found == pytest.approx(expected, rel=1e-5)
        assert one == other


@pytest.mark.parametrize(
    "engine", ["batched", pytest.param("batched-workers", marks=pytest.mark.slow)]
)
def test_stacks_give_the_same_records(engine: str, sequential: Path, tmp_path: Path) -> None:
    workers = ("workers=2",) if engine.endswith("workers") else ()
    ours = run(tmp_path / "run", *STEP, f"engine={engine}", *workers)
    assert_same_records(ours, sequential)
    stacked = Run.open(tmp_path / "run")
    start = stacked.world.unmeasured_start().adapter
    one, other = (
        read_checkpoint(folder / "checkpoints/round-00001.safetensors").state.adapter
        for folder in (tmp_path / "run", sequential)
    )
    assert_same_sgd_step(one, other, start, RATE)
    config = stacked.config
    assert (config.engine, config.workers) == (engine, 2 if "workers" in engine else None)


@pytest.mark.slow
def test_resumed_stacks_give_the_same_bytes(tmp_path: Path) -> None:
    run(tmp_path / "whole", "rounds=3", "engine=batched")
    run(tmp_path / "part", "engine=batched")
    Experiment.resume(tmp_path / "part", more_rounds=1)
    for name in ("rounds.jsonl", "checkpoints/round-00003.safetensors"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_methods_that_prune_are_stacked_too(tmp_path: Path) -> None:
    run(tmp_path / "one", *STEP, "method=jcpba")
    ours = run(tmp_path / "run", *STEP, "method=jcpba", "engine=batched")
    assert any(client.get("pruning_rate") for client in ours[0]["clients"])
    assert_same_records(ours, tmp_path / "one")


def test_what_cannot_be_stacked_runs_one_by_one_and_says_so(
    airtune: Any, sequential: Path, tmp_path: Path
) -> None:
    settings = quick("adapter.dropout=0.1", "engine=batched")
    code, out, err = airtune("run", "--out", tmp_path / "run", *settings)
    assert code == 0, err
    assert "Engine: sequential on cpu (not batched: adapter.dropout is above 0)." in out + err
    assert Run.open(tmp_path / "run").config.engine == "sequential"
    # An older run names its engine, but neither its number of workers nor its device.
    shutil.copytree(sequential, tmp_path / "old")
    path = tmp_path / "old/experiment.yaml"
    newer = ("workers", "device:")
    path.write_text("\n".join(x for x in path.read_text().splitlines() if not x.startswith(newer)))
    old = Experiment.resume(tmp_path / "old").config
    assert (old.workers, old.device) == (None, "cpu")


def test_profile_says_where_the_seconds_went(airtune: Any, tmp_path: Path) -> None:
    code, out, err = airtune(
        "run", "--out", tmp_path / "run", "--profile", *quick("engine=batched")
    )
    assert code == 0, err
    lines = [line.split() for line in out.splitlines()]
    rows = {words[0]: words[1] for words in lines if words[:1] and words[0] in (*STAGES, "other")}
    assert list(rows) == [*STAGES, "other"]
    assert float(rows["tune"]) > 0
    for line in (tmp_path / "run/timing.jsonl").open():
        timing = json.loads(line)
        assert sum(timing["stages"].values()) <= timing["real_s"] * 1.01
        assert set(timing["stages"]) == set(STAGES)
    assert "stages" not in (tmp_path / "run/rounds.jsonl").read_text()
