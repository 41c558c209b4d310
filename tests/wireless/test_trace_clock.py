"""Traces on a clock of their own: means over the time of rounds, gaps, both directions."""

import csv
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airtune.errors import InputError
from airtune.wireless.cell import CellSettings
from airtune.wireless.channel import Channel, open_channel
from airtune.wireless.trace import Gaps, Sample, Trace, on_a_clock
from airtune.wireless.traced_cell import cell_traces
from airtune.wireless.unused import refuse_unused_cell_keys

Row = tuple[float, float]
"""A time [s] and a throughput [bit/s]."""
WIDTH_HZ = 100e6


def traced(trace: Any, clients: int = 1, seed: int = 3, **settings: Any) -> Channel:
    known: dict[str, Any] = {"trace_bandwidth_hz": WIDTH_HZ, "round_interval_s": 10.0}
    return open_channel(CellSettings(trace=trace, **{**known, **settings}), clients, seed)


def rates(channel: Channel, rounds: int, client: int = 0, down: bool = False) -> list[float]:
    """What a client of the whole carrier has in each round, bit/s."""
    band = np.full(channel.clients, WIDTH_HZ)
    states = (channel.observe(index).truth for index in range(rounds))
    links = (state.downlink() if down else state.uplink() for state in states)
    return [float(link.rate(band)[client]) for link in links]


def plain_mean(rows: list[Row], begin: float, end: float) -> float:
    """Walk from row to row and add up bits; rows of one time count with their mean."""
    merged: list[tuple[float, list[float]]] = []
    for time, rate in rows:
        if merged and merged[-1][0] == time:
            merged[-1][1].append(rate)
        else:
            merged.append((time, [rate]))
    times = [time - merged[0][0] for time, _ in merged]
    steps = sorted(b - a for a, b in pairwise(times))
    middle = len(steps) // 2
    last = steps[middle] if len(steps) % 2 else (steps[middle - 1] + steps[middle]) / 2
    ends = [*times[1:], times[-1] + last]
    bits, begun = 0.0, 0.0
    while begun < end:
        for at, until, (_, found) in zip(times, ends, merged, strict=True):
            low, high = max(begun + at, begin), min(begun + until, end)
            if high > low:
                bits += (high - low) * sum(found) / len(found)
        begun += ends[-1]
    return bits / (end - begin)


def test_a_round_has_the_mean_of_its_time(tmp_path: Path) -> None:
    path = tmp_path / "walk.csv"
    path.write_text("time_s,rate_mbps\n100,8\n104,2\n110,0\n116,4\n")
    # Samples of 4, 6, 6 and then 6 s (the median step): 22 s, and it starts over.
    channel = traced(path, trace_time_column="time_s")
    assert rates(channel, 3) == pytest.approx(
        [(4 * 8e6 + 6 * 2e6) / 10, (6 * 0 + 4 * 4e6) / 10, (2 * 4e6 + 4 * 8e6 + 4 * 2e6) / 10]
    )
    assert channel.samples == 3
    shorter = traced(path, trace_time_column="time_s", round_interval_s=2.0)
    assert rates(shorter, 12) == pytest.approx(
        [8e6] * 2 + [2e6] * 3 + [0.0] * 3 + [4e6] * 3 + [8e6]
    )
    # A round of which no part carries anything is out of reach; one that has some is not.
    assert shorter.observe(5).truth.out_of_reach() == {
        0: "client 0 is out of reach: its trace shows no throughput in this round"
    }
    assert channel.observe(1).truth.out_of_reach() == {}


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from([0.0, 1e6, 2.5e6, 7e6])),
        min_size=2,
        max_size=8,
    ),
    st.floats(0.0, 90.0),
    st.floats(0.1, 40.0),
)
def test_means_against_a_walk_along_the_rows(
    steps: list[tuple[int, float]], begin: float, length: float
) -> None:
    rows: list[Row] = []
    for step, rate in steps:
        rows.append(((rows[-1][0] if rows else 5.0) + step, rate))
    if rows[0][0] == rows[-1][0]:
        return
    samples = [Sample(k, *row) for k, row in enumerate(rows)]
    trace = on_a_clock("x", "x", samples, Gaps("hold"))
    found = trace.mean_bps(begin, begin + length)
    assert found == pytest.approx(plain_mean(rows, begin, begin + length), rel=1e-9, abs=1e-3)
    if not any(rate for _, rate in rows):
        assert found == 0.0


def test_a_stretch_without_a_bit_is_exactly_zero_across_the_end() -> None:
    trace = Trace("x", np.array([0.0, 1 / 3 * 1e6, 0.0]), np.array([0.0, 7.1, 9.3, 20.7]))
    for passes in range(200):
        begin = passes * 20.7 + 10.0
        assert trace.mean_bps(begin, begin + 12.0) == 0.0
    assert trace.mean_bps(0.0, 207.0) == pytest.approx(2.2 / 20.7 / 3 * 1e6)


def test_further_clients_begin_elsewhere_in_time(tmp_path: Path) -> None:
    path = tmp_path / "ramp.csv"
    lines = [f"{second},{second + 1}" for second in range(100)]
    path.write_text("\n".join(["at_s,x_mbps", *lines]))
    channel = traced(path, 30, trace_time_column="at_s", round_interval_s=1.0)
    seen = channel.observe(0).truth.spectral_efficiency
    assert seen[0] == pytest.approx(1e6 / WIDTH_HZ)
    assert len(set(seen)) == 30
    assert np.array_equal(
        seen[:7],
        traced(path, 7, trace_time_column="at_s", round_interval_s=1.0)
        .observe(0)
        .truth.spectral_efficiency,
    )


@pytest.mark.parametrize(
    ("unit", "column", "cells"),
    [
        (None, "time_s", ["0", "2.5"]),
        (None, "time_ms", ["1000", "3500"]),
        (None, "t_us", ["0", "2.5e6"]),
        ("s", "when", ["-1", "1.5"]),
        ("timestamp", "when", ["2024-05-17T08:30:00", "2024-05-17 08:30:02.5"]),
        ("timestamp", "when", ["2024-05-17T08:30:00Z", "2024-05-17T10:30:02.500+02:00"]),
    ],
)
def test_units_of_time(tmp_path: Path, unit: str | None, column: str, cells: list[str]) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"{column},x_mbps\n{cells[0]},6\n{cells[1]},0\n")
    cell = CellSettings(
        trace=path,
        trace_bandwidth_hz=WIDTH_HZ,
        trace_time_column=column,
        **({"trace_time_unit": unit} if unit else {}),
    )
    [trace], _ = cell_traces(cell)
    assert trace.edge_s is not None
    assert trace.edge_s.tolist() == pytest.approx([0.0, 2.5, 5.0])


class TestGaps:
    @pytest.fixture
    def gapped(self, tmp_path: Path) -> Path:
        path = tmp_path / "gap.csv"
        path.write_text("t_s,x_mbps\n0,1\n1,2\n2,4\n62,8\n63,1\n")
        return path

    def test_a_gap_is_refused_with_its_line(self, gapped: Path) -> None:
        with pytest.raises(InputError) as refusal:
            traced(gapped, trace_time_column="t_s")
        said = str(refusal.value)
        assert "gap.csv, line 5, 60 s after the row before it" in said
        assert "cell.trace_gaps" in said

    def test_or_the_row_before_it_holds(self, gapped: Path) -> None:
        channel = traced(gapped, trace_time_column="t_s", trace_gaps="hold")
        assert rates(channel, 6)[1:] == pytest.approx([4e6] * 5)

    def test_or_nothing_is_sent(self, gapped: Path) -> None:
        channel = traced(gapped, trace_time_column="t_s", trace_gaps="idle", trace_gap_s=5)
        # From 60 to 70 s: 2 idle, 8 and 1 for a second each, then the first 6 s again.
        wrapped = (2 * 0 + 8e6 + 1e6 + 1e6 + 2e6 + 4 * 4e6) / 10
        expected = [(1e6 + 2e6 + 5 * 4e6) / 10, 0, 0, 0, 0, 0, wrapped]
        assert rates(channel, 7) == pytest.approx(expected)
        assert len(channel.observe(3).truth.out_of_reach()) == 1

    def test_a_slow_measurement_has_no_gap(self, gapped: Path) -> None:
        channel = traced(gapped, trace_time_column="t_s", trace_gap_s=60)
        assert rates(channel, 2)[1] == pytest.approx(4e6)


class TestDirections:
    def test_a_column_each(self, tmp_path: Path) -> None:
        path = tmp_path / "both.csv"
        path.write_text("up_mbps,down_mbps\n1,10\n2,0\n0,30\n")
        names: dict[str, Any] = {"trace_column": "up_mbps", "trace_downlink_column": "down_mbps"}
        channel = traced(path, **names)
        assert rates(channel, 3) == [1e6, 2e6, 0.0]
        assert rates(channel, 4, down=True) == [10e6, 0.0, 30e6, 10e6]
        assert [len(channel.observe(index).truth.out_of_reach()) for index in range(3)] == [0, 1, 1]

    def test_a_file_each_of_other_lengths(self, tmp_path: Path) -> None:
        up, down = tmp_path / "up.csv", tmp_path / "down.csv"
        up.write_text("x_mbps\n1\n2\n")
        down.write_text("x_mbps\n10\n20\n30\n")
        channel = traced(up, trace_downlink=str(down))
        assert rates(channel, 4) == [1e6, 2e6, 1e6, 2e6]
        assert rates(channel, 4, down=True) == [10e6, 20e6, 30e6, 10e6]
        assert channel.samples == 3
        with pytest.raises(InputError, match="as many as of the uplink, 1"):
            traced(up, trace_downlink=[str(down), str(down)])

    def test_an_error_of_the_estimate_is_in_both(self, tmp_path: Path) -> None:
        path = tmp_path / "both.csv"
        path.write_text("up_mbps,down_mbps\n1,10\n")
        names: dict[str, Any] = {"trace_column": "up_mbps", "trace_downlink_column": "down_mbps"}
        seen = traced(path, csi_error_db=3.0, **names).observe(0)
        assert seen.truth.downlink_efficiency is not None
        assert seen.estimate.downlink_efficiency is not None
        both = seen.estimate.spectral_efficiency / seen.truth.spectral_efficiency
        assert both[0] != pytest.approx(1.0, rel=1e-3)
        assert seen.estimate.downlink_efficiency / seen.truth.downlink_efficiency == (
            pytest.approx(both)
        )

    @pytest.mark.parametrize("suffix", [".csv", ".npz"])
    def test_a_recording_keeps_both(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / "both.csv"
        path.write_text("up_mbps,down_mbps\n1,10\n2,0\n")
        names: dict[str, Any] = {"trace_column": "up_mbps", "trace_downlink_column": "down_mbps"}
        channel = traced(path, 2, **names)
        channel.export(tmp_path / f"cell{suffix}", range(4))
        replayed = open_channel(CellSettings(replay=tmp_path / f"cell{suffix}"), 2, 0)
        for index in range(4):
            before, after = channel.observe(index).truth, replayed.observe(index).truth
            assert before.downlink_efficiency is not None
            assert after.downlink_efficiency is not None
            assert np.array_equal(before.downlink_efficiency, after.downlink_efficiency)
            assert before.out_of_reach() == after.out_of_reach()

    def test_a_silent_direction_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "both.csv"
        path.write_text("up_mbps,down_mbps\n1,0\n")
        with pytest.raises(InputError, match=r"both\.csv:down_mbps.*no client can ever send"):
            traced(path, trace_column="up_mbps", trace_downlink_column="down_mbps")


LOG = "Timestamp,CellID,DL_bitrate,UL_bitrate,State\n"


class TestDriveLogs:
    """The format of the UCC 5G data set (Raca et al., MMSys 2020)."""

    @pytest.fixture
    def log(self, tmp_path: Path) -> Path:
        path = tmp_path / "drive.csv"
        rows = ["00,1,800,30,D", "00,1,400,10,D", "01,1,1600,0,D", "03,1,0,40,I", "04,1,100,5,D"]
        path.write_text(LOG + "".join(f"2019.12.14_10.16.{row}\n" for row in rows))
        return path

    def test_kbit_per_second_in_both_directions(self, log: Path) -> None:
        channel = traced(log, trace_format="ucc-5g", round_interval_s=1.0)
        assert rates(channel, 6) == pytest.approx([20e3, 0, 0, 40e3, 5e3, 20e3])
        expected = [600e3, 1600e3, 1600e3, 0, 100e3, 600e3]
        assert rates(channel, 6, down=True) == pytest.approx(expected)

    def test_the_cell_may_say_otherwise(self, log: Path) -> None:
        channel = traced(log, trace_format="ucc-5g", trace_column="DL_bitrate", trace_unit="Mbps")
        assert rates(channel, 1) == rates(channel, 1, down=True)
        assert rates(channel, 1)[0] > 100e6

    def test_without_the_format_it_is_named(self, log: Path) -> None:
        with pytest.raises(InputError, match=r"those of cell\.trace_format ucc-5g"):
            traced(log)


class TestPackets:
    """mahimahi's packet deliveries."""

    def write(self, folder: Path, *lines: int) -> Path:
        path = folder / "link.up"
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    def test_a_line_is_1500_bytes(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, 0, 500, 999, 1000, 1000, 2500, 3000)
        channel = traced(path, trace_format="mahimahi", round_interval_s=1.0)
        assert rates(channel, 4) == pytest.approx([36e3, 24e3, 24e3, 36e3])
        wide = traced(path, trace_format="mahimahi", trace_window_s=2, round_interval_s=1.5)
        # 3 s hold one window of at least 2 s.
        assert rates(wide, 2) == pytest.approx([28e3, 28e3])

    def test_a_fixed_rate(self, tmp_path: Path) -> None:
        """The example of mahimahi's own README: a single 1 is 12 Mbit/s."""
        path = self.write(tmp_path, 1)
        assert rates(traced(path, trace_format="mahimahi"), 3) == pytest.approx([12e6] * 3)

    def test_a_file_each(self, tmp_path: Path) -> None:
        up = self.write(tmp_path, 1)
        down = tmp_path / "link.down"
        down.write_text("2\n")
        channel = traced(up, trace_downlink=str(down), trace_format="mahimahi")
        assert rates(channel, 1) == pytest.approx([12e6])
        assert rates(channel, 1, down=True) == pytest.approx([6e6])

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "ends later than at 0"),
            ("0\n0\n", "ends later than at 0"),
            ("1\n\n2\n", "line 2"),
            ("1\n-2\n", "line 2"),
            ("1\n2.5\n", "line 2"),
            ("1\nnan\n", "line 2"),
            ("5\n6\n3\n", "line 3.*not less than the line above"),
            ("time,rate\n1,2\n", "line 1.*whole number of milliseconds"),
            ("1\n9999999999999\n", "line 2"),
        ],
    )
    def test_refusals_name_file_and_line(self, tmp_path: Path, text: str, words: str) -> None:
        path = tmp_path / "link.up"
        path.write_text(text)
        with pytest.raises(InputError, match=rf"(?s)link\.up.*{words}"):
            traced(path, trace_format="mahimahi")

    def test_windows_without_end_are_refused(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, 999_999_999_999)
        with pytest.raises(InputError, match="trace_window_s"):
            traced(path, trace_format="mahimahi")


BROKEN = [
    ("t_s,x_mbps\n0,1\nsoon,2\n", {}, "bad.csv, line 3, t_s 'soon'"),
    ("t_s,x_mbps\n0,1\n,2\n", {}, "bad.csv, line 3, t_s ''"),
    ("t_s,x_mbps\n0,1\nnan,2\n", {}, "bad.csv, line 3, t_s 'nan'"),
    ("t_s,x_mbps\n0,1\n1e300,2\n", {}, "bad.csv, line 3, t_s '1e300'"),
    ("t_s,x_mbps\n0,1\n2,1\n1.5,2\n", {}, "bad.csv, line 4, 0.5 s before the row above it"),
    ("t_s,x_mbps\n0,1\n1,NaN\n", {}, "bad.csv, line 3, x_mbps 'NaN'"),
    ("t_s,x_mbps\n0,1\n1,-4\n", {}, "bad.csv, line 3, x_mbps '-4'"),
    ("t_s,x_mbps\n0,1\n1,fast\n", {}, "bad.csv, line 3, x_mbps 'fast'"),
    ("t_s,x_mbps\n", {}, "at least one row"),
    ("", {}, "bad.csv"),
    ("t_s,x_mbps\n3,1\n3,2\n", {}, "bad.csv, whose rows all have one time"),
    ("t_s,x_mbps\n3,1\n", {}, "bad.csv, whose rows all have one time"),
    ("t_s,x\n0,1\n1,2\n", {"trace_column": "x"}, "a column of bad.csv in one of bps"),
    ("t,x_mbps\n0,1\n1,2\n", {"trace_time_column": "t"}, "bad.csv whose name ends in _s, _ms"),
    ("t_s,x_mbps\n0,1\n1,2\n", {"trace_time_column": "when"}, "a column of bad.csv: t_s, x_mbps"),
    (
        "t_s,x_mbps\n2024-01-01,1\nyesterday,2\n",
        {"trace_time_unit": "timestamp"},
        "bad.csv, line 3, t_s 'yesterday'",
    ),
]


@pytest.mark.parametrize(("text", "settings", "words"), BROKEN)
def test_broken_files_are_named_with_their_line(
    tmp_path: Path, text: str, settings: dict[str, Any], words: str
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InputError) as refusal:
        traced(path, **{"trace_time_column": "t_s", **settings})
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


UNUSED = [
    ({"trace_gaps": "hold"}, "cell.trace_gaps"),
    ({"trace_gap_s": 3}, "cell.trace_gap_s"),
    ({"trace_time_unit": "s"}, "cell.trace_time_unit"),
    ({"trace_window_s": 3}, "cell.trace_window_s"),
    ({"trace_time_column": "t", "trace_gaps": "hold", "trace_gap_s": 3}, "cell.trace_gap_s"),
    ({"trace_format": "mahimahi", "trace_column": "x"}, "cell.trace_column"),
    ({"trace_format": "mahimahi", "trace_downlink_column": "x"}, "cell.trace_downlink_column"),
    ({"trace_format": "mahimahi", "trace_unit": "bps"}, "cell.trace_unit"),
    ({"trace_format": "mahimahi", "trace_where": {"a": 1}}, "cell.trace_where"),
    ({"trace_format": "mahimahi", "trace_time_column": "t"}, "cell.trace_time_column"),
    ({"trace_format": "mahimahi", "trace_gaps": "idle"}, "cell.trace_gaps"),
]


@pytest.mark.parametrize(("settings", "key"), UNUSED)
def test_a_key_without_effect_is_refused(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError) as refusal:
        refuse_unused_cell_keys(CellSettings(trace="x", trace_bandwidth_hz=20e6, **settings))
    assert refusal.value.field == key


@pytest.mark.parametrize("key", ["trace_format", "trace_downlink", "trace_gap_s", "trace_window_s"])
def test_nor_without_a_trace(key: str) -> None:
    value = {"trace_format": "mahimahi", "trace_downlink": "x"}.get(key, 3)
    with pytest.raises(InputError, match=f"cell.{key}"):
        refuse_unused_cell_keys(CellSettings(**{key: value}))


def test_spelled_units(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("rate\n2\n")
    for unit, bits in {"Mbit/s": 2e6, "kbyte/s": 16e3, "bit/s": 2, "Gbyte/s": 16e9}.items():
        channel = traced(path, trace_column="rate", trace_unit=unit, unusual_values="trace")
        assert rates(channel, 1) == pytest.approx([bits])


def _rows(path: Path, time: str, column: str, bits: float, **where: str) -> list[Row]:
    """A plain reading of a csv file."""
    with path.open(encoding="utf-8") as stream:
        found = []
        for row in csv.DictReader(stream):
            if all(row[key] == value for key, value in where.items()):
                at = row[time]
                if "_" in at:
                    seconds = (
                        datetime.strptime(at, "%Y.%m.%d_%H.%M.%S") - datetime(2019, 1, 1)
                    ).total_seconds()
                else:
                    seconds = float(at)
                found.append((seconds, float(row[column]) * bits))
    return found


def _gophers() -> Iterator[Any]:
    mobility = "All-Carriers/03-User-Mobility"
    yield f"{mobility}/walking-trace.csv", "throughput_mbps", {}
    for drive in (1, 2):
        for name in ("Sprint", "TMobile", "Verizon"):
            yield f"{mobility}/car-driving-trace-{drive}.csv", f"{name}_throughput_mbps", {}
    for place in ("A-(with", "C-(no"):
        where = f"mmWave-only/05-UE-Panel (NLoS Tests)/data-location{place}-multipath).csv"
        yield where, "throughput_mbps", {}
    for distance, run in (("25.0", "7"), ("25.0", "8")):
        chosen = {"distance_in_meters": distance, "run_num": run, "num_tcp_conn": "8"}
        yield "mmWave-only/07-UE-Panel (Distance Tests)/data.csv", "throughput_mbps", chosen
    for run in ("1", "2"):
        chosen = {"run_num": run}
        yield "mmWave-only/06-UE-Panel (Orientation Tests)/data.csv", "throughput_mbps", chosen


class TestRealFiles:
    """Rounds of real files against the plain reading above."""

    @pytest.mark.parametrize(("name", "column", "where"), list(_gophers()))
    def test_5gophers(self, real_data: Path, name: str, column: str, where: dict[str, str]) -> None:
        path = real_data / "5gophers" / name
        if not path.is_file():
            pytest.skip("5Gophers is not in the data folder")
        rows = _rows(path, "seq_num", column, 1e6, **where)
        assert len(rows) >= 10
        options: dict[str, Any] = {"trace_where": where} if where else {}
        channel = traced(path, trace_format="5gophers", trace_column=column, **options)
        expected = [plain_mean(rows, 10.0 * t, 10.0 * t + 10.0) for t in range(15)]
        assert rates(channel, 15) == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("number", range(12))
    def test_ucc_5g(self, real_data: Path, number: int) -> None:
        folder = real_data / "ucc5g"
        files = [path for path in sorted(folder.rglob("*.csv")) if "__MACOSX" not in path.parts]
        if len(files) <= number:
            pytest.skip("the UCC 5G data set is not in the data folder")
        path = files[number * len(files) // 12]
        if path.name == "B_2019.11.27_07.29.47.csv":
            with pytest.raises(InputError, match="line 918, 1 s before the row above"):
                traced(path, trace_format="ucc-5g")
            path = files[number * len(files) // 12 + 1]
        channel = traced(path, trace_format="ucc-5g", unusual_values="trace")
        for column, down in (("UL_bitrate", False), ("DL_bitrate", True)):
            rows = _rows(path, "Timestamp", column, 1e3)
            expected = [plain_mean(rows, 10.0 * t, 10.0 * t + 10.0) for t in range(15)]
            assert rates(channel, 15, down=down) == pytest.approx(expected, rel=1e-9, abs=1e-6)

    @pytest.mark.parametrize("number", range(12))
    def test_mahimahi(self, real_data: Path, number: int) -> None:
        files = sorted((real_data / "mahimahi").glob("*-*"))
        if len(files) <= number:
            pytest.skip("no traces of mahimahi in the data folder")
        path = files[number]
        times = [int(line) for line in path.read_text().split()]
        last = times[-1]
        count = last // 1000
        channel = traced(path, trace_format="mahimahi", round_interval_s=last / 1e3 / count)
        for index in range(6):
            edges = index * last / count, (index + 1) * last / count
            packets = sum(edges[0] <= time < edges[1] for time in times)
            expected = packets * 12_000 / (last / 1e3 / count)
            assert rates(channel, index + 1)[index] == pytest.approx(expected, rel=1e-9)
