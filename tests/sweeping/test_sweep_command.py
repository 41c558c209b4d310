"""`airtune sweep` on training runs of seconds, and on planning problems."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from airtune.errors import InputError
from airtune.experiment import Experiment
from airtune.experiment.environment import PACKAGES
from airtune.folder_lock import locked
from airtune.jobs import pool
from airtune.sweeping import SweepResult, sweep
from tests.cli.conftest import airtune, quick
from tests.test_examples import ROOT

Call = Callable[..., tuple[int, str, str]]
__all__ = ["airtune"]

PROBLEM = ROOT / "jcpba.yaml"
SETTINGS = [
    setting
    for setting in quick("rounds=1", "data.score_rows=0")[1::2]
    if not setting.startswith("adapter.rank")
]
GRID: dict[str, list[Any]] = {"adapter.rank": [2, 0, 4], "cell.bandwidth_hz": [1e6]}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    """Two points of one round, and one that is refused."""
    out = tmp_path_factory.mktemp("sweep") / "ranks"
    return sweep(None, GRID, out=out, settings=SETTINGS, jobs=2)


def arguments(swept: SweepResult, *others: Any) -> list[Any]:
    """The command of the fixture."""
    keys = ["adapter.rank=2,0,4", "cell.bandwidth_hz=1e6"]
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    return ["sweep", *keys, "--out", swept.folder, *sets, *others]


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("environment.json", "timing.jsonl", ".lock")
    }


def test_a_run_in_a_warm_process_is_that_of_the_single_command(
    swept: SweepResult, tmp_path: Path
) -> None:
    """Every file but the real seconds, byte for byte; environment.json but for the command."""
    settings = [*SETTINGS, "adapter.rank=4", "cell.bandwidth_hz=1e6"]
    Experiment.load(None, settings).run(tmp_path / "alone")
    warm = swept.folder / str(swept.rows[2].folder)
    alone = _files(tmp_path / "alone")
    assert alone.keys() >= {"rounds.jsonl", "adapter/adapter_model.safetensors", "report.html"}
    assert _files(warm) == alone
    mine, other = (
        json.loads((folder / "environment.json").read_text())
        for folder in (warm, tmp_path / "alone")
    )
    for facts in (mine, other):
        facts.pop("command")
        # Other tests of this process may have imported optional packages.
        facts["packages"] = {name: facts["packages"][name] for name in PACKAGES}
        for session in facts["sessions"]:
            session.pop("command")
    assert mine == other


def test_the_table_and_its_files(airtune: Call, swept: SweepResult) -> None:
    """Run again, the command reads what is there; a refused point is a row with its sentence."""
    stamps = {path: path.stat().st_mtime_ns for path in swept.folder.rglob("rounds.jsonl")}
    assert len(stamps) == 2
    code, out, err = airtune(*arguments(swept))
    assert (code, err) == (0, "")
    assert "adapter.rank is 0, but it must be" in out
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    lines = [line.split() for line in out.splitlines()]
    assert [line[-1] for line in lines if line[1:2] == ["1e6"]] == [
        "finished",
        "refused",
        "finished",
    ]
    code, out, _ = airtune(*arguments(swept, "--json"))
    assert code == 0
    found = json.loads(out)
    assert found == json.loads((swept.folder / "sweep.json").read_text()) == swept.plain
    assert [row["adapter.rank"] for row in found["rows"]] == [2, 0, 4]
    assert [row["state"] for row in found["rows"]] == ["finished", "refused", "finished"]
    rows = list(csv.DictReader((swept.folder / "sweep.csv").open()))
    assert [row["seed"] for row in rows] == ["0", "", "0"]
    record = json.loads((swept.folder / rows[2]["folder"] / "rounds.jsonl").read_text())
    assert float(rows[2]["final_test_loss"]) == record["test_loss"]
    assert float(rows[2]["energy_j"]) == record["energy_j"]
    assert float(rows[2]["uplink_bytes"]) == record["uplink_bits"] / 8
    assert rows[1]["final_test_loss"] == ""
    assert list(swept.to_frame()["point"]) == [1, 2, 3]


def test_it_goes_on_by_the_name_of_its_folder(airtune: Call, swept: SweepResult) -> None:
    table = (swept.folder / "sweep.csv").read_bytes()
    (swept.folder / "sweep.csv").unlink()
    (swept.folder / "sweep.json").unlink()
    # As if it had been killed before the summary of its last run.
    (swept.folder / str(swept.rows[2].folder) / "summary.json").unlink()
    code, _, err = airtune("resume", swept.folder, "--quiet")
    assert (code, err) == (0, "")
    assert (swept.folder / "sweep.csv").read_bytes() == table
    code, _, err = airtune("resume", swept.folder, "--rounds", "+1")
    assert (code, err.count("\n")) == (2, 1)
    assert "--rounds is +1, but it must be left out beside the folder of a sweep" in err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["adapter.rank=2,4", "cell.bandwidth_hz=1e6"], "adapter.rank (swept) (2, 0, 4 -> 2, 4)"),
        (["adapter.rank=2,0,4", "cell.bandwidth_hz=1e6", "--seeds", 2], "seeds (1 -> 2)"),
        (
            ["adapter.rank=2,0,4", "cell.bandwidth_hz=1e6", "--set", "training.batch_size=3"],
            "training.batch_size (2 -> 3)",
        ),
    ],
)
def test_another_sweep_is_refused(
    airtune: Call, swept: SweepResult, change: list[Any], words: str
) -> None:
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    before = (swept.folder / "sweep.yaml").read_bytes()
    code, _, err = airtune("sweep", *change[:2], *sets, *change[2:], "--out", swept.folder)
    assert (code, err.count("\n")) == (2, 1)
    assert f"it has another {words}: choose another --out" in err
    assert (swept.folder / "sweep.yaml").read_bytes() == before


def test_one_sweep_a_folder(airtune: Call, swept: SweepResult) -> None:
    with locked(swept.folder):
        code, _, err = airtune(*arguments(swept))
    assert (code, err.count("\n")) == (2, 1)
    assert "is in use by another airtune process" in err


def test_dry_run_lists_points_and_time(airtune: Call, swept: SweepResult, tmp_path: Path) -> None:
    code, out, _ = airtune(*arguments(swept, "--dry-run"))
    assert code == 0
    assert "2 runs, 0 of them still to be made." in out
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    code, out, _ = airtune("sweep", "adapter.rank=0,2", *sets, "--dry-run", "--json")
    found = json.loads(out)
    assert [point["state"] for point in found["points"]] == ["refused", "to run"]
    assert (found["runs"], found["left"]) == (1, 1)
    assert found["real_s"] > 0
    assert not list(tmp_path.iterdir())


def test_interruption_is_explained(
    airtune: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "run_in_forks", interrupted)
    code, _, err = airtune("sweep", "seed=0,1", "--out", "out")
    assert code == 130
    assert "airtune resume out, continues from there" in err


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((), "KEY=A,B,C is missing"),
        (("adapter.rnak=1,2",), "adapter.rnak is not a key that airtune knows"),
        (("adapter.rank=0,-1",), "adapter.rank is 0"),
        (("method=fedlroa,jpcba",), "method is fedlroa"),
        (("adapter.rank=1,2", "--set", "adapter.rank=3"), "a key that is not swept"),
        (("seed=1,2", "--seeds", "2"), "--seeds is 2, but it must be left out where seed is swept"),
        (("rounds=1,2", "file.yaml"), "KEY=A,B,C is file.yaml"),
        (("missing.yaml", "rounds=1,2"), "missing.yaml, but it must be a file that exists"),
        (("rounds=1,2", "--set", "jcpba.pruning_budget=0.35"), "jcpba.pruning_budget is 0.35"),
        (("rounds=1,2", "--solver", "bcd"), "--solver is bcd"),
        ((PROBLEM, "pruning_budget=0.1,0.2", "--seeds", "2"), "--seeds is 2"),
        ((PROBLEM, "pruning_bugdet=0.1,0.2"), "pruning_bugdet is not a key"),
        ((PROBLEM, "pruning_budget=0.1,0.2", "--solver", "x"), "solver for jcpba is x"),
    ],
)
def test_wrong_input(airtune: Call, tmp_path: Path, given: tuple[Any, ...], sentence: str) -> None:
    code, out, err = airtune("sweep", *given, "--out", "out")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert sentence in err
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_left_alone(airtune: Call, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for given in (("seed=0,1",), (PROBLEM, "pruning_budget=0.1,0.2")):
        code, _, err = airtune("sweep", *given, "--out", "mine")
        assert (code, err.count("\n")) == (2, 1)
        assert "a new folder, or that of a sweep" in err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_a_problem_is_swept_and_kept(airtune: Call, tmp_path: Path) -> None:
    given = (PROBLEM, "pruning_budget=0,0.2,-1", "bandwidth_hz=5e6,1e7", "--out", "out")
    code, out, err = airtune("sweep", *given)
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "out" / "sweep.json").read_text())
    states = [row["state"] for row in found["rows"]]
    assert states == ["infeasible"] * 2 + ["optimal"] * 2 + ["refused"] * 2
    assert "The pruning budget of 0 cannot be kept" in out
    code, out, _ = airtune("plan", PROBLEM, "--sweep", "bandwidth_hz=5e6", "--json")
    assert found["rows"][2]["latency_s"] > json.loads(out)[0]["latency_s"]
    table = (tmp_path / "out" / "sweep.csv").read_bytes()
    for path in sorted((tmp_path / "out" / "points").iterdir())[1:3]:
        path.unlink()
    assert airtune("resume", "out", "--quiet")[0] == 0
    assert (tmp_path / "out" / "sweep.csv").read_bytes() == table
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h3>Latency</h3>" in page
    # A bound that is met everywhere, and a gap of 0, would be flat or the same figure twice.
    assert "<h3>Lower bound</h3>" not in page
    assert "<h3>Gap</h3>" not in page


def test_no_plan_at_all_is_exit_code_3(airtune: Call) -> None:
    assert airtune("sweep", PROBLEM, "pruning_budget=0,0.01", "--out", "out", "--quiet")[0] == 3


def test_plans_on_several_processes_are_the_same(tmp_path: Path) -> None:
    grid = {"pruning_budget": [0.1, 0.2], "bandwidth_hz": [5e6, 1e7]}
    alone = sweep(PROBLEM, grid, out=tmp_path / "a")
    several = sweep(PROBLEM, grid, out=tmp_path / "b", jobs=2)
    assert several.plain == alone.plain


def test_rows_in_memory_are_named(tmp_path: Path) -> None:
    """By their digest; an experiment that is refused shows that they were read."""
    rows = [{"prompt": f"p{k}", "completion": f"c{k}"} for k in range(8)]
    with pytest.raises(InputError, match=r"adapter\.rank is 0"):
        sweep({"data": {"train": rows}}, {"adapter.rank": [0, -1]}, out=tmp_path / "x")
    with pytest.raises(InputError, match="no rows"):
        sweep({"data": {"train": []}}, {"adapter.rank": [1, 2]}, out=tmp_path / "x")


def test_rows_from_python(tmp_path: Path) -> None:
    result = sweep(PROBLEM, points=[{"pruning_budget": 0.1}, {"pruning_budget": 0.2}], out=tmp_path)
    assert [row.values for row in result.rows] == [{"pruning_budget": 0.1}, {"pruning_budget": 0.2}]
    assert [row.state for row in result.rows] == ["optimal", "optimal"]
    with pytest.raises(InputError, match="grid is missing"):
        sweep(PROBLEM, out=tmp_path / "x")


KILLED = 10
GRID_COMMAND = ["adapter.rank=2,4", "--seeds", "2"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_random_and_continued_to_the_same_table(tmp_path: Path) -> None:
    """Ten times the whole tree is killed where it happens to be: command, host, or one run."""
    others = [setting for setting in SETTINGS if not setting.startswith("rounds=")]
    settings = [part for setting in (*others, "rounds=3") for part in ("--set", setting)]

    def command(name: str) -> list[str]:
        base = [sys.executable, "-m", "airtune", "sweep", *GRID_COMMAND, *settings]
        return [*base, "-j", "2", "--quiet", "--out", str(tmp_path / name)]

    draw = random.Random(7)
    for kill in range(KILLED):
        sweeping = subprocess.Popen(command("killed"))
        time.sleep(draw.uniform(5.0, 30.0))
        below = _descendants(sweeping.pid)
        if kill % 2 and below:
            # A run or the host dies and the command goes on for a while.
            with suppress(ProcessLookupError):
                os.kill(draw.choice(below), signal.SIGKILL)
            time.sleep(draw.uniform(0.0, 5.0))
        with suppress(ProcessLookupError):
            os.kill(sweeping.pid, signal.SIGKILL)
        sweeping.wait()
    assert subprocess.run(command("killed"), check=False).returncode == 0
    assert subprocess.run(command("whole"), check=False).returncode == 0
    for name in ("sweep.csv", "sweep.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    whole = tmp_path / "whole"
    runs = [path.parent.relative_to(whole) for path in whole.rglob("rounds.jsonl")]
    assert len(runs) == 4
    for run in runs:
        assert _files(tmp_path / "killed" / run) == _files(whole / run)


def _descendants(process: int) -> list[int]:
    """Processes below one, from /proc."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == process:
                child = int(path.parent.name)
                found += [child, *_descendants(child)]
    return found
