"""Channels of a simulation of many TSFA rounds."""

from pathlib import Path

import numpy as np
import pytest

from airtune.errors import InputError
from airtune.methods.soft_tsfa.problem_channel import ChannelChoice, channel_source, faded
from airtune.wireless.cell import CellSettings
from airtune.wireless.channel import open_channel
from airtune.wireless.cqi import CqiLinks
from airtune.wireless.rate import FixedEfficiencyLinks, Links, ShannonLinks, mixed_links

NAMES = ("a", "b")
LINKS = ShannonLinks(np.array([1e6, 1e7]))
PER_GAIN = np.array([1e16, 1e17])
BAND = np.full(2, 1e6)


def rates(choice: ChannelChoice, index: int, links: Links = LINKS) -> list[float]:
    rate_bps = channel_source(choice, links, PER_GAIN, NAMES)(index).rate(BAND)
    return [float(rate) for rate in rate_bps]


def test_rayleigh_fading_is_drawn_by_seed_and_round() -> None:
    choice = ChannelChoice(seed=3)
    assert rates(choice, 5) == rates(choice, 5)
    assert rates(choice, 5) != rates(choice, 6)
    assert rates(choice, 5) != rates(ChannelChoice(seed=4), 5)
    source = channel_source(choice, LINKS, PER_GAIN, NAMES)
    power = [source(index).limit_bps()[0] / LINKS.limit_bps()[0] for index in range(3000)]
    assert np.mean(power) == pytest.approx(1.0, abs=0.05)
    assert np.mean(np.array(power) < 0.1) == pytest.approx(1 - np.exp(-0.1), abs=0.02)


def test_no_fading_repeats_the_problem() -> None:
    assert rates(ChannelChoice("none"), 7) == LINKS.rate(BAND).tolist()


def test_a_fixed_efficiency_fades_through_its_signal_to_noise_ratio() -> None:
    gain = np.array([0.5, 2.0])
    fixed = FixedEfficiencyLinks(np.array([2.0, 4.0]))
    expected = np.log2(1 + np.array([3.0, 15.0]) * gain)
    assert faded(fixed, gain).rate(np.ones(2)) == pytest.approx(expected)
    mixed = mixed_links([1e6, np.nan], [np.nan, 4.0])
    both = faded(mixed, gain).rate(BAND)
    assert both[0] == pytest.approx(ShannonLinks(np.array([5e5, 1.0])).rate(BAND)[0])
    assert both[1] == pytest.approx(1e6 * expected[1])
    same = faded(fixed, np.ones(2))
    assert same.rate(BAND) == pytest.approx(fixed.rate(BAND))
    table = faded(CqiLinks(np.array([1e6, 1e7]), table="256qam"), gain)
    assert isinstance(table, CqiLinks)
    assert table.table == "256qam"
    assert table.cn0_hz.tolist() == [5e5, 2e7]
    with pytest.raises(TypeError, match="EnvelopeLinks"):
        faded(table.envelope(), gain)


def write(folder: Path, header: str, *rows: str) -> ChannelChoice:
    path = folder / "trace.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return ChannelChoice(trace=path)


@pytest.mark.parametrize("column", ["gain_db", "gain"])
def test_a_trace_of_gains_uses_each_clients_power(tmp_path: Path, column: str) -> None:
    values = {"gain_db": ("-100", "-110", "-90", "-inf"), "gain": ("1e-10", "1e-11", "1e-9", "0")}
    one, two, three, four = values[column]
    choice = write(
        tmp_path,
        f"round,client,{column}",
        f"0,b,{two}",
        f"0,a,{one}",
        f"1,a,{three}",
        f"1,b,{four}",
    )
    if column == "gain_db":
        choice.trace.write_text(choice.trace.read_text().replace("-inf", "-400"))  # type: ignore[union-attr]
    expected = [ShannonLinks(np.array(cn0)).rate(BAND) for cn0 in ([1e6, 1e6], [1e7, 0.0])]
    for index in range(4):  # it starts over at the end
        assert rates(choice, index) == pytest.approx(expected[index % 2], abs=1e-6)


def test_blanks_and_a_byte_order_mark_do_not_matter(tmp_path: Path) -> None:
    choice = write(tmp_path, "\ufeffround, client, gain_db", "0, a, -100", "0, b, -inf")
    expected = ShannonLinks(np.array([1e6, 0.0])).rate(BAND)
    assert rates(choice, 0) == pytest.approx(expected)


def test_a_trace_of_efficiencies_needs_no_power(tmp_path: Path) -> None:
    header = "round,client,spectral_efficiency_bps_hz"
    choice = write(tmp_path, header, "7,a,1.5", "7,b,0", "9,a,2", "9,b,3")
    source = channel_source(choice, LINKS, np.full(2, np.nan), NAMES)
    assert source(0).rate(BAND).tolist() == [1.5e6, 0.0]
    assert source(3).rate(BAND).tolist() == [2e6, 3e6]


def test_a_recording_of_a_cell_is_replayed(tmp_path: Path) -> None:
    channel = open_channel(CellSettings(), clients=2, seed=1)
    for suffix in ("csv", "npz"):
        path = tmp_path / f"cell.{suffix}"
        channel.export(path, range(3))
        for index in (0, 2, 4):
            expected = channel.observe(index % 3).truth.uplink().rate(BAND)
            assert rates(ChannelChoice(trace=path), index) == pytest.approx(expected.tolist())


@pytest.mark.parametrize(
    ("header", "rows", "words"),
    [
        ("round,client,snr_db", ["0,a,1"], "a csv file with the columns round, client and one of"),
        ("round,gain_db", ["0,1"], "a csv file with the columns round, client and one of"),
        ("round,client,gain_db", [], "without a row"),
        ("round,client,gain_db", ["0,a,1"], "without client b in round 0"),
        ("round,client,gain_db", ["0,a,1", "0,b,x"], "line 3, gain_db 'x'"),
        ("round,client,gain", ["0,a,1", "0,b,-1"], "line 3, gain '-1'"),
        ("round,client,gain", ["0,a,1", "0,b,nan"], "line 3, gain 'nan'"),
        ("round,client,gain", ["0,a,1", "0,b,1e308"], "line 3, gain '1e308'"),
        ("round,client,gain", ["0,a,1", "0,b,1_0"], "line 3, gain '1_0'"),
        ("round,client,gain_db", ["0,a,1", "0,b,inf"], "line 3, gain_db 'inf'"),
        ("round,client,gain_db,gain_db", ["0,a,1,2"], "more than one column 'gain_db'"),
        ("round,client,gain_db", ["0,a,1", "0,b,2", "0,a,3"], "line 4, round 0 of client a again"),
        ("round,client,gain_db", ["0,a,1", "0,b,2,5"], "line 3, with 4 cells"),
    ],
)
def test_refuses_a_bad_trace(tmp_path: Path, header: str, rows: list[str], words: str) -> None:
    with pytest.raises(InputError) as caught:
        rates(write(tmp_path, header, *rows), 0)
    assert words in str(caught.value)


def test_refuses_gains_without_power_and_files_that_are_not_there(tmp_path: Path) -> None:
    choice = write(tmp_path, "round,client,gain_db", "0,a,-100", "0,b,-100")
    with pytest.raises(InputError, match="gain of client b"):
        channel_source(choice, LINKS, np.array([1e16, np.nan]), NAMES)
    with pytest.raises(InputError, match=r"channel\.trace"):
        rates(ChannelChoice(trace=tmp_path / "none.csv"), 0)
