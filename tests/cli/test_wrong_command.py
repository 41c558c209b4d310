"""A file that another command reads is sent to that command, by name."""

from collections.abc import Callable
from pathlib import Path

import pytest

from airtune.files import read_yaml_mapping
from airtune.methods.file_kinds import COMPARISON, EXPERIMENT, PROBLEM, kind_of

ROOT = Path(__file__).parents[2]
Command = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*.yaml")), ids=lambda path: path.stem)
def test_problems(path: Path, airtune: Command) -> None:
    for command in ("run", "compare"):
        code, _, told = airtune(command, path)
        assert code == 2
        assert (
            f"is a planning problem, but it must be a{'n exp' if command == 'run' else ' c'}"
            in told
        )
        assert told.endswith(f"run `airtune plan {path}`.\n")


@pytest.mark.parametrize("command", ["run", "plan"])
def test_comparisons(command: str, airtune: Command) -> None:
    path = ROOT / "experiments" / "compare-builtin.yaml"
    code, _, told = airtune(command, path)
    assert code == 2
    assert "is a comparison, but it must be" in told
    assert told.endswith(f"run `airtune compare {path}`.\n")


def test_experiments(airtune: Command, tmp_path: Path) -> None:
    (tmp_path / "my runs").mkdir()
    path = tmp_path / "my runs" / "experiment.yaml"
    assert airtune("init", path)[0] == 0
    code, _, told = airtune("plan", path)
    assert code == 2
    # As it can be pasted into a shell.
    assert told.endswith(f"run `airtune run '{path}'`.\n")
    code, _, told = airtune("run", path.parent)
    assert code == 2
    assert f"run `airtune resume '{path.parent}'` to continue it" in told


def test_a_file_where_something_else_is_wanted(airtune: Command, tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text("rounds: 1\n")
    for command, sentence in (
        ("plan", "an experiment is for `airtune run`"),
        ("resume", "the folder of a run: an experiment file is for `airtune run`"),
        ("profile", "not a YAML file: name the model that stands in it"),
    ):
        code, _, told = airtune(command, path)
        assert (code, sentence in told) == (2, True), told
    records = tmp_path / "rounds.jsonl"
    records.write_text('{"format":2,"round":1,"clients":[{"client":0}]}\n')
    assert "planning problem" not in airtune("run", records)[2]


def test_kinds() -> None:
    for path in ROOT.glob("examples/*.yaml"):
        assert kind_of(read_yaml_mapping(path, "x")) == PROBLEM
    for path in ROOT.glob("experiments/*.yaml"):
        wanted = COMPARISON if path.stem.startswith("compare") else EXPERIMENT
        assert kind_of(read_yaml_mapping(path, "x")) == wanted
    for content in ({}, {"rounds": 3}, {"method": "jcpba"}, {"cell": {}, "model": "gpt2"}):
        assert kind_of(content) is None


def test_a_bundled_shape_is_no_model(airtune: Command) -> None:
    code, _, told = airtune("run", "--set", "model=llama-3.1-8b", "--dry-run")
    assert code == 2
    assert "name it as charge_as, or see `airtune profile llama-3.1-8b`" in told


def test_sizes_are_those_of_the_trained_and_of_the_charged_model(airtune: Command) -> None:
    settings = [
        part
        for setting in (
            "charge_as=gpt2",
            "rounds=1",
            "clients.count=2",
            "data.train_limit=20",
            "data.test_limit=4",
            "cell.path_loss=log_distance",
            "training.local_steps=1",
            "threads=1",
            "clients.devices=[laptop-cpu]",
            "engine=sequential",
        )
        for part in ("--set", setting)
    ]
    code, out, told = airtune("run", "--dry-run", *settings)
    assert code == 0, told
    pairs = (line.strip().split("  ", 1) for line in out.splitlines() if "  " in line.strip())
    lines = {name: value.strip() for name, value in pairs}
    assert lines["charged as"].startswith("gpt2 (124 M parameters, 1,179,648 trained)")
    assert lines["model"].startswith("builtin (")
    assert "k parameters)" in lines["model"] or "M parameters)" in lines["model"]
    assert lines["trained"] != "1,179,648 parameters"
