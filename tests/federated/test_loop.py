"""The loop: an interrupted run continues to the same bytes; stop rules stop."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from airtune.errors import AirtuneError
from airtune.federated.backends.backend import ClientReport, ClientTask
from airtune.federated.loop import StopRule, run_rounds
from airtune.federated.records.checkpoint import ServerState, newest_checkpoint
from airtune.federated.records.run_folder import RunFolder, record_line
from airtune.federated.round import start_round
from tests.federated.fakes import EqualPlanner, add_client_number, make_context


def begin() -> ServerState:
    return ServerState({"x": torch.zeros(2)}, planner={"rounds": 0})


def start(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path)
    folder.save(begin())
    return folder


def content(folder: RunFolder) -> dict[str, bytes]:
    return {
        "records": folder.records.read_bytes(),
        **{path.name: path.read_bytes() for path in folder.checkpoints.iterdir()},
    }


def test_a_round_that_is_planned_already_is_not_planned_again(tmp_path: Path) -> None:
    planner = EqualPlanner()
    context = make_context(planner=planner)
    first = start_round(context, begin())
    ahead = start(tmp_path / "ahead")
    run_rounds(context, begin(), ahead, 2, StopRule(), first=first)
    assert [view.round_index for view in planner.seen] == [0, 1]
    plain = start(tmp_path / "plain")
    run_rounds(make_context(), begin(), plain, 2, StopRule())
    assert content(ahead) == content(plain)


class Killed(BaseException):
    """Stands for a process that is gone."""


@pytest.mark.parametrize("die_at", ["train", "record", "half record", "checkpoint", "timing"])
def test_killed_anywhere_and_resumed(tmp_path: Path, die_at: str, monkeypatch: Any) -> None:
    whole = start(tmp_path / "whole")
    run_rounds(make_context(), begin(), whole, 5, StopRule())
    broken = start(tmp_path / "broken")

    def dying(task: ClientTask) -> ClientReport:
        if die_at == "train" and task.round_index == 3:
            raise Killed
        return add_client_number(task)

    def die(self: Any, *arguments: Any) -> None:
        if die_at == "half record":
            with broken.records.open("ab") as stream:
                stream.write(b'{"round": 4, "virt')
        if die_at == "checkpoint":
            (broken.checkpoints / ".round-00004.safetensors.1.partial").write_bytes(b"half")
        raise Killed

    name = {"record": "append_record", "half record": "append_record", "checkpoint": "save"}
    run_rounds(make_context(), begin(), broken, 3, StopRule())
    state = newest_checkpoint(broken.checkpoints, broken.records_length())[0].state
    with monkeypatch.context() as patch:
        if die_at != "train":
            patch.setattr(RunFolder, name.get(die_at, "append_timing"), die)
        with pytest.raises(Killed):
            run_rounds(make_context(script=dying), state, broken, 5, StopRule())
    checkpoint, _ = newest_checkpoint(broken.checkpoints, broken.records_length())
    broken.clean()
    broken.truncate_records(checkpoint.records_length)
    run_rounds(make_context(), checkpoint.state, broken, 5, StopRule())
    assert content(broken) == content(whole)


def test_stop_rules(tmp_path: Path) -> None:
    # The fake adapter grows by one a round and the loss is its sum: a target above is met at once.
    state = run_rounds(make_context(), begin(), start(tmp_path / "a"), 9, StopRule(target_loss=3.0))
    assert state.rounds_done == 1
    assert state.stopped == "the test loss 2.0000 reached the target 3"
    latency_s = state.clock.time_s
    rule = StopRule(virtual_time_s=2.5 * latency_s)
    state = run_rounds(make_context(), begin(), start(tmp_path / "b"), 9, rule)
    assert state.rounds_done == 3
    assert "virtual clock" in str(state.stopped)
    rule = StopRule(energy_j=0.5 * state.clock.energy_j)
    state = run_rounds(make_context(), begin(), start(tmp_path / "c"), 9, rule)
    assert state.rounds_done == 2
    assert "J" in str(state.stopped)
    # A stopped run stays stopped.
    assert run_rounds(make_context(), state, start(tmp_path / "d"), 9, rule) is state


def test_records_have_no_real_time_and_timings_do(tmp_path: Path) -> None:
    folder = start(tmp_path)
    run_rounds(make_context(), begin(), folder, 2, StopRule())
    records = [json.loads(line) for line in folder.records.read_text().splitlines()]
    assert all(record.pop("format") == 2 for record in records)
    assert records == folder.read_records()
    assert not [key for record in records for key in record if "real" in key]
    timing = [json.loads(line) for line in (tmp_path / "timing.jsonl").read_text().splitlines()]
    assert [entry["round"] for entry in timing] == [1, 2]


def test_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: Any) -> None:
    folder = start(tmp_path)
    folder.append_record({"round": 1})  # type: ignore[arg-type]

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("airtune.federated.records.run_folder.os.fsync", full)
    with pytest.raises(AirtuneError, match="No space left on device"):
        folder.append_record({"round": 2})  # type: ignore[arg-type]
    assert folder.records.read_bytes() == record_line({"format": 2, "round": 1})


@pytest.mark.parametrize("step", ["append_record", "save", "append_timing"])
def test_what_cannot_be_written_says_how_to_go_on(
    tmp_path: Path, step: str, monkeypatch: Any
) -> None:
    whole, broken = start(tmp_path / "whole"), start(tmp_path / "a disk")
    run_rounds(make_context(), begin(), whole, 2, StopRule())

    def full(self: Any, *arguments: Any) -> None:
        raise AirtuneError("x cannot be written (No space left on device): free some space.")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, step, full)
        with pytest.raises(AirtuneError, match=r"`airtune resume '.*a disk'` goes on"):
            run_rounds(make_context(), begin(), broken, 2, StopRule())
    checkpoint, _ = newest_checkpoint(broken.checkpoints, broken.records_length())
    broken.truncate_records(checkpoint.records_length)
    run_rounds(make_context(), checkpoint.state, broken, 2, StopRule())
    assert content(broken) == content(whole)


def test_records_refuse_what_json_cannot_say() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        record_line({"latency_s": float("inf")})
