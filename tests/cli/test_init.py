"""`airtune init`: files to start from, the same in the repository and in a wheel."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from airtune.comparison.definition import read_comparison
from airtune.experiment.reading import read_config
from airtune.files import read_yaml_mapping
from airtune.shipped import EXPERIMENTS, PROBLEMS, shipped_names, shipped_text

Call = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]


def test_an_example_problem_is_written_and_solved(airtune: Call, tmp_path: Path) -> None:
    code, out, err = airtune("init", "--problem", "jcpba")
    assert (code, err) == (0, "")
    assert out == "Wrote jcpba.yaml. Change what you like, then: airtune plan jcpba.yaml\n"
    assert airtune("plan", "jcpba.yaml")[0] == 0
    # The head names the file where it is now.
    assert "examples/" not in (tmp_path / "jcpba.yaml").read_text()
    own = ROOT / "examples" / "jcpba.yaml"
    assert read_yaml_mapping("jcpba.yaml", "") == read_yaml_mapping(own, "")


@pytest.mark.parametrize("name", shipped_names(PROBLEMS))
def test_every_example_says_how_to_plan_it(airtune: Call, name: str) -> None:
    code, out, _ = airtune("init", "a problem.yaml", "--problem", name)
    assert code == 0
    assert out.endswith("then: airtune plan 'a problem.yaml'\n")


def test_a_comparison_is_written(airtune: Call, tmp_path: Path) -> None:
    code, out, _ = airtune("init", "--compare")
    assert (code, "airtune compare comparison.yaml --jobs 2" in out) == (0, True)
    assert "fedlora-minmax" in {arm.name for arm in read_comparison(Path("comparison.yaml")).arms}


@pytest.mark.parametrize("name", shipped_names(EXPERIMENTS))
def test_every_experiment_is_written(
    airtune: Call, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIRTUNE_DATA", str(tmp_path))
    code, out, _ = airtune("init", "--experiment", name)
    assert code == 0
    command = out.splitlines()[0].partition("airtune ")[2].split()
    assert command[1] == f"{name}.yaml"
    read = read_comparison if command[0] == "compare" else read_config
    read(Path(f"{name}.yaml"))
    assert ("slow-board.yaml" in out) == (
        tmp_path / "experiments/devices/slow-board.yaml"
    ).is_file()


def test_wrong_use_is_one_sentence(airtune: Call, tmp_path: Path) -> None:
    code, _, err = airtune("init", "--experiment", "gsmk")
    assert (code, "did you mean 'gsm8k'?" in err) == (2, True)
    code, _, err = airtune("init", "--problem", "../README")
    assert (code, "--problem is ../README, but it must be one of " in err) == (2, True)
    code, _, err = airtune("init", "--problem", "tsfa", "--compare")
    assert (code, "--compare is given, but it must be left out beside --problem" in err) == (
        2,
        True,
    )
    (tmp_path / "tsfa.yaml").write_text("mine")
    code, _, err = airtune("init", "--problem", "tsfa")
    assert (code, "tsfa.yaml exists already" in err) == (2, True)
    assert (tmp_path / "tsfa.yaml").read_text() == "mine"


def test_a_wheel_has_every_example_and_experiment() -> None:
    """`pyproject.toml` puts what there is below the package, file by file."""
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    put = tables["targets"]["wheel"]["force-include"]
    folders = ("examples", "experiments", "experiments/devices")
    there = [path for folder in folders for path in (ROOT / folder).glob("*.yaml")]
    names = [path.relative_to(ROOT).as_posix() for path in there]
    assert put == {name: f"airtune/shipped_files/{name}" for name in names}


def test_an_installed_package_reads_its_own_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "airtune" / "shipped_files" / PROBLEMS
    folder.mkdir(parents=True)
    (folder / "own.yaml").write_text("a: 1\n")
    monkeypatch.setattr("airtune.shipped.files", lambda package: tmp_path / package)
    assert shipped_names(PROBLEMS) == ["own"]
    assert shipped_text(PROBLEMS, "own", "--problem") == "a: 1\n"
    with pytest.raises(Exception, match="installed without its experiments"):
        shipped_names(EXPERIMENTS)
