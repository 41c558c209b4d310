"""`airtune report`: the page of a run, of several, of a comparison; what it refuses."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airtune.report import html
from tests.report.folders import write_comparison, write_run
from tests.report.views import records

Call = Callable[..., tuple[int, str, str]]


def test_a_finished_run(airtune: Call, tmp_path: Path) -> None:
    write_run(tmp_path / "run", records())
    code, out, err = airtune("report", "run")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"Wrote run/report.html \(\d+ kB\)\.\n", out)
    page = (tmp_path / "run/report.html").read_text()
    assert "not finished" not in page
    assert "Real time of each round, by stage" in page
    assert html.script() in page
    assert len(page.encode()) < 1e6


def test_an_unfinished_run_shows_the_rounds_so_far(airtune: Call, tmp_path: Path) -> None:
    place = write_run(tmp_path / "run", records(3), asked=20)
    with place.records.open("ab") as stream:
        stream.write(b'{"round": 4, "virt')  # being written
    code, out, _ = airtune("report", "run", "--out", "page.html")
    assert code == 0
    assert "run is not finished: 3 of 20 rounds so far." in out
    page = (tmp_path / "page.html").read_text()
    assert "This run is not finished: 3 of 20 rounds are written" in page
    assert "The test loss is 0.6667 nat after 3 rounds." in page
    assert not (tmp_path / "run/report.html").exists()


def test_several_runs_are_overlaid(airtune: Call, tmp_path: Path) -> None:
    write_run(tmp_path / "a", records())
    write_run(tmp_path / "b", records(3, seed=1), asked=9)
    code, out, _ = airtune("report", "a", "b", "--out", "both.html")
    assert code == 0
    assert out.startswith("b is not finished: 3 of 9 rounds so far.\n")
    page = (tmp_path / "both.html").read_text()
    assert "<th>a</th>" in page
    assert "b is not finished" in page
    assert '"name":"b"' in page
    assert "Cost to the target" not in page


def test_a_comparison(airtune: Call, tmp_path: Path) -> None:
    write_comparison(tmp_path / "cmp")
    code, _, err = airtune("report", "cmp")
    assert (code, err) == (0, "")
    page = (tmp_path / "cmp/report.html").read_text("utf-8")
    # The script is beside the page, once for all pages of the folder.
    assert '<script src="plotting.js"></script>' in page
    assert (tmp_path / "cmp/plotting.js").read_text() == html.script()
    assert len(page.encode()) < 2e5
    assert "größer 100%" in page
    assert "The target was not reached by late" in page
    code, _, _ = airtune("report", "cmp", "--out", "alone.html")
    assert code == 0
    assert html.script() in (tmp_path / "alone.html").read_text("utf-8")


def test_a_comparison_that_is_not_finished(airtune: Call, tmp_path: Path) -> None:
    write_comparison(tmp_path / "cmp")
    (tmp_path / "cmp/comparison.json").unlink()
    write_run(tmp_path / "cmp/fourth/seed-0", [], asked=5)
    code, out, _ = airtune("report", "cmp")
    assert code == 0
    assert "This comparison is not finished" in out
    assert "No round yet of fourth, seed-0." in out
    page = (tmp_path / "cmp/report.html").read_text("utf-8")
    # Of arms that have a round, by the names of their folders.
    assert re.findall(r"<tr><th>([^<]*)</th><td", page) == ["fast-small_1", "größer-100-", "late"]


def test_a_run_that_went_on_after_the_comparison_keeps_its_numbers(
    airtune: Call, tmp_path: Path
) -> None:
    write_comparison(tmp_path / "cmp", {"one": [(0, 1.0)]}, rounds=3)
    airtune("report", "cmp")
    before = (tmp_path / "cmp/report.html").read_text()
    folder = tmp_path / "cmp/one/seed-0"
    for name in ("rounds.jsonl", "timing.jsonl", "summary.json"):
        (folder / name).unlink()
    write_run(folder, records(6), seed=0)
    airtune("report", "cmp")
    assert (tmp_path / "cmp/report.html").read_text() == before


def _folders(place: Path) -> None:
    write_run(place / "run", records(2))
    write_run(place / "other", records(2), charge_as="gpt2")
    write_run(place / "none", [], asked=4)
    (place / "empty").mkdir()
    (place / "notes").mkdir()
    (place / "notes/a.txt").write_text("x")
    (place / "file").write_text("x")
    (place / "bad").mkdir()
    (place / "bad/comparison.json").write_text('{"arms": [{}]}')


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "RUN is nowhere, but it must be .*: there is no such folder."),
        (["file"], "RUN is file, but it must be .*: it is a file."),
        (["empty"], "RUN is empty, but it must be .*: it is empty."),
        (["notes"], "it has neither experiment.yaml nor comparison.json."),
        (["run", "notes", "--out", "x.html"], "RUN is notes, but"),
        (["none"], "it has none yet: wait for its first."),
        (
            ["run", "other", "--out", "x.html"],
            "charged as builtin .*, gpt2 .* report them one by one",
        ),
        (["run", "run", "--out", "x.html"], "each run once"),
        (["run", "other"], "charged as"),
        (["run", "--out", "run/rounds.jsonl"], "ends with .html"),
        (["run", "--out", "no/x.html"], "make no first"),
        (["bad"], "bad/comparison.json is damaged"),
        ([], "Missing argument 'RUNS'"),
    ],
)
def test_what_cannot_be_reported_is_refused(
    airtune: Call, tmp_path: Path, arguments: list[Any], sentence: str
) -> None:
    _folders(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = airtune("report", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert re.search(sentence, err)
    assert sorted(tmp_path.rglob("*")) == before
