"""Weights & Biases in its offline mode: its file holds what rounds.jsonl holds."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airtune import Experiment
from airtune.errors import InputError
from tests.trackers.runs import SECRET, expected, seen_files, tracked_run

wandb: Any = pytest.importorskip(
    "wandb", reason="airtune[wandb] is not installed (74 MB; see docs/trackers.md)"
)

BLOCK, WHOLE, LAST = 32_768, 1, 4


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    wandb.teardown()


def chunks(data: bytes) -> Iterator[bytes]:
    """The records of a `.wandb` file: LevelDB's log format after seven bytes of its own."""
    assert data[:4] == b":W&B"
    place, record = 7, b""
    while place + 7 <= len(data):
        left = BLOCK - place % BLOCK
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (WHOLE, LAST):
            yield record
            record = b""


def written(folder: Path) -> list[Any]:
    """The records of every offline file of a run."""
    from wandb.proto.wandb_internal_pb2 import Record

    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    return [Record.FromString(chunk) for path in files for chunk in chunks(path.read_bytes())]


def history(records: list[Any]) -> dict[int, dict[str, float]]:
    found = {}
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            values = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
            found[record.history.step.num] = values
    return found


def test_rounds_of_a_run_that_goes_on_are_in_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    tracked_run(folder, {"use": "wandb", "project": "cells"})
    Experiment.resume(folder, rounds=3)
    records = written(folder)
    there, wanted = history(records), expected(folder)
    assert there.keys() == wanted.keys() == {1, 2, 3}
    for step, numbers in wanted.items():
        for name, value in numbers.items():
            assert there[step][name] == value, (step, name)
    runs = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    number = json.loads((folder / "trackers.json").read_text())["wandb"]["id"]
    assert {(run.run_id, run.project) for run in runs} == {(number, "cells")}


def test_no_command_and_no_machine_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["airtune", "run", "--set", f"codec.token={SECRET}"])
    tracked_run(tmp_path / "run", "wandb", "rounds=1")
    assert seen_files(tmp_path, SECRET) == []
    assert not list(tmp_path.glob("run/wandb/*/files/wandb-metadata.json"))


def test_without_a_login_it_is_refused_before_round_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(InputError, match=r"set WANDB_API_KEY, or set WANDB_MODE=offline\.$"):
        tracked_run(tmp_path / "run", "wandb")
    assert not (tmp_path / "run").exists()
