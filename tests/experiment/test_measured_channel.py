"""Files of a measured channel are read before the model, which is large."""

from pathlib import Path
from typing import Any

import pytest

from airtune.errors import InputError
from airtune.experiment import loading, world
from airtune.experiment.reading import read_config
from airtune.wireless.channel import open_channel


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> None:
        raise AssertionError("the model was loaded first")

    monkeypatch.setattr(loading, "load_base", load)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["cell.trace_column=rate_bps"], r"cell\.trace_column is rate_bps.*column of walk\.csv"),
        (["cell.trace_where={place: home}"], r"cell\.trace_where is place"),
        (["cell.trace=gone.csv"], r"cell\.trace is gone\.csv"),
    ],
)
def test_a_wrong_trace_costs_no_model(tmp_path: Path, settings: list[str], message: str) -> None:
    path = tmp_path / "walk.csv"
    path.write_text("throughput_mbps\n30\n")
    config = read_config(None, [f"cell.trace={path}", "cell.trace_bandwidth_hz=20e6", *settings])
    with pytest.raises(InputError, match=message):
        world.build_world(config)


@pytest.mark.usefixtures("no_model")
def test_a_recording_of_too_few_rounds_is_refused_before_round_1(tmp_path: Path) -> None:
    config = read_config(None, ["cell.path_loss=log_distance", "rounds=3", "clients.count=2"])
    path = tmp_path / "cell.npz"
    open_channel(config.cell, 2, 0).export(path, range(2))
    replayed = read_config(None, [f"cell.replay={path}", "rounds=3", "clients.count=2"])
    with pytest.raises(InputError, match="every round from 0 to 2"):
        world.build_world(replayed)
