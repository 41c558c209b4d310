"""`airtune compare` on runs of a few seconds."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airtune.comparison.definition import read_comparison
from airtune.comparison.results import write_results
from airtune.comparison.runs import run_comparison
from airtune.experiment import Experiment
from airtune.federated.records.record import RoundRecord
from airtune.folder_lock import locked
from airtune.jobs import pool
from airtune.jobs.job import Unwatched
from tests.cli.conftest import airtune, quick

Call = Callable[..., tuple[int, str, str]]
__all__ = ["airtune"]

ARMS = "fedlora:bandwidth=equal,jcpba"


def settings(*changes: str) -> list[str]:
    return quick("data.score_rows=0", *changes)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms, two rounds, one seed."""
    folder = tmp_path_factory.mktemp("compare") / "two"
    asked = read_comparison(None, ARMS.split(","), settings()[1::2])
    run_comparison(asked, folder)
    return folder


def _stamps(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("rounds.jsonl")}


def test_finished_runs_are_not_repeated(airtune: Call, compared: Path) -> None:
    before = _stamps(compared)
    assert sorted(path.parent.parent.name for path in compared.rglob("rounds.jsonl")) == [
        "fedlora-bandwidth=equal",
        "jcpba",
    ]
    code, out, err = airtune(
        "compare", "--methods", ARMS, "--out", compared, *settings(), "--target-loss", "1e-3"
    )
    assert (code, err) == (0, "")
    assert _stamps(compared) == before
    assert out.count("not reached (best ") == 2
    assert "The target was not reached by fedlora:bandwidth=equal (best" in out
    page = (compared / "report.html").read_text()
    assert 'href="jcpba/seed-0/report.html"' in page
    rows = list(csv.DictReader((compared / "comparison.csv").open()))
    assert [row["arm"] for row in rows] == ["fedlora:bandwidth=equal", "jcpba"]
    assert {row["to_target_virtual_time_s"] for row in rows} == {""}
    curves = list(csv.DictReader((compared / "curves.csv").open()))
    assert [row["round"] for row in curves] == ["0", "1", "2"] * 2


def test_several_targets(airtune: Call, compared: Path) -> None:
    shares = ("--target-share", "0.5,1")
    code, out, _ = airtune("compare", "--methods", ARMS, "--out", compared, *settings(), *shares)
    assert code == 0
    assert "Time to a share of the descent of fedlora:bandwidth=equal" in out
    numbers = json.loads((compared / "comparison.json").read_text())
    assert [entry["share"] for entry in numbers["targets"]] == [0.5, 1.0]
    assert numbers["targets"][1]["target_loss"] == numbers["target_loss"]
    page = (compared / "report.html").read_text()
    assert "Several targets" in page
    assert "Energy of the clients to a share of the descent" in page


def test_json_and_the_default_target(airtune: Call, compared: Path) -> None:
    code, out, _ = airtune("compare", "--methods", ARMS, "--out", compared, *settings(), "--json")
    assert code == 0
    numbers = json.loads(out)
    assert numbers == json.loads((compared / "comparison.json").read_text())
    first, second = numbers["arms"]
    assert numbers["target_source"] == "first arm"
    assert numbers["target_loss"] == first["best_test_loss"]["max"]
    assert first["to_target"] is not None
    records = [
        json.loads(line)
        for line in (compared / "jcpba" / "seed-0" / "rounds.jsonl").read_text().splitlines()
    ]
    (run,) = second["runs"]
    assert run["total"]["virtual_time_s"] == pytest.approx(records[-1]["virtual_time_s"])
    assert run["total"]["energy_j"] == pytest.approx(sum(r["energy_j"] for r in records))
    # Same cell and devices: rates per hertz in round 1 differ only by the share of the band.
    assert second["ratio"]["seconds_a_round"] < 1.0


@pytest.mark.slow
def test_runs_side_by_side_are_the_same_runs(compared: Path, tmp_path: Path) -> None:
    """Two processes; one arm fails there, and the other's records are those of a run alone."""
    heard: list[tuple[str, int, int]] = []

    class Listening(Unwatched):
        def round_done(self, arm: str, seed: int, record: RoundRecord) -> None:
            heard.append((arm, seed, record["round"]))

    asked = read_comparison(None, ["jcpba"], settings()[1::2])
    broken = read_comparison(None, ["fedlora"], settings("charge_as=llama-3.1-70b")[1::2]).arms[0]
    both = replace(asked, arms=(*asked.arms, broken))
    done, failed = run_comparison(both, tmp_path / "out", Listening(), jobs=2)
    assert failed.failure is not None
    assert "memory of client 0" in failed.failure
    assert heard == [("jcpba", 0, 1), ("jcpba", 0, 2)]
    alone = (compared / "jcpba" / "seed-0" / "rounds.jsonl").read_bytes()
    assert (done.folder / "rounds.jsonl").read_bytes() == alone


def test_interrupted_and_made_longer(compared: Path, tmp_path: Path) -> None:
    """An unfinished run goes on, a finished one is extended, both to the bytes of a whole one."""
    shorter = read_comparison(None, ["fedlora"], settings("rounds=1")[1::2])
    (done,) = run_comparison(shorter, tmp_path / "out")
    assert len(done.records) == 1
    (done.folder / "summary.json").unlink()
    longer = read_comparison(None, ["fedlora"], settings("rounds=3")[1::2])
    (result,) = run_comparison(longer, tmp_path / "out")
    assert result.failure is None
    assert len(result.records) == 3
    Experiment.load(None, settings("rounds=3")[1::2]).run(tmp_path / "whole")
    whole = (tmp_path / "whole" / "rounds.jsonl").read_bytes()
    assert (result.folder / "rounds.jsonl").read_bytes() == whole


def test_other_settings_are_refused(airtune: Call, compared: Path) -> None:
    before = _stamps(compared)
    changed = settings("cell.radius_m=150", "adapter.rank=3")
    code, _, err = airtune("compare", "--methods", ARMS, "--out", compared, *changed)
    assert (code, err.count("\n")) == (2, 1)
    assert "the run in it has another adapter.rank, cell.radius_m" in err
    assert _stamps(compared) == before


def test_one_comparison_a_folder(airtune: Call, compared: Path) -> None:
    before = _stamps(compared)
    with locked(compared):
        code, _, err = airtune("compare", "--methods", ARMS, "--out", compared, *settings())
    assert (code, err.count("\n")) == (2, 1)
    assert "is in use by another airtune process" in err
    assert _stamps(compared) == before


def test_a_failing_arm_does_not_lose_the_others(
    airtune: Call, compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Experiment, *arguments: Any) -> None:
        raise RuntimeError("loose cable")

    monkeypatch.setattr(Experiment, "run", broken)
    code, out, _ = airtune(
        "compare", "--methods", f"{ARMS},fedlora", "--out", compared, *settings()
    )
    assert code == 1
    assert "fedlora, seed 0, failed: RuntimeError: loose cable (traceback in seed-0" in out
    assert "loose cable" in (compared / "fedlora" / "seed-0.error.txt").read_text()
    numbers = json.loads((compared / "comparison.json").read_text())
    assert [arm["finished"] for arm in numbers["arms"]] == [1, 1, 0]
    code, _, err = airtune("compare", "--methods", "fedlora", "--out", tmp_path / "x", *settings())
    assert code == 2
    assert "No run of the first arm, fedlora, finished" in err


def test_interruption_is_explained(
    airtune: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "run_in_forks", interrupted)
    code, _, err = airtune("compare", "--methods", ARMS, "--out", "out", *settings())
    assert code == 130
    assert "the same command continues from there" in err


def test_dry_run_writes_nothing(airtune: Call, tmp_path: Path) -> None:
    code, out, _ = airtune(
        "compare", "--methods", ARMS, "--out", "out", *settings(), "--dry-run", "--json"
    )
    assert code == 0
    assert [entry["arm"] for entry in json.loads(out)] == ["fedlora:bandwidth=equal", "jcpba"]
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_run_is_left_alone(airtune: Call, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "experiment.yaml").write_text("rounds: 1\n")
    (tmp_path / "run" / "report.html").write_text("the run's own")
    code, _, err = airtune("compare", "--methods", ARMS, "--out", "run", *settings())
    assert (code, err.count("\n")) == (2, 1)
    assert "it holds a run, whose report would be lost; choose another one." in err
    assert (tmp_path / "run" / "report.html").read_text() == "the run's own"
    assert len(list((tmp_path / "run").iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "--methods is missing"),
        (("--methods", "fedlora,jcbpa"), "arm jcbpa: method is jcbpa"),
        (("--methods", "fedlora", "--target-loss", "0"), "target_loss is 0.0"),
        (("--methods", "fedlora", "--target-share", "95 %"), "--target-share is 95 %"),
        (("--methods", "fedlora", "--target-share", "0.9,95"), "target_share"),
        (("--methods", "fedlora", "--target-share", "nan"), "target_share"),
        (("missing.yaml",), "missing.yaml, but it must be a file that exists"),
    ],
)
def test_wrong_input(
    airtune: Call, tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    code, out, err = airtune("compare", *arguments, "--out", "out")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert sentence in err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_notices_of_runs_are_those_of_the_comparison(tmp_path: Path) -> None:
    """A tenth held out: once, in the numbers and on the page."""
    rows = [{"prompt": f"p{k}", "completion": f"c{k}"} for k in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = read_comparison(
        None, ARMS.split(","), settings(f"data.train={tmp_path}/rows.jsonl", "rounds=1")[1::2]
    )
    numbers = write_results(asked, run_comparison(asked, tmp_path / "out"), tmp_path / "out")
    (notice,) = [told for told in numbers["notices"] if "a tenth of its prompts" in told]
    assert notice in (tmp_path / "out" / "report.html").read_text()
