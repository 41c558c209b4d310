"""Methods that split the model, killed in the middle of a run and resumed, to the same bytes."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from airtune import Experiment
from tests.cli.conftest import quick
from tests.cli.test_run import fingerprint

KEPT = ("rounds=5", "training.local_steps=2", "training.keep_optimizer=true", "data.score_rows=0")
CASES = {
    "hsfl": ("seed=1",),
    "hsfl-rarely": ("hsfl.client_halves=averaged", "hsfl.cuts=common", "hsfl.aggregate_every=3"),
    "epsl": ("training.batch_size=4", "epsl.gradient_dtype=int8", "cohort.dropout=0.3"),
    "epsl-averaged": (
        "epsl.client_halves=averaged",
        "epsl.uplink_dtype=int8",
        "adapter.dropout=0.2",
    ),
    "fedsl": (
        "fedsl.cut_dropout=0.4",
        "fedsl.pruning_rate=0.3",
        "fedsl.aggregate_every=3",
        "adapter.dropout=0.2",
    ),
    "fedsl-target": ("fedsl.latency_target_s=0.12", "cohort.dropout=0.3"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_and_resumed_to_the_same_bytes(case: str, tmp_path: Path) -> None:
    """Killed after its second round: halves, moments, cuts and draws go on as they were."""
    method = case.partition("-")[0]
    settings = quick(f"method={method}", *KEPT, *CASES[case])[1::2]
    whole = Experiment.load(None, settings).run(tmp_path / "whole")
    code = f"""
import os, signal
from airtune import Experiment

def kill(record):
    if record.round == 2:
        os.kill(os.getpid(), signal.SIGKILL)

Experiment.load(None, {settings!r}).run({str(tmp_path / "killed")!r}, kill)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    Experiment.resume(tmp_path / "killed")
    assert fingerprint(tmp_path / "killed") == fingerprint(whole.folder.path)
