"""A checkpoint gives back exactly what went in, or says that it cannot."""

from pathlib import Path

import pytest
import torch

from airtune.errors import AirtuneError
from airtune.federated.records.checkpoint import (
    Checkpoint,
    Clock,
    ServerState,
    checkpoint_path,
    list_checkpoints,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)


def make(rounds_done: int, records_length: int = 0) -> Checkpoint:
    source = torch.Generator().manual_seed(rounds_done)
    state = ServerState(
        adapter={"b": torch.randn(3, 2, generator=source), "a": torch.randn(4, generator=source)},
        rounds_done=rounds_done,
        clock=Clock(0.1 + rounds_done, 1 / 3),
        planner={"queue": 0.1 * rounds_done},
        carried={7: {"residual": torch.randn(2, generator=source)}, 11: {"x": torch.ones(1)}},
        server={"mean/a": torch.randn(4, generator=source)},
        stopped=None,
    )
    return Checkpoint(state, records_length)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As in a run: what clients carry lies in a folder beside it."""
    return tmp_path / "checkpoints"


def test_round_trip(folder: Path) -> None:
    written = make(3, 120)
    write_checkpoint(folder, written)
    read = read_checkpoint(checkpoint_path(folder, 3))
    assert read.records_length == 120
    for field in ("rounds_done", "clock", "planner", "stopped"):
        assert getattr(read.state, field) == getattr(written.state, field)
    assert all(torch.equal(read.state.adapter[k], v) for k, v in written.state.adapter.items())
    assert torch.equal(read.state.server["mean/a"], written.state.server["mean/a"])
    assert read.state.server.keys() == written.state.server.keys()
    assert read.state.carried.keys() == written.state.carried.keys()
    assert torch.equal(read.state.carried[7]["residual"], written.state.carried[7]["residual"])


def test_same_state_same_bytes(folder: Path) -> None:
    for name in ("one", "two"):
        write_checkpoint(folder / name, make(2, 5))
    one, two = (checkpoint_path(folder / name, 2).read_bytes() for name in ("one", "two"))
    assert one == two


def test_the_newest_two_are_kept(folder: Path) -> None:
    for rounds_done in range(5):
        write_checkpoint(folder, make(rounds_done))
    assert [path.name for path in list_checkpoints(folder)] == [
        "round-00004.safetensors",
        "round-00003.safetensors",
    ]


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "remove"])
def test_damage_falls_back_and_says_so(folder: Path, damage: str) -> None:
    write_checkpoint(folder, make(1, 10))
    write_checkpoint(folder, make(2, 20))
    newest = checkpoint_path(folder, 2)
    content = bytearray(newest.read_bytes())
    if damage == "truncate":
        newest.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[-2] ^= 1
        newest.write_bytes(content)
    elif damage == "empty":
        newest.write_bytes(b"")
    else:
        newest.unlink()
    checkpoint, notes = newest_checkpoint(folder, records_length=20)
    assert checkpoint.state.rounds_done == 1
    if damage != "remove":
        assert len(notes) == 1
        assert "round-00002" in notes[0]
        assert "falling back" in notes[0]


def test_flipped_state_is_noticed(folder: Path) -> None:
    write_checkpoint(folder, make(4))
    path = checkpoint_path(folder, 4)
    content = path.read_bytes()
    assert b'\\"rounds_done\\": 4' in content
    path.write_bytes(content.replace(b'\\"rounds_done\\": 4', b'\\"rounds_done\\": 5'))
    with pytest.raises(AirtuneError, match="digest does not match"):
        read_checkpoint(path)


def test_records_that_lost_their_end(folder: Path) -> None:
    write_checkpoint(folder, make(1, 10))
    write_checkpoint(folder, make(2, 20))
    checkpoint, notes = newest_checkpoint(folder, records_length=15)
    assert checkpoint.state.rounds_done == 1
    assert "lost its end" in notes[0]


def test_nothing_usable(folder: Path) -> None:
    with pytest.raises(AirtuneError, match="there is none"):
        newest_checkpoint(folder, 0)


def test_all_damaged_are_named(folder: Path) -> None:
    for rounds_done in (1, 2):
        write_checkpoint(folder, make(rounds_done))
        checkpoint_path(folder, rounds_done).write_bytes(b"")
    with pytest.raises(AirtuneError, match=r"round-00002.*; checkpoint round-00001.*start the run"):
        newest_checkpoint(folder, 0)
