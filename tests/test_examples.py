"""Every file that ships under examples/ is read and solved."""

from pathlib import Path

import pytest

import airtune
from airtune.problems import load_problem, names_a_model

ROOT = Path(airtune.__file__).parents[2] / "examples"
FILES = sorted(ROOT.glob("*.yaml"))


@pytest.mark.skipif(not ROOT.is_dir(), reason="airtune is installed without its examples")
def test_there_is_one_per_method() -> None:
    assert {path.stem for path in FILES} >= {"jcpba", "tsfa", "sflllm", "fedsllm"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_examples_solve(path: Path) -> None:
    if names_a_model(load_problem(path)):
        pytest.skip("named models are solved in tests/problems")
    planned = airtune.plan(path)
    assert not isinstance(planned, list)
    assert planned.answer["status"] in ("optimal", "feasible")
    assert planned.solution.check is not None
    assert planned.solution.check.passed
