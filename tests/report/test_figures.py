"""Figures and tables for a paper: numbers equal the records; files are the same every time."""

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import sqrt
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from airtune.comparison.table import HEADINGS, table_rows
from airtune.comparison.targets import measure_targets
from airtune.errors import AirtuneError, InputError
from airtune.experiment.run import Run
from airtune.federated.records.run_folder import RunFolder
from airtune.jobs.job import RunResult
from airtune.report.figures import write
from airtune.report.figures.content import FIGURES, drawings
from airtune.report.figures.draw import COLOURS, DASHES, MARKERS, draw, styled
from airtune.report.figures.drawing import Curves, Intervals
from airtune.report.figures.latex import escaped, tables, with_spread
from airtune.report.figures.write import write_figures, write_tables
from airtune.report.sources import arm_folder, read_source
from airtune.report.waiting import stage_seconds
from tests.cli.conftest import airtune as airtune
from tests.report.folders import ARMS, write_comparison, write_run
from tests.report.views import lines, read, records

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms that reach the target and one that does not, two seeds each."""
    folder = tmp_path_factory.mktemp("c") / "cmp"
    write_comparison(folder)
    return folder


@pytest.fixture(scope="module")
def figures(compared: Path) -> Path:
    """Its figures in every format, and its tables."""
    out = compared.parent / "figures"
    write_figures(compared, ("pdf", "svg", "png"), out=out)
    write_tables(compared, out)
    return out


def rows(path: Path) -> list[dict[str, str]]:
    """A csv as dictionaries."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def sd(values: Sequence[float]) -> float:
    """Sample standard deviation, by its formula."""
    mean = sum(values) / len(values)
    return sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def test_which_files_there_are(figures: Path) -> None:
    names = {entry.name for entry in FIGURES} - {"latency-rounds"}
    found = {path.name for path in figures.iterdir()}
    expected = {f"{name}.{kind}" for name in names for kind in ("pdf", "svg", "png", "csv")}
    assert found == expected | {f"{n}.{k}" for n in ("results", "ratios") for k in ("tex", "csv")}


@pytest.mark.parametrize(
    ("name", "column", "spent"),
    [
        ("loss-rounds", "round", None),
        ("loss-time", "virtual_time_s", lambda record: record.latency_s),
        ("loss-bytes", "uplink_kB", lambda record: record.uplink_bits / 8e3),
        ("loss-energy", "energy_J", lambda record: record.energy_j),
    ],
)
def test_curves_are_means_of_the_records(
    compared: Path, figures: Path, name: str, column: str, spent: Any
) -> None:
    found = rows(figures / f"{name}.csv")
    assert len(found) == 6 * len(ARMS)
    for arm in ARMS:
        runs = [
            RunFolder(compared / arm_folder(arm) / f"seed-{seed}").read_records() for seed in (0, 1)
        ]
        own = [row for row in found if row["arm"] == arm]
        assert [row["seeds"] for row in own] == ["2"] * 6
        for k, row in enumerate(own):
            losses = [3.0 if k == 0 else run[k - 1].test_loss for run in runs]
            x = [k if spent is None else sum(map(spent, run[:k])) for run in runs]
            assert float(row["round"]) == k
            assert float(row[column]) == pytest.approx(fmean(x), rel=1e-12)
            assert float(row["test_loss_nat"]) == pytest.approx(fmean(losses), rel=1e-12)
            low, high = (float(row[f"test_loss_nat_{end}"]) for end in ("low", "high"))
            assert (low, high) == pytest.approx(
                (fmean(losses) - sd(losses), fmean(losses) + sd(losses)), abs=1e-12
            )


def test_time_to_target_is_that_of_the_comparison(compared: Path, figures: Path) -> None:
    arms = json.loads((compared / "comparison.json").read_text())["arms"]
    found = rows(figures / "time-to-target.csv")
    assert [row["arm"] for row in found] == list(ARMS)
    for arm, row in zip(arms[:2], found[:2], strict=True):
        time_s = arm["to_target"]["virtual_time_s"]
        (column,) = [key for key in row if re.fullmatch(r"virtual_time_(s|min)", key)]
        scale = 1.0 if column.endswith("_s") else 1 / 60
        mean, low, high = (float(row[f"{column}{end}"]) for end in ("", "_low", "_high"))
        assert mean == pytest.approx(scale * time_s["mean"], rel=1e-12)
        assert high - mean == pytest.approx(scale * time_s["sd"], abs=1e-12)
        assert mean - low == pytest.approx(scale * time_s["sd"], abs=1e-12)
    assert found[2]["note"] == "not reached"
    assert {found[2][key] for key in found[2]} == {"late", "0", "", "not reached"}


def test_latency_is_that_of_the_records(compared: Path, figures: Path, tmp_path: Path) -> None:
    found = rows(figures / "latency-stages.csv")
    arm, runs = next(iter(ARMS)), compared / arm_folder(next(iter(ARMS)))
    made = [r for seed in (0, 1) for r in RunFolder(runs / f"seed-{seed}").read_records()]
    own = {row["stage"]: float(row["latency_s"]) for row in found if row["arm"] == arm}
    assert sum(own.values()) == pytest.approx(fmean(r.latency_s for r in made))
    assert own["upload"] == pytest.approx(fmean(stage_seconds(r)["upload"] for r in made))
    write_figures(runs / "seed-0", out=tmp_path)
    by_round = rows(tmp_path / "latency-rounds.csv")
    for number, record in enumerate(made[:5], start=1):
        total = sum(float(row["latency_s"]) for row in by_round if row["round"] == str(number))
        assert total == pytest.approx(record.latency_s, rel=1e-12)


def test_what_is_drawn_is_what_the_csv_holds(compared: Path) -> None:
    (curves, *_), _ = drawings(read_source([compared]))
    with styled():
        axes = draw(curves, 1).axes[0]
        lines_drawn = [line for line in axes.lines if len(line.get_xdata()) > 2]
        table = list(curves.rows())[1:]
        drawn = [
            [x, y]
            for line in lines_drawn
            for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
        ]
    assert drawn == [[row[3], row[4]] for row in table]


def test_a_figure_fits_its_column(compared: Path) -> None:
    for columns, width in ((1, 3.5), (2, 7.16)):
        with styled():
            for drawing in drawings(read_source([compared]))[0]:
                figure = draw(drawing, columns)
                assert figure.get_figwidth() == width
                assert figure.get_figheight() < 5
                axes = figure.axes[0]
                assert axes.get_title() == ""
                assert any("[" in text for text in (axes.get_xlabel(), axes.get_ylabel()))
                assert axes.xaxis.label.get_fontsize() == 8
                assert {tick.get_fontsize() for tick in axes.get_xticklabels()} == {8}


def test_files_are_for_print_and_the_same_every_time(
    compared: Path, figures: Path, tmp_path: Path
) -> None:
    pdf = (figures / "loss-time.pdf").read_bytes()
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    assert b"CreationDate" not in pdf
    assert b"<dc:date>" not in (figures / "loss-time.svg").read_bytes()
    write_figures(compared, ("png", "pdf", "svg"), out=tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (figures / path.name).read_bytes(), path.name


def test_lines_differ_without_colour() -> None:
    assert len({str(dash) for dash in DASHES}) == len(DASHES) == len(COLOURS)
    pairs = {(str(DASHES[k % 7]), MARKERS[k % 11], COLOURS[k % 7]) for k in range(40)}
    assert len(pairs) == 40


def test_results_are_the_numbers_of_the_terminal(compared: Path) -> None:
    numbers = json.loads((compared / "comparison.json").read_text())
    results, ratios = tables(read_source([compared]))
    units = dict(results.headings)
    assert units["Time"] in ("s", "min")
    for arm, terminal, (name, cells), shown in zip(
        numbers["arms"], table_rows(numbers), results.lines, ratios.lines, strict=True
    ):
        assert name == terminal[0] == shown[0] == arm["arm"]
        assert cells[0] == terminal[1]
        assert cells[1] == terminal[2].replace("±", r"$\pm$")
        if arm["to_target"] is None:
            assert cells[2] == r"\multicolumn{6}{c}{" + terminal[3] + "}"
            continue
        assert float(cells[2].split()[0]) == pytest.approx(float(terminal[3].split()[0]))
        sent = float(cells[HEADINGS.index("sent up") - 1].split()[0])
        assert terminal[5].startswith(f"{sent:.3g} {units['Sent up']}")
        ratio = arm["ratio"]["virtual_time_s"]
        assert shown[1][1] == rf"$\times${ratio:.2f}"
        assert arm is numbers["arms"][0] or f"(×{ratio:.2f})" in terminal[4]


def test_structure_of_the_latex(figures: Path) -> None:
    for name in ("results", "ratios"):
        text = (figures / f"{name}.tex").read_text("utf-8")
        body = [line for line in text.splitlines() if not line.startswith("%")]
        (columns,) = re.findall(r"\\begin\{tabular\}\{(l r*|lr*)\}", body[0])
        assert body[-1] == r"\end{tabular}"
        assert [line for line in body if line.endswith("rule")] == [
            r"\toprule",
            r"\midrule",
            r"\bottomrule",
        ]
        for line in (line for line in body if line.endswith(r"\\")):
            spanned = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
            assert len(re.findall(r"(?<!\\)&", line)) + 1 + spanned == len(columns)
    results = (figures / "results.tex").read_text("utf-8")
    assert r"fast \& small\_1 & 2 &" in results
    assert r"größer 100\% & 2 &" in results


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        (r"a&b%c$d#e_f{g}", r"a\&b\%c\$d\#e\_f\{g\}"),
        ("~^\\", r"\textasciitilde{}\textasciicircum{}\textbackslash{}"),
        ('<x>|"', r"\textless{}x\textgreater{}\textbar{}{''}"),
        ("[x]", "{[}x]"),
        ("*x", "{*}x"),
        ("a--b\nc", "a-{}-b c"),
        ("größe 中", "größe 中"),
        ("", ""),
    ],
)
def test_names_are_escaped(text: str, latex: str) -> None:
    assert escaped(text) == latex


@pytest.mark.parametrize(
    ("mean", "spread", "text"),
    [
        (12.345, None, "12.3"),
        (0.012345, 0.001, r"0.0123 $\pm$ 0.0010"),
        (999.96, 3.2, r"1000 $\pm$ 3"),
        (12345.0, None, "12345"),
        (0.0, None, "0.00"),
        (-1.5, None, "$-1.50$"),
    ],
)
def test_numbers_have_three_digits(mean: float, spread: float | None, text: str) -> None:
    assert with_spread(mean, spread) == text


def test_one_round_one_client_one_seed(tmp_path: Path) -> None:
    write_run(tmp_path / "run", records(rounds=1, clients=1))
    written = write_figures(tmp_path / "run", ("pdf",))
    assert {path.parent for path in written.files} == {tmp_path / "run/figures"}
    assert any("only a finished comparison" in note for note in written.notes)
    found = rows(tmp_path / "run/figures/loss-time.csv")
    assert [row["test_loss_nat"] for row in found] == ["3.0", "2.0"]
    assert {row["test_loss_nat_low"] for row in found} == {""}
    (table,) = tables(read_source([tmp_path / "run"]))
    assert r"$\pm$" not in table.latex()


def test_no_energy_and_rounds_without_clients(tmp_path: Path) -> None:
    made = lines(rounds=3)
    for record in made:
        record["energy_j"] = 0.0
        for entry in record["clients"]:
            entry["energy_j"] = 0.0
    made[1].update(clients=[], idle_s=4.0, train_loss=None, latency_s=4.0)
    write_run(tmp_path / "run", read(made))
    write_figures(tmp_path / "run", ("pdf",))
    assert {row["energy_J"] for row in rows(tmp_path / "run/figures/loss-energy.csv")} == {"0.0"}
    waited = rows(tmp_path / "run/figures/latency-rounds.csv")
    assert ["2", "waiting, no client can send", "4.0"] in [list(row.values()) for row in waited]
    write_tables(tmp_path / "run")


def test_an_unfinished_run_without_its_start_loss(tmp_path: Path) -> None:
    write_run(tmp_path / "run", records(rounds=70), asked=90)
    written = write_figures(tmp_path / "run", ("pdf",))
    assert written.notes[0] == "run is not finished: 70 of 90 rounds so far."
    assert rows(tmp_path / "run/figures/loss-time.csv")[0]["round"] == "1"


def test_nothing_reached_and_a_failed_arm(tmp_path: Path) -> None:
    write_comparison(tmp_path / "cmp", {"a": [(0, 9.0)], "b": [(0, 0.0)], "c": [(0, 9.0)]})
    written = write_figures(tmp_path / "cmp", ("pdf",))
    assert "time-to-target is left out: no arm reached the target loss." in written.notes
    write_tables(tmp_path / "cmp")
    text = (tmp_path / "cmp/figures/results.tex").read_text()
    assert r"b & 0 & \multicolumn{7}{c}{failed} \\" in text


def test_seeds_that_did_not_get_there_are_said(tmp_path: Path) -> None:
    write_comparison(tmp_path / "cmp", {"a": [(0, 1.0), (1, 9.0)]})
    (drawing,) = [d for d in drawings(read_source([tmp_path / "cmp"]))[0] if "target" in d.name]
    (interval,) = list(drawing.rows())[1:]
    assert interval[1] == 1
    assert interval[-1] == "1 of 2 seeds"


def test_letters_that_the_font_lacks_are_named(tmp_path: Path) -> None:
    write_comparison(tmp_path / "cmp", {"中文 α": [(0, 1.0)], "b": [(0, 1.0)]})
    notes = write_figures(tmp_path / "cmp", ("pdf",)).notes
    assert any("has no 中 文: boxes stand in their place" in note for note in notes)


@pytest.mark.parametrize(
    ("kinds", "columns", "sentence"),
    [
        (("gif",), 1, "--figures is gif"),
        ((), 1, "--figures is"),
        (("pdf",), 3, "--columns is 3"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    compared: Path, kinds: Sequence[str], columns: int, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        write_figures(compared, kinds, columns)
    assert not (compared / "figures").exists()


def test_without_matplotlib(compared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "find_spec", lambda name: None)
    with pytest.raises(AirtuneError, match=r"pip install airtune\[plots\]"):
        write_figures(compared)
    assert not (compared / "figures").exists()


def test_the_command(airtune: Call, compared: Path, tmp_path: Path) -> None:
    code, out, err = airtune("report", compared, "--figures", "svg, png", "--latex", "--out", "f")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "latency-rounds is left out: it is a figure of one run."
    assert "Wrote f/loss-time (svg, png, csv)" in out
    assert "Wrote f/results (tex, csv)" in out
    assert (tmp_path / "f/loss-time.png").stat().st_size > 1000
    assert airtune("report", compared, "--figures", "bmp")[0] == 2
    code, _, err = airtune("report", compared, "--columns", "2")
    assert code == 2
    assert "--columns is 2" in err
    code, _, err = airtune("report", compared / "late/seed-0", compared / "late/seed-1", "--latex")
    assert code == 2
    assert "the folder of the figures" in err


def test_a_far_arm_leaves_the_others_room(compared: Path) -> None:
    made = {drawing.name: drawing for drawing in drawings(read_source([compared]))[0]}
    curves, target = made["loss-time"], made["time-to-target"]
    assert isinstance(curves, Curves)
    assert isinstance(target, Intervals)
    last = target.intervals[0]
    far = replace(last, mean=50.0 * (last.mean or 0.0), low=None, high=None)
    with styled():
        axes = draw(replace(curves, x=replace(curves.x, log=True)), 1).axes[0]
        # Before training nothing was spent: each curve has one point less.
        assert {min(line.get_xdata()) > 0.0 for line in axes.lines[:-1]} == {True}
        assert axes.get_xscale() == "log"
        shown = draw(replace(target, intervals=(*target.intervals, far, last)), 1).axes[0]
        assert shown.get_xscale() == "log"
        assert shown.get_xlim()[0] > 0.0
        for each in (axes, shown):
            each.figure.canvas.draw()
            words = [tick.get_text() for tick in each.get_xticklabels()]
            assert words
            assert all(float(text) > 0.0 for text in words if text)
        assert draw(target, 1).axes[0].get_xscale() == "linear"


def test_tables_of_several_targets(tmp_path: Path) -> None:
    folder = tmp_path / "cmp"
    numbers = write_comparison(folder)
    assert not [table for table in tables(read_source([folder])) if "targets" in table.name]
    runs = [(arm["arm"], run["seed"]) for arm in numbers["arms"] for run in arm["runs"]]
    results = [
        RunResult(
            name, seed, place, {"start_test_loss": 3.0, "stopped": None}, Run.open(place).records
        )
        for name, seed in runs
        if (place := folder / arm_folder(name) / f"seed-{seed}").is_dir()
    ]
    numbers["targets"] = measure_targets(results, [0.5, 1.0])
    (folder / "comparison.json").write_text(json.dumps(numbers), "utf-8")
    write_tables(folder)
    text = (folder / "figures/targets-time.tex").read_text("utf-8")
    first = numbers["targets"][0]["arms"][0]["arm"]
    assert r"Arm & 50\% & 100\% \\" in text.replace(r" \%", r"\%")
    assert escaped(first) in text
    ratio = numbers["targets"][1]["arms"][1]["ratio"]["virtual_time_s"]
    assert rf"$\times${ratio['mean']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]" in text
    table = rows(folder / "figures/targets-energy.csv")
    assert len(table) == 2 * len(numbers["targets"][0]["arms"])
    assert float(table[0]["share"]) == 0.5
    spent = numbers["targets"][1]["arms"][1]["ratio"]["energy_j"]
    assert float(table[len(table) // 2 + 1]["energy_j_ratio"]) == spent["mean"]
