"""Client selection as `airtune plan` has it: files, answers, refusals, and a cell."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import airtune
from airtune.errors import InputError
from airtune.files import read_yaml_mapping
from airtune.methods.registry import find_method
from tests.cli import conftest

command = conftest.airtune
Command = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "client_selection.yaml"
CELL = ROOT / "examples" / "client_selection_cell.yaml"
SOLVERS = ("exact", "greedy", "random")


def example(**changes: Any) -> dict[str, Any]:
    """The shipped problem with some keys changed, or taken out (None)."""
    problem = {**read_yaml_mapping(EXAMPLE, "problem"), **changes}
    return {key: value for key, value in problem.items() if value is not None}


def answer(problem: dict[str, Any], solver: str | None = None) -> dict[str, Any]:
    planned: Any = airtune.plan(problem, solver)
    found: dict[str, Any] = planned.answer
    return found


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_answer_says_who_takes_part_and_when_each_one_ends(solver: str) -> None:
    found = answer(example(), solver)
    chosen = [row for row in found["clients"] if row["takes_part"]]
    assert found["taking_part"] == len(chosen) > 0
    assert sum(row["weight"] for row in chosen) == pytest.approx(found["weight_share"])
    assert sum(row["weight"] for row in found["clients"]) == pytest.approx(1.0)
    assert sum(row["bandwidth_hz"] for row in chosen) == pytest.approx(2e6)
    assert max(row["finish_s"] for row in chosen) == pytest.approx(found["latency_s"])
    assert found["latency_s"] <= 10.0 * (1 + 1e-9)
    assert found["weight_share"] <= found["most_weight_share"] * (1 + 1e-9)
    for row in found["clients"]:
        if row["takes_part"]:
            assert row["finish_s"] == pytest.approx(row["start_s"] + row["upload_s"])
        else:
            assert row["finish_s"] is None
            assert row["bandwidth_hz"] == 0.0


def test_the_two_questions_have_one_answer() -> None:
    within = answer(example())
    soonest = answer(example(deadline_s=None, weight_share=within["weight_share"]))
    assert soonest["latency_s"] == pytest.approx(within["latency_s"], rel=1e-9)
    for one, other in zip(soonest["clients"], within["clients"], strict=True):
        assert one["takes_part"] == other["takes_part"]
    assert soonest["lower_bound_s"] == pytest.approx(soonest["latency_s"], rel=1e-9)
    assert soonest["most_weight_share"] is None
    assert within["lower_bound_s"] is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"deadline_s": None}, "deadline_s and weight_share is left out"),
        ({"weight_share": 0.5}, "deadline_s and weight_share is both given"),
        ({"deadline_s": None, "weight_share": 0}, "weight_share is 0"),
        ({"deadline_s": None, "weight_share": 1.2}, "weight_share is 1.2"),
        ({"deadline_s": -1}, "deadline_s is -1"),
        ({"rate_model": "cqi"}, "rate_model is cqi"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as refused:
        answer(example(**changes))
    assert words in str(refused.value)


def test_an_impossible_deadline_says_which_one_would_do(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "problem.yaml"
    path.write_text(EXAMPLE.read_text().replace("deadline_s: 10 ", "deadline_s: 1 "))
    code, out, _ = command("plan", path, "--json")
    found = json.loads(out)
    assert code == 3
    assert found["status"] == "infeasible"
    assert found["clients"] is None
    assert "No client ends within 1 s: the least deadline that one does is" in found["message"]
    assert "client laptop's alone" in found["message"]


def test_in_a_cell_weights_are_the_examples() -> None:
    problem = read_yaml_mapping(CELL, "problem")
    found = answer(problem)
    examples = np.array(problem["clients"]["examples"], dtype=float)
    weights = [row["weight"] for row in found["clients"]]
    assert weights == pytest.approx(examples / examples.sum())
    assert found["weight_share"] >= 0.8
    assert found["latency_s"] < answer({**problem, "weight_share": 1.0})["latency_s"]
    for changes in ({"deadline_s": 100.0}, {"weight_share": None}):
        with pytest.raises(InputError, match="one of the two"):
            answer({key: value for key, value in {**problem, **changes}.items() if value})


def test_it_is_a_planning_problem_alone() -> None:
    spec = find_method("client_selection")
    assert spec.compose is None
    assert spec.problem is not None
    assert tuple(spec.problem.load().SOLVERS) == SOLVERS
