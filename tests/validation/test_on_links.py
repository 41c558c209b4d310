"""A validation in namespaces: rows, files, and nothing left behind."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airtune.deploy.links import unavailable

REASON = unavailable()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]
DEVICES = """
slow: {training_flop_rate: 2.0e+9, memory_bytes: 4.0e+9, computing_power_w: 5, tx_power_dbm: 23,
  unusual_values: training_flop_rate, sources: {training_flop_rate: x, memory_bytes: x,
  computing_power_w: x, tx_power_dbm: x}}
"""
SETTINGS = (
    "clients.count=2",
    "clients.devices=slow",
    "adapter.rank=16",
    "training.local_steps=2",
    "training.batch_size=1",
    "data.train_limit=60",
    "data.test_limit=8",
    "data.score_rows=0",
)


def command(place: Path, *more: str) -> list[str]:
    (place / "devices.yaml").write_text(DEVICES)
    settings = (*SETTINGS, f"clients.device_file={place / 'devices.yaml'}")
    given = [part for setting in settings for part in ("--set", setting)]
    own = ("--rounds", "2", "--out", str(place / "out"), "--computing", "emulated")
    return [sys.executable, "-m", "airtune", "validate", *given, *own, *more]


def namespaces() -> set[str]:
    shown = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in shown.stdout.splitlines() if line.strip()}


def test_prediction_and_measurement_agree(tmp_path: Path) -> None:
    before = namespaces()
    done = subprocess.run(
        command(tmp_path, "--json", "--against", "fedlora:bandwidth=equal"),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["emulated"]
    assert "EMULATED" in result["computing_words"]
    for arm in result["arms"]:
        assert arm["rounds"] == 2
        # Wide, for a machine that does other things meanwhile.
        assert arm["summary"]["transfers"]["median"] < 0.15
        assert arm["summary"]["counters"]["frames"]["ratio"] == pytest.approx(1.03, abs=0.03)
    assert result["gains"][0]["predicted"] > 0
    folder = tmp_path / "out"
    assert json.loads((folder / "validation.json").read_text()) == result
    rows = list(csv.DictReader((folder / "rows.csv").open()))
    assert len(rows) == sum(len(arm["rows"]) for arm in result["arms"])
    assert "EMULATED" in (folder / "report.html").read_text().upper()
    assert not namespaces() - before


@pytest.mark.usefixtures("heard_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_validation_leaves_nothing(tmp_path: Path, number: int) -> None:
    process = subprocess.Popen(command(tmp_path, "--quiet"), stderr=subprocess.PIPE, text=True)
    log = tmp_path / "out" / "fedlora" / "client-0.log"
    until = time.monotonic() + 240
    while not (log.exists() and "is ready" in log.read_text()):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.2)
    made = {name for name in namespaces() if name.startswith(f"airtune-{process.pid}-")}
    assert len(made) == 3
    os.kill(process.pid, number)
    assert process.wait(60) != 0
    assert not made & namespaces()
