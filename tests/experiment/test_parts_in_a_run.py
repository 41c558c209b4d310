"""A user's part that raises in a run: named with round, client and line, here and in a worker."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import airtune, quick  # noqa: F401 (a fixture)

Call = Callable[..., tuple[int, str, str]]

MODULE = """
from airtune.tuning.tuner import FullTuner, Tuner

class Raises(Tuner):
    def tune(self, start, plan, context):
        if context.round_index == 1 and plan.client == 1:
            return {}["missing"]
        return FullTuner().tune(start, plan, context)
"""


@pytest.mark.parametrize("engine", ["sequential", pytest.param("workers", marks=pytest.mark.slow)])
def test_a_tuner_that_raises(airtune: Call, tmp_path: Path, engine: str) -> None:  # noqa: F811
    (tmp_path / f"parts_{engine}.py").write_text(MODULE)
    changes = quick(f"tuner=parts_{engine}:Raises", f"engine={engine}", "data.score_rows=0")
    code, _, error = airtune("run", *changes, "--out", "run", "--quiet")
    assert code == 2
    assert error.startswith(
        f"airtune: The tuner parts_{engine}:Raises in round 2 for client 1 failed: KeyError: "
        "'missing' ("
    )
    assert error.endswith(
        f"parts_{engine}.py, line 7): mend it, then run the command again, or `airtune resume` a "
        "run that has begun.\n"
    )
    assert len((tmp_path / "run" / "rounds.jsonl").read_text().splitlines()) == 1


PLANNER = """
from airtune.federated.method import Planner
from airtune.round_plan import Plan

class Noted(Planner):
    def plan(self, view, state):
        with open("planned.txt", "a") as file:
            file.write(f"{view.round_index + 1} ")
        count = len(view.cohort)
        clients = tuple(view.full_plan(i, view.bandwidth_hz / count) for i in range(count))
        return Plan(clients, view.latency_s(clients), None, "feasible", "equal shares")
"""


def test_every_round_is_planned_once(
    airtune: Call,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "noting.py").write_text(PLANNER)
    changes = quick("planner=noting:Noted", "data.score_rows=0", "rounds=2")
    assert airtune("run", *changes, "--dry-run")[0] == 0
    assert airtune("run", *changes, "--out", "run", "--quiet")[0] == 0
    assert airtune("resume", "run", "--rounds", "+1", "--quiet")[0] == 0
    assert (tmp_path / "planned.txt").read_text() == "1 1 2 3 "
