"""Every file that ships under examples/ is read and solved."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import airtune
from airtune.experiment.reading import read_config
from airtune.methods.plan import load_problem, names_a_model
from tests.cli.conftest import quick

ROOT = Path(airtune.__file__).parents[2] / "examples"
FILES = sorted(ROOT.glob("*.yaml"))


@pytest.mark.skipif(not ROOT.is_dir(), reason="airtune is installed without its examples")
def test_there_is_one_per_method() -> None:
    names = "jcpba", "tsfa", "sflllm", "fedsllm", "latency_energy", "client_selection"
    assert {path.stem for path in FILES} >= set(names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_examples_solve(path: Path) -> None:
    if names_a_model(load_problem(path)):
        pytest.skip("named models are solved in tests/planning")
    planned = airtune.plan(path)
    assert not isinstance(planned, list)
    assert planned.answer["status"] in ("optimal", "feasible")
    assert planned.solution.check is not None
    assert planned.solution.check.passed


def script(name: str) -> ModuleType:
    """A script of examples/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return script("draw_latency")


@pytest.mark.skipif(not ROOT.is_dir(), reason="airtune is installed without its examples")
class TestDrawing:
    """`draw_latency.py`, with few values: every solver has a curve, every axis a unit."""

    @pytest.mark.slow
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

    @pytest.mark.slow
    def test_more_clients_in_one_band_are_slower(self, module: ModuleType) -> None:
        for axes in module.against_clients((1, 2)).axes:
            assert list(axes.lines[0].get_xdata()) == [4, 8]
            few, many = axes.lines[0].get_ydata()
            assert few < many


@pytest.mark.skipif(not ROOT.is_dir(), reason="airtune is installed without its examples")
class TestOneRound:
    """`one_round.py` against `airtune run`: the same operations in the same order."""

    @pytest.mark.parametrize(
        "changes",
        [
            ("training.schedule=cosine", "training.local_steps=2"),
            (
                "cell.csi_error_db=3",  # a plan for another channel than the one that is charged
                "fedlora.uplink_dtype=bf16",
                "fedlora.downlink_dtype=fp16",
                "training.keep_optimizer=false",
            ),
        ],
        ids=["as built in", "rounded, with channel errors"],
    )
    def test_its_numbers_are_those_of_a_run(self, changes: tuple[str, ...], tmp_path: Path) -> None:
        settings = quick(*changes)[1::2]
        run = airtune.Experiment.load(None, settings).run(tmp_path / "run")
        twin = list(script("one_round").rounds(read_config(None, settings)))
        assert len(twin) == len(run.records) == 2
        for record, plain in zip(run.records, twin, strict=True):
            # To the last bit: FLOPs are whole numbers, and everything else is computed alike.
            assert {name: record[name] for name in plain} == plain

    def test_it_uses_public_names_alone(self) -> None:
        assert not re.search(r"\b_[a-z]|\._", (ROOT / "one_round.py").read_text())
