"""What clients carry: on disk, read when asked for, safe against a kill between any two files."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from airtune.errors import AirtuneError
from airtune.federated.records import carried as carried_module
from airtune.federated.records import checkpoint as checkpoint_module
from airtune.federated.records.carried import CarriedStates, state_path, with_fresh
from airtune.federated.records.checkpoint import (
    Checkpoint,
    ServerState,
    checkpoint_path,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)


def tensors(value: float) -> dict[str, Tensor]:
    return {"0.exp_avg": torch.full((2, 3), value), "0.step": torch.tensor(value)}


def rounds(folder: Path, cohorts: list[list[int]], state: ServerState | None = None) -> ServerState:
    """Each client of a round's cohort carries 100 round + client."""
    state = state or ServerState({"x": torch.zeros(2)})
    for cohort in cohorts:
        number = state.rounds_done + 1
        fresh = {client: tensors(100.0 * number + client) for client in cohort}
        state = ServerState(state.adapter, number, carried=with_fresh(state.carried, fresh))
        state = write_checkpoint(folder, Checkpoint(state, 0))
    return state


def values(state: ServerState) -> dict[int, float]:
    return {client: float(own["0.exp_avg"][1, 2]) for client, own in state.carried.items()}


def test_each_client_has_its_latest(tmp_path: Path) -> None:
    state = rounds(tmp_path / "checkpoints", [[1, 2], [2, 3], [3]])
    assert values(state) == {1: 101.0, 2: 202.0, 3: 303.0}
    assert isinstance(state.carried, CarriedStates)
    assert not state.carried.fresh, "nothing stays in memory"
    assert state.carried.get(9) is None
    read, _ = newest_checkpoint(tmp_path / "checkpoints", 0)
    assert values(read.state) == values(state)
    # The checkpoint before it finds what it counts on, too.
    before = read_checkpoint(checkpoint_path(tmp_path / "checkpoints", 2)).state
    assert values(before) == {1: 101.0, 2: 202.0, 3: 203.0}


def test_a_clients_newest_two_files_are_kept(tmp_path: Path) -> None:
    rounds(tmp_path / "checkpoints", [[1], [1], [1], [2]])
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("clients/*/*"))
    assert files == [
        "clients/1/round-00002.safetensors",
        "clients/1/round-00003.safetensors",
        "clients/2/round-00004.safetensors",
    ]


def test_only_what_is_asked_for_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds(tmp_path / "checkpoints", [list(range(50))])
    asked: list[str] = []
    read = carried_module._read

    def counting(path: Path, digest: str) -> Any:
        asked.append(path.parent.name)
        return read(path, digest)

    monkeypatch.setattr(carried_module, "_read", counting)
    state = newest_checkpoint(tmp_path / "checkpoints", 0)[0].state
    assert len(state.carried) == 50
    state.carried.get(7, {})
    rounds(tmp_path / "checkpoints", [[8]], state)
    assert asked == ["7"]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("die_at", ["first client", "second client", "checkpoint", "removal"])
def test_killed_between_any_two_files(
    tmp_path: Path, die_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohorts = [[1, 2], [2, 3], [1, 2], [2, 3]]
    rounds(tmp_path / "whole/checkpoints", cohorts)
    broken = tmp_path / "broken/checkpoints"
    state = rounds(broken, cohorts[:2])
    written: list[Path] = []

    def dying(path: Path, content: bytes) -> None:
        if len(written) == ["first client", "second client", "checkpoint"].index(die_at):
            raise KeyboardInterrupt
        written.append(path)
        path.write_bytes(content)

    def die(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if die_at == "removal":
            patch.setattr(checkpoint_module, "remove_old", die)
        else:
            for module in (carried_module, checkpoint_module):
                patch.setattr(module, "write_bytes_atomic", dying)
        with pytest.raises(KeyboardInterrupt):
            rounds(broken, cohorts[2:], state)
    state = newest_checkpoint(broken, 0)[0].state
    rounds(broken, cohorts[state.rounds_done :], state)
    ours, whole = tree(tmp_path / "broken"), tree(tmp_path / "whole")
    assert {name: ours[name] for name in whole} == whole
    # What a kill leaves over is removed when its client comes round again, or is in nobody's way.
    assert set(ours) - set(whole) <= {"clients/1/round-00001.safetensors"}


def test_damage_and_loss_are_found(tmp_path: Path) -> None:
    state = rounds(tmp_path / "checkpoints", [[1, 2], [2]])
    path = state_path(tmp_path / "clients", 2, 2)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(AirtuneError, match=r"round-00002\.safetensors is damaged"):
        state.carried[2]
    path.unlink()
    fallback, notes = newest_checkpoint(tmp_path / "checkpoints", 0)
    assert fallback.state.rounds_done == 1
    assert "which is missing" in notes[0]
    shutil.rmtree(tmp_path / "clients")
    with pytest.raises(AirtuneError, match="which is missing"):
        newest_checkpoint(tmp_path / "checkpoints", 0)


def test_older_runs_carried_inside_the_checkpoint(tmp_path: Path) -> None:
    header = json.dumps(
        {
            "rounds_done": 4,
            "time_s": 1.0,
            "energy_j": 2.0,
            "planner": {},
            "start_loss": 0.5,
            "stopped": None,
            "records_length": 0,
        }
    )
    inside = {"adapter/x": torch.ones(2)}
    inside |= {f"carried/7/{name}": tensor for name, tensor in tensors(5.0).items()}
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    digest = checkpoint_module._digest(header, inside)
    save_file(inside, checkpoint_path(folder, 4), metadata={"state": digest + header})
    state = newest_checkpoint(folder, 0)[0].state
    assert values(state) == {7: 5.0}
    state = rounds(folder, [[3]], state)
    assert values(state) == {3: 503.0, 7: 5.0}
    assert state_path(tmp_path / "clients", 7, 5).is_file()
