"""Exported channels come back to the bit, and mean the same to a program that knows only csv."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airtune.errors import AirtuneError, InputError
from airtune.wireless.cell import CellSettings
from airtune.wireless.channel import Channel, open_channel
from tests.wireless.states import MACRO, equal

WRONG = {"csi_error_db": 2.0, "csi_delay_rounds": 2}


def make(**settings: Any) -> Channel:
    return open_channel(CellSettings(**{**MACRO, **WRONG, **settings}), 5, 3)


def replayed(path: Path, clients: int = 5) -> Channel:
    return open_channel(CellSettings(replay=str(path)), clients, 99)


@pytest.mark.parametrize("suffix", ["csv", "npz"])
@pytest.mark.parametrize(
    "settings", [{}, {"rate_model": "cqi", "fading": "rician"}, {"path_loss": "umi"}]
)
def test_round_trip_to_the_bit(tmp_path: Path, suffix: str, settings: dict[str, Any]) -> None:
    channel, path = make(**settings), tmp_path / f"cell.{suffix}"
    channel.export(path, range(2, 7))
    again = replayed(path)
    for index in range(2, 7):
        assert equal(again.observe(index), channel.observe(index))


@pytest.mark.parametrize("suffix", ["csv", "npz"])
def test_traces_round_trip_with_their_gaps(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "walk.csv").write_text("x_mbps\n7\n0\n3.3\n")
    cell = CellSettings(trace=str(tmp_path / "walk.csv"), trace_bandwidth_hz=1e8)
    channel, path = open_channel(cell, 2, 3), tmp_path / f"cell.{suffix}"
    channel.export(path, range(4))
    for index in range(4):
        assert equal(replayed(path, 2).observe(index), channel.observe(index))
    assert 0 in replayed(path, 2).observe(1).truth.out_of_reach()


def test_export_of_an_export_is_the_same_file(tmp_path: Path) -> None:
    for suffix in ("csv", "npz"):
        first, second = tmp_path / f"one.{suffix}", tmp_path / f"two.{suffix}"
        make().export(first, [4, 1, 1])
        replayed(first).export(second, [1, 4])
        assert first.read_bytes() == second.read_bytes()


def test_fewer_clients_are_the_first_of_the_file(tmp_path: Path) -> None:
    make().export(tmp_path / "cell.npz", range(3))
    few = replayed(tmp_path / "cell.npz", 2).observe(1)
    assert len(few.truth) == len(few.estimate) == 2
    assert equal(few, make().observe(1), 2)


def test_csv_stands_on_its_own(tmp_path: Path) -> None:
    """Rates computed from the file by hand, without airtune, are the channel's rates."""
    channel = make(implementation_margin_db=2.0)
    channel.export(tmp_path / "cell.csv", [6])
    with (tmp_path / "cell.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 5
    for view, state in [
        ("truth", channel.observe(6).truth),
        ("estimate", channel.observe(6).estimate),
    ]:
        mine = [row for row in rows if row["view"] == view]
        assert [int(row["client"]) for row in mine] == list(range(5))
        assert {int(row["state_round"]) for row in mine} == {6 if view == "truth" else 4}
        snr = np.array(
            [
                float(row["tx_power_w"])
                * float(row["gain"])
                / float(row["uplink_noise_psd"])
                / float(row["margin"])
                / 1e6
                for row in mine
            ]
        )
        rate = 1e6 * np.log2(1 + snr)
        assert state.uplink().rate(np.full(5, 1e6)) == pytest.approx(rate, rel=1e-12)
        cn0 = [float(row["downlink_cn0_hz"]) for row in mine]
        assert np.array_equal(cn0, state.downlink_cn0_hz())
        assert {row["line_of_sight"] for row in mine} == {""}


def test_npz_has_the_axes_round_view_client(tmp_path: Path) -> None:
    channel = make()
    channel.export(tmp_path / "cell.npz", [2, 5])
    with np.load(tmp_path / "cell.npz") as packed:
        assert packed["gain"].shape == (2, 2, 5)
        assert np.array_equal(packed["gain"][1, 0], channel.observe(5).truth.gain)
        assert np.array_equal(packed["gain"][0, 1], channel.observe(2).estimate.gain)


def test_rows_may_come_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "cell.csv"
    make().export(path, range(3))
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *rows[::-1]]))
    assert equal(replayed(path).observe(2), make().observe(2))


def test_a_spreadsheet_may_have_saved_it(tmp_path: Path) -> None:
    path = tmp_path / "cell.csv"
    make().export(path, range(3))
    path.write_text("\ufeff" + path.read_text().replace(",", ", "), encoding="utf-8")
    assert equal(replayed(path).observe(2), make().observe(2))


def test_round_that_was_not_recorded(tmp_path: Path) -> None:
    make().export(tmp_path / "cell.csv", [2, 3])
    with pytest.raises(InputError, match=r"rounds 2 to 3.*holds round 4"):
        replayed(tmp_path / "cell.csv").observe(4)


def test_a_recording_that_ends_too_early_is_known_before_round_0(tmp_path: Path) -> None:
    make().export(tmp_path / "cell.csv", range(3))
    replayed(tmp_path / "cell.csv").require_rounds(3)
    with pytest.raises(InputError, match=r"rounds 0 to 2.*every round from 0 to 3.*--rounds"):
        replayed(tmp_path / "cell.csv").require_rounds(4)
    make().require_rounds(10**6)


def test_too_few_clients(tmp_path: Path) -> None:
    make().export(tmp_path / "cell.csv", [2])
    with pytest.raises(InputError, match="at least 6 clients, not 5"):
        replayed(tmp_path / "cell.csv", 6)


def _without(text: str, column: str) -> str:
    rows = [line.split(",") for line in text.splitlines()]
    at = rows[0].index(column)
    return "\n".join(",".join(row[:at] + row[at + 1 :]) for row in rows)


def _with(text: str, column: str, value: str) -> str:
    """The file with another value in the last row of a column."""
    rows = [line.split(",") for line in text.splitlines()]
    rows[-1][rows[0].index(column)] = value
    return "\n".join(map(",".join, rows))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text.splitlines()[0],
        lambda text: _without(text, "gain"),
        lambda text: text.replace("truth", "seen"),
        lambda text: text.replace("shannon", "cdma"),
        lambda text: "\n".join(text.splitlines()[:-1]),
        lambda text: "\n".join([*text.splitlines()[:-1], text.splitlines()[-2]]),
        lambda text: text.replace(",1,truth", ",one,truth").replace("1,truth", "one,truth"),
        lambda text: text.replace("gain,", "gain,gain,", 1),
        lambda text: text.replace("\n1,truth", "\n1_0,truth"),
        *[
            lambda text, value=value, column=column: _with(text, column, value)
            for column, value in (
                ("gain", "-1e-9"),
                ("gain", "1_000"),
                ("gain", "inf"),
                ("gain", "nan"),
                ("gain", ""),
                ("tx_power_w", ""),
                ("uplink_noise_psd", "0"),
                ("margin", "-1"),
                ("client", "0.5"),
                ("spectral_efficiency", "1e999"),
            )
        ],
    ],
)
def test_damaged_csv_is_refused(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "cell.csv"
    make().export(path, range(3))
    path.write_text(damage(path.read_text()))
    with pytest.raises(InputError, match=r"^cell\.replay is .*cell\.csv"):
        replayed(path)


def test_damaged_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cell.npz"
    path.write_bytes(b"not a zip file")
    with pytest.raises(InputError, match=r"cell\.replay"):
        replayed(path)
    np.savez(path, gain=np.ones(3))
    with pytest.raises(InputError, match=r"cell\.replay"):
        replayed(path)
    make().export(path, range(3))
    with np.load(path) as packed:
        whole = dict(packed)
    for changed in (
        {"gain": whole["gain"].astype(str)},
        {"gain": whole["gain"][:2]},
        {"gain": -whole["gain"]},
        {"client": whole["client"] + 0.5},
    ):
        np.savez(path, **{**whole, **changed})
        with pytest.raises(InputError, match=r"cell\.replay"):
            replayed(path)
    make().export(path, range(3))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"cell\.replay"):
        replayed(path)


def test_export_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.csv or \.npz"):
        make().export(tmp_path / "cell.parquet", range(3))
    with pytest.raises(InputError, match="at least one round"):
        make().export(tmp_path / "cell.csv", [])
    with pytest.raises(AirtuneError, match="cannot be written"):
        make().export(tmp_path / "absent" / "cell.csv", [1])
    assert list(tmp_path.iterdir()) == []
