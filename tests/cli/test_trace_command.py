"""`airtune trace inspect`: at 80 columns, in a pipe, as JSON and drawn; and what it refuses."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

Call = Callable[..., tuple[int, str, str]]

WALK = "seq,radio,throughput_mbps\n0,5G,100\n1,4G,0\n2,5G,50.5\n3,4G,20\n"
DRIVE = "Timestamp,DL_bitrate,UL_bitrate,State\n" + "".join(
    f"2019.12.14_10.16.{second:02d},{1000 * second},{second % 3},D\n" for second in range(40)
)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "walk.csv").write_text(WALK)
    (tmp_path / "drive.csv").write_text(DRIVE)
    (tmp_path / "link.up").write_text("".join(f"{7 * line}\n" for line in range(3000)))
    return tmp_path


@pytest.mark.usefixtures("files")
def test_numbers_as_json(airtune: Call) -> None:
    code, out, _ = airtune("trace", "inspect", "walk.csv", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["format"] == "csv"
    [trace] = found["traces"]
    assert trace["samples"] == 4
    assert trace["duration_s"] is None
    assert trace["mean_bps"] == pytest.approx(42.625e6)
    assert trace["median_bps"] == 20e6
    assert trace["idle_share"] == 0.25
    assert trace["cdf"][0] == [0.0, 0.0]
    assert trace["cdf"][-1] == [1.0, 100e6]


@pytest.mark.usefixtures("files")
def test_the_first_line_decides_the_format(airtune: Call) -> None:
    found = json.loads(airtune("trace", "inspect", "drive.csv", "--json")[1])
    assert found["format"] == "ucc-5g"
    up, down = found["traces"]
    assert up["name"].endswith("UL_bitrate")
    assert down["mean_bps"] == pytest.approx(19.5e6)
    assert up["duration_s"] == down["duration_s"] == 40.0
    link = json.loads(airtune("trace", "inspect", "link.up", "--json", "--window-s", 3)[1])
    assert link["format"] == "mahimahi"
    assert link["traces"][0]["samples"] == 6
    assert link["traces"][0]["mean_bps"] == pytest.approx(3000 * 12_000 / 20.993)


@pytest.mark.usefixtures("files")
def test_at_80_columns_and_in_a_pipe(airtune: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, narrow, _ = airtune("trace", "inspect", "drive.csv")
    assert code == 0
    assert max(map(len, narrow.splitlines())) <= 80
    monkeypatch.delenv("COLUMNS")
    piped = airtune("trace", "inspect", "drive.csv")[1]
    for text in (narrow, piped):
        for part in ("drive.csv", "UL_bitrate", "DL_bitrate", "19.5 Mbit/s", "autocorrelation"):
            assert part in text
    assert "share" in piped
    assert "100%" in piped


@pytest.mark.usefixtures("files")
def test_it_is_drawn(airtune: Call, files: Path) -> None:
    code, out, _ = airtune("trace", "inspect", "drive.csv", "--plot", "drive.svg")
    assert code == 0
    assert "Drawn in drive.svg." in out
    drawing = ElementTree.fromstring((files / "drive.svg").read_text())
    lines = [one for one in drawing.iter() if one.tag.endswith("polyline")]
    assert len(lines) == 4  # two traces over time and two distributions
    assert all(len(line.attrib["points"].split()) > 20 for line in lines)
    airtune("trace", "inspect", "walk.csv", "--plot", "walk.html")
    page = (files / "walk.html").read_text()
    assert "walk.csv" in page
    assert page.count("plotly-graph-div") >= 2


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.csv"], "FILE is nothing.csv, but it must be a file that exists"),
        (["walk.csv", "--column", "speed"], "--column is speed, but it must be a column of walk"),
        (["walk.csv", "--column", "seq"], "its name must end in the unit, .* or --unit name it"),
        (["walk.csv", "--unit", "Mb"], "--unit is Mb, but it must be one of bps"),
        (["walk.csv", "--format", "ucc"], "--format is ucc, but it must be one of csv, ucc-5g"),
        (["walk.csv", "--format", "mahimahi"], "FILE is walk.csv, line 1"),
        (["walk.csv", "--gaps", "idle"], "--gaps is idle, .* unless --time-column names"),
        (["walk.csv", "--where", "radio"], "--where is radio, .* of the form COLUMN=VALUE"),
        (["walk.csv", "--where", "place=home"], "--where is place, .* a column of walk.csv"),
        (["walk.csv", "--plot", "a.png"], "--plot is a.png, .* ends in .svg or .html"),
        (["walk.csv", "--plot", "no/a.svg"], "--plot is no/a.svg"),
        (["drive.csv", "--gap-s", "0.5"], "FILE is drive.csv, line 3, 1 s after .* --gaps"),
    ],
)
def test_refusals_name_the_option(airtune: Call, arguments: list[str], words: str) -> None:
    code, out, err = airtune("trace", "inspect", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("airtune: ")
    assert "cell." not in err

    assert re.search(words, err), err


def test_selected_rows_and_a_silent_trace(airtune: Call, files: Path) -> None:
    found = airtune("trace", "inspect", "walk.csv", "--where", "radio=5G", "--json")[1]
    assert json.loads(found)["traces"][0]["samples"] == 2
    (files / "off.csv").write_text("x_mbps\n0\n0\n")
    code, out, _ = airtune("trace", "inspect", "off.csv", "--plot", "off.svg")
    assert code == 0
    assert "100.0%" in out
