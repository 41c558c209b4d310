"""200 mutated experiment files through `airtune run --dry-run`: an answer or one sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.forked import CPU_S, MEMORY_BYTES

COUNT = 200
LEAST_VALID = 0.3
ROOT = Path(__file__).parents[2]


def faults(run: dict[str, Any]) -> list[str]:
    """What is wrong with how a dry run ended."""
    told, code = run["err"], run["code"]
    found = []
    if code not in (0, 2, 3):
        found.append(f"exit code {code}")
    if code == 0 and (told or not run["out"]):
        found.append("a good answer is on standard output, alone")
    if code != 0 and (
        not told.startswith("airtune: ")
        or told.count("\n") != 1
        or not told.endswith((".\n", "?\n"))  # "did you mean ...?" is the end of some
    ):
        found.append("not one sentence")
    if code != 0 and run["out"]:
        found.append("half an answer beside a refusal")
    # Not "unexpected" alone, which is also PyYAML's word for a file that ends early.
    if "Traceback" in told or "Warning" in told or "a fault of airtune" in told:
        found.append("a traceback or a warning")
    if run["cpu_s"] > CPU_S or run["memory_bytes"] > MEMORY_BYTES:
        found.append(f"{run['cpu_s']:.1f} s of processor time, {run['memory_bytes']} bytes")
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_mutated_experiments_end_in_an_answer_or_a_sentence() -> None:
    # Threads of one process only; others would be lost in each fork.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    driver = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.experiments", "0", str(COUNT)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    runs = [json.loads(line) for line in driver.stdout.splitlines()]
    assert len(runs) == COUNT
    wrong = {
        run["seed"]: (told, run["set"], run["err"][-400:]) for run in runs if (told := faults(run))
    }
    assert wrong == {}
    valid = sum(run["code"] == 0 for run in runs)
    assert valid >= LEAST_VALID * COUNT
