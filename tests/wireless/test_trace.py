"""Measured throughput as a channel: units, columns, offsets, and links that are down."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airtune.errors import InputError
from airtune.wireless.cell import CellSettings
from airtune.wireless.channel import Channel, open_channel
from airtune.wireless.trace_files import read_trace

WALK = "seq,radio,throughput_mbps\n0,5G,100\n1,4G,0\n2,5G,50.5\n3,4G,2e1\n"
CARS = "seq,A_throughput_mbps,B_throughput_kbps\n0,10,1000\n1,20,3000\n"


@pytest.fixture
def walk(tmp_path: Path) -> Path:
    (tmp_path / "walk.csv").write_text(WALK)
    return tmp_path / "walk.csv"


@pytest.fixture
def cars(tmp_path: Path) -> Path:
    (tmp_path / "cars.csv").write_text(CARS)
    return tmp_path / "cars.csv"


def traced(trace: Any, clients: int = 1, seed: int = 3, **settings: Any) -> Channel:
    cell = CellSettings(trace=trace, trace_bandwidth_hz=20e6, **settings)
    return open_channel(cell, clients, seed)


def test_units_come_from_the_column_name(cars: Path, walk: Path) -> None:
    assert read_trace(walk).rate_bps.tolist() == [100e6, 0.0, 50.5e6, 20e6]
    assert read_trace(cars, "A_throughput_mbps").rate_bps.tolist() == [10e6, 20e6]
    assert read_trace(cars, "B_throughput_kbps").rate_bps.tolist() == [1e6, 3e6]


@pytest.mark.parametrize(
    ("unit", "bits"),
    [
        ("bps", 1.0),
        ("kbps", 1e3),
        ("Kbps", 1e3),
        ("mbps", 1e6),
        ("Mbps", 1e6),
        ("Gbps", 1e9),
        ("Bps", 8.0),
        ("kBps", 8e3),
        ("KBps", 8e3),
        ("MBps", 8e6),
        ("mBps", 8e6),
        ("GBps", 8e9),
    ],
)
def test_a_capital_b_is_a_byte(tmp_path: Path, unit: str, bits: float) -> None:
    path = tmp_path / "units.csv"
    path.write_text(f"throughput_{unit}\n3\n0\n")
    assert read_trace(path).rate_bps.tolist() == [3 * bits, 0.0]


def test_a_stated_unit_replaces_the_name(tmp_path: Path) -> None:
    path = tmp_path / "capitals.csv"
    path.write_text("DL_MBPS,rate\n3,40\n")
    assert read_trace(path, unit="Mbps").rate_bps.tolist() == [3e6]
    assert read_trace(path, "rate", unit="kBps").rate_bps.tolist() == [320e3]
    channel = traced(str(path), trace_unit="MBps")
    assert channel.observe(0).truth.spectral_efficiency.tolist() == [24e6 / 20e6]
    with pytest.raises(InputError, match=r"cell\.trace_unit is MBPS"):
        CellSettings(trace_unit="MBPS")


def test_blanks_byte_order_marks_and_short_rows(tmp_path: Path) -> None:
    path = tmp_path / "spreadsheet.csv"
    path.write_bytes('\ufeffa_mbps, b , c\r\n 1 , x ,\r\n\r\n2, "y",,\r\n3\r\n'.encode())
    assert read_trace(path).rate_bps.tolist() == [1e6, 2e6, 3e6]
    assert read_trace(path, "a_mbps ", {"b": "y"}).rate_bps.tolist() == [2e6]


def test_rows_are_chosen_by_other_columns(walk: Path) -> None:
    assert read_trace(walk, where={"radio": "5G"}).rate_bps.tolist() == [100e6, 50.5e6]
    assert read_trace(walk, where={"radio": "4G", "seq": "3"}).rate_bps.tolist() == [20e6]


def test_rate_is_efficiency_times_bandwidth_and_the_trace_starts_over(walk: Path) -> None:
    channel = traced(str(walk))
    rates = [channel.observe(t).truth.uplink().rate(np.array([5e6]))[0] for t in range(6)]
    # A quarter of the carrier carries a quarter of the throughput.
    assert rates == pytest.approx([25e6, 0.0, 12.625e6, 5e6, 25e6, 0.0])
    assert channel.observe(2).truth.downlink().rate(np.array([20e6]))[0] == pytest.approx(50.5e6)


def test_transmit_power_does_not_change_a_measurement(walk: Path) -> None:
    truth = traced(str(walk)).observe(0).truth
    assert truth.uplink(np.array([10.0])).rate(np.array([1e6]))[0] == pytest.approx(5e6)


def test_a_link_that_is_down_is_said(walk: Path) -> None:
    truth = traced(str(walk)).observe(1).truth
    assert truth.out_of_reach() == {
        0: "client 0 is out of reach: its trace shows no throughput in this round"
    }
    assert truth.uplink().bandwidth_for(np.array([1.0]))[0] == np.inf
    assert traced(str(walk)).observe(0).truth.out_of_reach() == {}


def test_geometry_is_unknown_and_not_invented(walk: Path) -> None:
    truth = traced(str(walk)).observe(0).truth
    assert truth.is_measured
    assert np.isnan(truth.gain).all()
    assert np.isnan(truth.position_m).all()
    assert truth.without_fading() is truth


def test_clients_take_the_traces_in_turn(cars: Path, walk: Path) -> None:
    columns = ["A_throughput_mbps", "B_throughput_kbps"]
    channel = traced(str(cars), 2, trace_column=columns)
    assert channel.observe(0).truth.spectral_efficiency == pytest.approx([0.5, 0.05])
    assert channel.observe(1).truth.spectral_efficiency == pytest.approx([1.0, 0.15])
    both = traced([str(walk), str(walk)], 2)
    assert both.observe(2).truth.spectral_efficiency == pytest.approx([2.525, 2.525])


def test_further_clients_start_elsewhere_but_always_there(tmp_path: Path) -> None:
    path = tmp_path / "ramp.csv"
    path.write_text("x_bps\n" + "\n".join(str(20e6 * row) for row in range(1, 501)))

    def efficiency(clients: int, index: int = 0, seed: int = 3) -> np.ndarray:
        # 500 bit/s/Hz, to tell 500 rows apart: not a measurement, and meant.
        channel = traced(str(path), clients, seed, unusual_values=["trace"])
        return channel.observe(index).truth.spectral_efficiency

    many = efficiency(40)
    assert many[0] == 1.0
    assert len(set(many)) > 30
    assert np.array_equal(efficiency(5), many[:5])
    assert not np.array_equal(efficiency(40, seed=4), many)
    later = efficiency(40, 7)
    assert np.array_equal((many - 1 + 7) % 500 + 1, later)


@pytest.mark.parametrize(("rate", "shown"), [("3e9", "150"), ("1500", "7.5e-05")])
def test_a_trace_beyond_any_efficiency_is_refused_unless_it_is_meant(
    tmp_path: Path, rate: str, shown: str
) -> None:
    """A wrong unit shows in bit/s/Hz; a trace without any throughput is refused as such."""
    path = tmp_path / "slip.csv"
    path.write_text(f"x_bps\n0\n{rate}\n")
    with pytest.raises(InputError, match=rf"at most {shown} bit/s/Hz.*list trace in cell\.unusual"):
        traced(str(path))
    assert len(traced(str(path), unusual_values="trace").observe(1).truth) == 1
    path.write_text("x_bps\n0\n")
    with pytest.raises(InputError, match="no client can ever send on it"):
        traced(str(path))


def test_estimate_of_a_trace_is_stale_and_wrong_as_asked(walk: Path) -> None:
    channel = traced(str(walk), 1, csi_delay_rounds=1)
    assert channel.observe(1).estimate.spectral_efficiency == pytest.approx([5.0])
    assert channel.observe(1).truth.spectral_efficiency == pytest.approx([0.0])
    wrong = traced(str(walk), 1, csi_error_db=3.0).observe(0)
    assert wrong.truth.spectral_efficiency == pytest.approx([5.0])
    assert wrong.estimate.spectral_efficiency != pytest.approx([5.0], rel=1e-3)


REFUSED = [
    ("cell.trace_column", "", {}),
    ("cell.trace_column", "a_mbps,b_mbps\n1,2\n", {}),
    ("cell.trace_column", "a_mbps\n1\n", {"column": "b_mbps"}),
    ("cell.trace_column", "seq,speed\n1,2\n", {"column": "speed"}),
    ("cell.trace_where", "a_mbps\n1\n", {"where": {"carrier": "X"}}),
    ("cell.trace", "a_mbps\n", {}),
    ("cell.trace", "a_mbps,r\n1,4G\n", {"where": {"r": "5G"}}),
    ("cell.trace", "a_mbps\n1\n-2\n", {}),
    ("cell.trace", "a_mbps,b\n1,x\n,y\n", {}),
    ("cell.trace", "a_mbps\n1\nmany\n", {}),
    ("cell.trace", "a_mbps\n1\ninf\n", {}),
    *[
        ("cell.trace", f"a_mbps,b\n1,x\n{text},y\n", {})
        for text in (
            "",
            "nan",
            "NaN",
            "-inf",
            "Infinity",
            "0x1F",
            "1_000",
            "1 000",
            "1e308",
            "1e400",
            "-1",
            "-1e-3",
            "1,000",
            "1.2.3",
            "1e",
            "１２",
            "true",
            "1e-9",
            "12 Mbps",
            "'1'",
        )
    ],
    ("cell.trace", 'a_mbps,b\n1,x\n"1\n', {}),
    ("cell.trace", "a_mbps;b\n1;x\n", {}),
    ("cell.trace", "a_mbps,a_mbps\n1,2\n", {}),
    ("cell.trace", "a_mbps, a_mbps\n1,2\n", {"column": "a_mbps"}),
    ("cell.trace", "seq,a_mbps,seq\n1,2,3\n", {}),
    ("cell.trace_column", "a_MBPS\n1\n", {}),
    ("cell.trace_column", "a_kBPS\n1\n", {"column": "a_kBPS"}),
    ("cell.trace_column", "a_mibps\n1\n", {"column": "a_mibps"}),
]


@pytest.mark.parametrize(("field", "text", "options"), REFUSED)
def test_refusals_name_the_field(
    tmp_path: Path, field: str, text: str, options: dict[str, Any]
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InputError) as refusal:
        read_trace(path, **options)
    assert refusal.value.field == field
    assert "bad.csv" in str(refusal.value)


def test_a_bad_sample_is_found_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("a_mbps,b\n1,x\n,y\n")
    with pytest.raises(InputError, match="line 3"):
        read_trace(path)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cell\.trace is .*nothing\.csv"):
        traced(str(tmp_path / "nothing.csv"))
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="UTF-8"):
        traced(str(tmp_path / "bytes.csv"))


class TestFiveGophers:
    """Walking and driving traces of a commercial 5G network (5Gophers, CC BY 4.0)."""

    @pytest.fixture
    def mobility(self, real_data: Path) -> Path:
        folder = real_data / "5gophers" / "All-Carriers" / "03-User-Mobility"
        if not folder.is_dir():
            pytest.skip("5Gophers is not in the data folder")
        return folder

    def test_walking_trace(self, mobility: Path) -> None:
        walk = read_trace(mobility / "walking-trace.csv")
        assert len(walk.rate_bps) == 603
        assert np.count_nonzero(walk.rate_bps == 0) == 5
        assert walk.rate_bps.mean() == pytest.approx(332.886e6, rel=1e-5)
        channel = traced(str(mobility / "walking-trace.csv"), 20)
        down = [channel.observe(index).truth.out_of_reach() for index in range(603)]
        # Every client passes each of the five gaps once.
        assert sum(map(len, down)) == 100

    def test_driving_trace_with_one_operator_per_client(self, mobility: Path) -> None:
        columns = [f"{name}_throughput_mbps" for name in ("Sprint", "TMobile", "Verizon")]
        channel = traced(str(mobility / "car-driving-trace-2.csv"), 3, trace_column=columns)
        reach = [channel.observe(index).truth.out_of_reach() for index in range(120)]
        assert sum(1 in each for each in reach) == 83
        assert sum(0 in each for each in reach) == 0

    def test_file_with_empty_samples_needs_a_choice_of_rows(self, real_data: Path) -> None:
        path = real_data / "5gophers" / "mmWave-only" / "03-UE-Panel (LoS Tests)" / "data.csv"
        if not path.is_file():
            pytest.skip("5Gophers is not in the data folder")
        with pytest.raises(InputError, match="trace_where"):
            read_trace(path)
        assert len(read_trace(path, where={"protocol": "TCP", "radio_type": "5G"}).rate_bps) == 1836
