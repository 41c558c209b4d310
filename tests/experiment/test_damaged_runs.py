"""Every file of a run folder damaged in every way: a sentence or the right result, no traceback."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from airtune import Experiment, Run
from airtune.cli.terminal import stage_seconds
from airtune.errors import AirtuneError
from airtune.experiment.world import World, build_world
from airtune.part_folders import LOCK
from tests.cli.conftest import quick

FILES = (
    "experiment.yaml",
    "rounds.jsonl",
    "summary.json",
    "environment.json",
    "timing.jsonl",
    "report.html",
    "adapter/adapter_model.safetensors",
    "adapter/adapter_config.json",
    "checkpoints/round-00002.safetensors",
    "clients/0/round-00002.safetensors",
)
FOLDERS = ("adapter", "checkpoints", "clients", "clients/0")


def missing(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def noise(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 4)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_bytes(b"x")


DAMAGES = (missing, empty, cut, flipped, noise, a_folder)
CASES = [*product(FILES, DAMAGES), *product(FOLDERS, (missing, a_file))]
QUICK_CASES = [
    ("rounds.jsonl", flipped),
    ("checkpoints/round-00002.safetensors", a_folder),
    ("clients/0/round-00002.safetensors", flipped),
    ("environment.json", noise),
    ("summary.json", cut),
    ("checkpoints", a_file),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    settings = quick("data.score_rows=0", "clients.count=2", "adapter.target_modules=[q_proj]")
    Experiment.load(None, settings[1::2]).run(folder)
    return folder


@cache
def loaded(folder: Path) -> World:
    return build_world(Run.open(folder).config, resolved=True)


@pytest.fixture
def folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it; the model is loaded once for all of them."""
    for module in ("run", "experiment"):
        monkeypatch.setattr(
            f"airtune.experiment.{module}.build_world",
            lambda config, **_: replace(loaded(finished), config=config),
        )
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def attempt(action: Callable[[], Any]) -> str:
    """What went wrong, as a sentence of one line; empty if nothing did."""
    try:
        action()
    except AirtuneError as error:
        sentence = str(error)
    else:
        return ""
    assert "\n" not in sentence
    return sentence


def read_all(folder: Path) -> dict[str, str]:
    """Everything that reads a run, each with what went wrong."""
    return {
        "records": attempt(lambda: Run.open(folder).records),
        "summary": attempt(lambda: Run.open(folder).summary),
        "notices": attempt(lambda: Run.open(folder).notices),
        "eval": attempt(lambda: Run.open(folder).evaluate()),
        "generate": attempt(lambda: Run.open(folder).generate(count=1, max_new_tokens=1)),
        "export": attempt(lambda: Run.open(folder).export(folder.parent / "out")),
        "profile": attempt(lambda: stage_seconds(folder)),
    }


def check_case(folder: Path, finished: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(folder / name)
    read = read_all(folder)
    went_wrong = attempt(lambda: Experiment.resume(folder))
    if not went_wrong:
        # What is resumed is whole again: the same rounds, and everything can be read.
        assert (folder / "rounds.jsonl").read_bytes() == (finished / "rounds.jsonl").read_bytes()
        assert not any(read_all(folder).values())
        result = "adapter/adapter_model.safetensors"
        assert (folder / result).read_bytes() == (finished / result).read_bytes()
    # Who only looks at the model needs neither records nor what clients keep.
    if name.startswith(("clients", "adapter", "report", "summary", "environment", "timing")):
        assert not read["eval"]
        assert not read["export"]


@pytest.mark.parametrize(("name", "damage"), QUICK_CASES)
def test_some_damage(
    folder: Path, finished: Path, name: str, damage: Callable[[Path], None]
) -> None:
    check_case(folder, finished, name, damage)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "damage"), CASES)
def test_all_damage(
    folder: Path, finished: Path, name: str, damage: Callable[[Path], None]
) -> None:
    check_case(folder, finished, name, damage)


def test_a_changed_digit_in_the_records(folder: Path) -> None:
    """It still parses; the digest in the checkpoint says that it is another file."""
    path = folder / "rounds.jsonl"
    text = path.read_text()
    at = text.index('"test_loss":') + 14
    path.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])
    assert "rounds.jsonl is damaged (it is not what round-00002" in attempt(
        lambda: Run.open(folder).records
    )
    wrong = attempt(lambda: Experiment.resume(folder, rounds=3))
    assert "rounds.jsonl, as far as round 2, differs" in wrong
    run = Experiment.resume(folder, rounds=3, accept_changes=True)
    assert len(run.records) == 3
    assert any("rounds.jsonl" in sentence for sentence in run.summary["notices"])


def test_a_damaged_client_falls_back_and_a_lost_one_can_begin_afresh(folder: Path) -> None:
    before = (folder / "rounds.jsonl").read_bytes()
    flipped(folder / "clients/0/round-00002.safetensors")
    told: list[str] = []

    class Listener:
        notice = staticmethod(told.append)

    Experiment.resume(folder, listener=Listener())
    assert any("0/round-00002.safetensors, which is damaged; falling back" in s for s in told)
    assert (folder / "rounds.jsonl").read_bytes() == before
    for number in (1, 2):
        flipped(folder / f"clients/0/round-0000{number}.safetensors")
    assert "or give --accept-changes, and clients whose files are lost begin afresh" in attempt(
        lambda: Experiment.resume(folder, rounds=3)
    )
    run = Experiment.resume(folder, rounds=3, accept_changes=True)
    assert len(run.records) == 3
    assert any("What client 0 kept from round to round is lost" in s for s in run.notices)


def test_a_lock_that_cannot_be_opened(folder: Path) -> None:
    (folder / LOCK).unlink(missing_ok=True)
    (folder / LOCK).mkdir()
    assert "cannot be written (Is a directory)" in attempt(lambda: Experiment.resume(folder))
    assert not read_all(folder)["eval"]


def test_notices_of_data_are_kept(tmp_path: Path) -> None:
    """A tenth held out and rows dropped: in summary, report and Python result."""
    rows = [{"prompt": f"p{k}", "completion": "" if k < 3 else f"c{k}"} for k in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = quick(f"data.train={tmp_path}/rows.jsonl", "rounds=1", "data.score_rows=0")[1::2]
    run = Experiment.load(None, settings).run(tmp_path / "run")
    held_out, dropped = run.summary["notices"][:2]
    assert "a tenth of its prompts" in held_out
    assert "rows dropped: no completion" in dropped
    page = (tmp_path / "run/report.html").read_text()
    assert "a tenth of its prompts" in page
    assert "rows dropped: no completion" in page
    assert set(run.summary["notices"]) < set(run.notices)
    assert any(sentence.startswith("Engine: ") for sentence in run.notices)
