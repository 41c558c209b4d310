"""`airtune pareto`: a front by weights or budgets, as table, csv, JSON and figure."""

import csv
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.cli import conftest

Command = Callable[..., tuple[int, str, str]]
command = conftest.airtune
EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE = EXAMPLES / "latency_energy.yaml"


def test_the_front_is_monotone_and_every_point_is_proven(command: Command, tmp_path: Path) -> None:
    code, out, err = command("pareto", EXAMPLE, "--csv", tmp_path / "f.csv")
    assert (code, err) == (0, "")
    assert "Wrote" in out
    with (tmp_path / "f.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["solver"] == "exact"]
    assert len(rows) == 25
    latency = [float(row["latency_s"]) for row in rows]
    energy = [float(row["energy_j"]) for row in rows]
    weight = [float(row["weight_s_per_j"]) for row in rows]
    assert weight == sorted(weight)
    assert all(b >= a * (1 - 1e-9) for a, b in pairwise(latency))
    assert all(b <= a * (1 + 1e-9) for a, b in pairwise(energy))
    assert latency[-1] > 1.2 * latency[0]
    assert energy[-1] < 0.7 * energy[0]
    assert {row["status"] for row in rows} == {"optimal"}
    # The plan of each weight is that of `airtune plan`.
    for index in (0, 12, 24):
        code, out, _ = command(
            "plan", EXAMPLE, "--sweep", f"weight_s_per_j={weight[index]!r}", "--json"
        )
        [answer] = json.loads(out)
        assert answer["latency_s"] == pytest.approx(latency[index], rel=1e-9)
        assert answer["energy_j"] == pytest.approx(energy[index], rel=1e-9)


def test_a_budget_and_its_price_are_one_point(command: Command) -> None:
    code, out, _ = command("pareto", EXAMPLE, "--budgets", "180,160", "--json")
    rows = [row for row in json.loads(out) if row["solver"] == "exact"]
    # The weight of the file is 0.1: its plan spends less than both budgets.
    assert code == 0
    assert [row["budget_j"] for row in rows] == [180, 160]
    assert len({row["latency_s"] for row in rows}) == 1
    code, out, _ = command("pareto", EXAMPLE, "--budgets", "145", "--json")
    [row, *_] = json.loads(out)
    assert row["energy_j"] == pytest.approx(145)
    code, out, _ = command("pareto", EXAMPLE, "--weights", repr(row["joule_worth_s"]), "--json")
    [same, *_] = json.loads(out)
    assert same["latency_s"] == pytest.approx(row["latency_s"], rel=1e-6)
    assert same["energy_j"] == pytest.approx(145, rel=1e-6)


def test_the_figure_is_the_same_bytes_every_time(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a", "b"):
        path = tmp_path / f"{name}.svg"
        assert command("pareto", EXAMPLE, "--weights", "0,0.1,1", "--figure", path)[0] == 0
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()


def test_a_model_and_a_cell_have_a_front_too(command: Command) -> None:
    code, out, _ = command("pareto", EXAMPLES / "latency_energy_cell.yaml", "--weights", "0,1")
    assert code == 0
    assert "minmax" in out
    assert "equal" in out


def test_points_without_a_plan_are_said_and_exit_with_3(command: Command) -> None:
    code, out, _ = command("pareto", EXAMPLE, "--budgets", "1,160")
    assert code == 0
    assert "The energy budget of 1 J is too small" in out
    code, out, _ = command("pareto", EXAMPLE, "--budgets", "1,2")
    assert code == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--weights", "0,x"), "--weights is 0,x, but it must be numbers separated by commas"),
        (("--weights", "-1"), "--weights is -1.0, but it must be numbers of at least 0"),
        (("--budgets", "0"), "--budgets is 0.0, but it must be numbers above 0"),
        (("--weights", "1", "--budgets", "1"), "--budgets"),
        (("--weights", "inf"), "deadline_s"),
        (("--figure", "front.gif"), "--figure is front.gif, but it must be a file that ends in"),
    ],
)
def test_wrong_use_is_one_sentence(
    command: Command, arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = command("pareto", EXAMPLE, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_a_problem_without_a_front_is_refused(command: Command) -> None:
    code, _, err = command("pareto", EXAMPLES / "jcpba.yaml")
    assert code == 2
    assert "method is jcpba, but it must be one that weighs latency against energy" in err
