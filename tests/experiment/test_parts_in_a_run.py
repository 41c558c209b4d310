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
