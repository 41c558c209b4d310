"""Every file that ships under examples/ is read and solved."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import airtune
from airtune.methods.plan import load_problem, names_a_model

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


@pytest.fixture(scope="module")
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_latency", ROOT / "draw_latency.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.skipif(not ROOT.is_dir(), reason="airtune is installed without its examples")
class TestDrawing:
    """`draw_latency.py`, with few values: every solver has a curve, every axis a unit."""

    def test_more_band_is_faster(self, module: ModuleType) -> None:
        figure = module.against_bandwidth((1.0, 4.0))
        assert len(figure.axes) == 4
        for axes in figure.axes:
            assert axes.get_xlabel() == "bandwidth (MHz)"
            assert axes.get_ylabel().endswith("(s)")
            assert [line.get_label() for line in axes.lines] == module.solvers(axes.get_title())
            for line in axes.lines:
                slow, fast = line.get_ydata()
                assert 0 < fast < slow

    def test_a_larger_pruning_budget_is_never_slower(self, module: ModuleType) -> None:
        [axes] = module.against_budget((0.0, 0.3, 0.6)).axes
        assert len(axes.lines) == 6
        for line in axes.lines:
            assert (np.diff(line.get_ydata()) <= 1e-12).all()

    def test_more_clients_in_one_band_are_slower(self, module: ModuleType) -> None:
        for axes in module.against_clients((1, 2)).axes:
            assert list(axes.lines[0].get_xdata()) == [4, 8]
            few, many = axes.lines[0].get_ydata()
            assert few < many
