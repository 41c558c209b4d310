"""A channel model of a user's own: gains in, links out, and one sentence for every mistake."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airtune.errors import AirtuneError, InputError
from airtune.part_folders import make_importable
from airtune.wireless.cell import CellSettings
from airtune.wireless.channel import Channel, channel_source, open_channel
from airtune.wireless.unused import refuse_unused_cell_keys

Written = Callable[[str], str]

HEAD = """
import numpy as np
from airtune.wireless.channel import ChannelModel
"""
STREET = (
    HEAD
    + """
class Street(ChannelModel):
    def __init__(self, spacing_m=10.0, token=""):
        self.spacing_m = spacing_m
    def gain(self, round_index, client, cell):
        distance_m = self.spacing_m * (client + 1)
        draw = cell.random("fading", round_index, client).exponential()
        return 1e-4 * distance_m**-3.0 * draw
"""
)


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    make_importable(tmp_path)

    def write(code: str) -> str:
        (tmp_path / "own_channel.py").write_text(code)
        sys.modules.pop("own_channel", None)
        return "own_channel"

    yield write
    sys.path.remove(str(tmp_path))
    sys.modules.pop("own_channel", None)


def opened(spec: Any, clients: int = 4, seed: int = 5, **settings: Any) -> Channel:
    return open_channel(CellSettings(channel=spec, **settings), clients, seed)


def test_gains_become_links_of_the_cell(written: Written) -> None:
    spec = {"use": f"{written(STREET)}:Street", "spacing_m": 20.0}
    state = opened(spec, tx_power_dbm=20, noise_figure_db=0).observe(2).truth
    draws = state.gain * 1e4 * (20.0 * np.arange(1, 5)) ** 3
    assert (draws > 0).all()
    assert len(set(draws)) == 4
    cn0 = 0.1 * state.gain / 10 ** ((-174 - 30) / 10)
    expected = 1e6 * np.log2(1 + cn0 / 1e6)
    assert state.uplink().rate(np.full(4, 1e6)) == pytest.approx(expected)
    table = opened(spec, rate_model="cqi-256qam").observe(2).truth
    assert table.uplink().rate(np.full(4, 1.0)) == pytest.approx([8 * 948 / 1024] * 4)
    assert np.isnan(state.position_m).all()
    assert not state.is_measured


def test_a_round_is_the_same_whenever_it_is_asked_for(written: Written) -> None:
    spec = f"{written(STREET)}:Street"
    one, other = opened(spec), opened(spec)
    late = [one.observe(index).truth.gain for index in (7, 3, 7)]
    assert np.array_equal(late[0], late[2])
    assert np.array_equal(late[1], other.observe(3).truth.gain)
    assert not np.array_equal(late[0], late[1])
    assert not np.array_equal(late[0], opened(spec, seed=6).observe(7).truth.gain)
    assert np.array_equal(opened(spec, 9).observe(7).truth.gain[:4], late[0])
    some = opened(spec).observe(7, np.array([1, 3])).truth.gain
    assert np.array_equal(some[[1, 3]], late[0][[1, 3]])
    assert np.isnan(some[[0, 2]]).all()


def test_all_clients_at_once(written: Written) -> None:
    code = HEAD + (
        "class Ring(ChannelModel):\n"
        "    def gains(self, round_index, cell):\n"
        "        return np.where(np.arange(cell.clients) == round_index, 0.0, 1e-10)\n"
    )
    channel = opened(f"{written(code)}:Ring")
    assert channel.observe(2).truth.gain.tolist() == [1e-10, 1e-10, 0.0, 1e-10]
    assert channel.observe(2).truth.out_of_reach() == {
        2: "client 2 is out of reach: its channel gain is zero in this round"
    }


def test_delay_and_error_of_the_estimate_are_the_cells(written: Written) -> None:
    channel = opened(f"{written(STREET)}:Street", csi_delay_rounds=2)
    assert np.array_equal(channel.observe(5).estimate.gain, channel.observe(3).truth.gain)


def test_a_recording_of_it_is_replayed(written: Written, tmp_path: Path) -> None:
    channel = opened(f"{written(STREET)}:Street")
    channel.export(tmp_path / "cell.npz", range(3))
    replayed = open_channel(CellSettings(replay=tmp_path / "cell.npz"), 4, 0)
    assert np.array_equal(replayed.observe(2).truth.gain, channel.observe(2).truth.gain)


WRONG = [
    ("return 1e-9 / abs(client - 2)", "for client 2 failed: ZeroDivisionError"),
    ("return -90.0", "for client 0 answered -90.0, but a power gain is a number from 0 to 1"),
    ("return 98.8", "for client 0 answered 98.8"),
    ("return float('nan')", "for client 0 answered nan"),
    ("return None", "for client 0 answered None"),
    ("return True", "for client 0 answered True"),
    ("return 1e-9 if client < 3 else 'far'", "for client 3 answered 'far'"),
    ("raise SystemExit(3)", "for client 0 failed: SystemExit: 3"),
    ("return cell.settings.nothing", "for client 0 failed: AttributeError"),
]


@pytest.mark.parametrize(("body", "words"), WRONG)
def test_a_wrong_answer_names_model_round_and_client(
    written: Written, body: str, words: str
) -> None:
    code = f"{HEAD}class Mine(ChannelModel):\n    def gain(self, round_index, client, cell):\n"
    channel = opened(f"{written(code + 8 * ' ' + body)}:Mine")
    with pytest.raises(AirtuneError) as refusal:
        channel.observe(6)
    said = str(refusal.value)
    assert said.startswith("The channel model own_channel:Mine in round 7 ")
    assert words in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return [1e-9] * 3", "in round 1 failed: ValueError: it answered 3 gains, not one"),
        ("return 1e-9", "in round 1 failed: TypeError"),
        ("return [1e-9, 2, 1e-9, 1e-9]", "in round 1 for client 1 answered 2"),
    ],
)
def test_wrong_answers_for_all(written: Written, body: str, words: str) -> None:
    code = f"{HEAD}class Mine(ChannelModel):\n    def gains(self, round_index, cell):\n"
    with pytest.raises(AirtuneError, match=words):
        opened(f"{written(code + 8 * ' ' + body)}:Mine").observe(0)


def test_a_gain_above_1_may_be_meant(written: Written) -> None:
    code = f"{HEAD}class Loud(ChannelModel):\n    def gain(self, *_):\n        return 3.0\n"
    channel = opened(f"{written(code)}:Loud", unusual_values=["channel"])
    assert channel.observe(0).truth.gain.tolist() == [3.0] * 4


def test_a_model_without_gains(written: Written) -> None:
    channel = opened(f"{written(HEAD + 'class Empty(ChannelModel): pass')}:Empty")
    with pytest.raises(AirtuneError, match="Empty has neither gain nor gains"):
        channel.observe(0)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("no_such_module:X", "cell.channel is no_such_module:X, but it must be importable"),
        ("own_channel:Nothing", "a class in own_channel"),
        ("own_channel:np", "a subclass of airtune.wireless.channel_model.ChannelModel"),
        ("street", "an import path module:Class"),
        ({"spacing_m": 3}, "a mapping with the key 'use'"),
        ({"use": "own_channel:Street", "gap": 3}, r"given options that it takes \(spacing_m"),
        ({"use": "own_channel:Street", "spacing_m": 3, "x": 1}, "given options that it takes"),
    ],
)
def test_refusals(written: Written, spec: Any, words: str) -> None:
    written(STREET)
    with pytest.raises(InputError, match=words) as refusal:
        opened(spec)
    assert refusal.value.field == "cell.channel"


def test_it_stands_in_the_place_of_files() -> None:
    for other in ({"trace": "x.csv", "trace_bandwidth_hz": 20e6}, {"replay": "x.csv"}):
        with pytest.raises(InputError, match=r"left out with cell\.channel"):
            CellSettings(channel="a:B", **other)
    # Every key is given to the model: none is without effect.
    refuse_unused_cell_keys(CellSettings(channel="a:B", rician_k_db=3, shadowing_distance_m=9))


def test_where_the_channel_came_from() -> None:
    assert channel_source(CellSettings(channel="a:B")) == "the channel model a:B"
