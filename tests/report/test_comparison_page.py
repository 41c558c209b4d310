"""The page of a comparison."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from airtune.comparison.measure import measure_arms
from airtune.comparison.table import HEADINGS, comparison_sentences, table_rows
from airtune.jobs.job import RunResult
from airtune.report.comparison_page import (
    ArmView,
    ComparisonView,
    comparison_panels,
    render_comparison,
)
from airtune.report.curves import Curve, loss_panels
from airtune.report.decisions import mean_decisions
from airtune.report.paths import extra_of_arms
from tests.report.test_run_page import check_panel
from tests.report.views import lines, read, records


@pytest.fixture(scope="module")
def compared() -> ComparisonView:
    """Three arms: two seeds, one seed that misses the target, and one that failed."""
    results = [
        RunResult(
            "first",
            seed,
            Path("x"),
            {"start_test_loss": 3.0, "stopped": None},
            records(seed=seed, plan={"virtual_queue_s": 2.0}),
        )
        for seed in (0, 1)
    ]
    short = records(rounds=2)
    results += [
        RunResult("short", 0, Path("x"), {"start_test_loss": 3.0, "stopped": None}, short),
        RunResult("broken", 0, Path("x"), failure="no signal <here>."),
    ]
    numbers = {
        "target_loss": 0.5,
        "target_source": "given",
        "charge_as": None,
        "arms": measure_arms(results, 0.5),
    }
    arms = [
        ArmView(
            name,
            [(3.0, result.records) for result in results if result.name == name and result.summary],
            [
                (r.seed, f"{name}/seed-{r.seed}/report.html")
                for r in results
                if r.name == name and r.summary
            ],
        )
        for name in ("first", "short", "broken")
    ]
    return ComparisonView(
        title="three arms",
        note="Charged as gpt2.",
        sentences=comparison_sentences(numbers),
        headings=HEADINGS,
        rows=table_rows(numbers),
        about_rows="What it took.",
        arms=arms,
        measured=numbers,
        names=[f"client {k} (pixel-9)" for k in range(4)],
        position_m=[[10.0 * k, 5.0] for k in range(4)],
        radius_m=60.0,
    )


def test_every_panel_is_full_and_has_units(compared: ComparisonView) -> None:
    sections = comparison_panels(compared)
    for panels in sections.values():
        assert panels
        for panel in panels:
            check_panel(panel)
    assert [panel.title for panel in sections["Rounds"]] == [
        "Where a round's time goes",
        "Mean pruning rate over rounds",
        "Mean kept ranks of a matrix (mean) over rounds",
    ]
    assert len(sections["Cost to the target"]) == 5


def test_an_arm_that_misses_the_target_says_so(compared: ComparisonView) -> None:
    bars = comparison_panels(compared)["Cost to the target"][0].figure.data[0]
    assert list(bars.y) == ["first", "short"]
    assert bars.text[1] == "not reached"
    assert compared.rows[1][3] == "not reached (best 1)"
    assert compared.rows[2][2] == "failed"
    assert "The target was not reached by short (best 1 nat)." in compared.sentences
    assert "broken, seed 0, failed: no signal <here>." in compared.sentences


def test_band_is_the_range_of_the_seeds(compared: ComparisonView) -> None:
    figure = comparison_panels(compared)["Learning"][0].figure
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert [band.legendgroup for band in bands] == ["first"]
    lines = [trace for trace in figure.data if trace.fill is None]
    assert [line.name for line in lines] == ["first", "short"]
    # Both seeds have the same losses here, and times whose mean is shown.
    times = [r[-1].virtual_time_s for _, r in compared.arms[0].runs]
    assert lines[0].x[-1] == pytest.approx(sum(times) / 2)


def test_page(compared: ComparisonView) -> None:
    page = render_comparison(compared)
    assert page == render_comparison(compared)
    assert 'href="first/seed-1/report.html"' in page
    assert "broken/seed-0" not in page
    assert "&lt;here&gt;" in page
    ids = re.findall(r'<div id="(figure-\d+-\d+)"', page)
    assert len(ids) == len(set(ids)) == 12


def test_curves_that_coincide_are_seen_and_said() -> None:
    run = (3.0, records())
    panel = loss_panels([Curve("a", [run]), Curve("b", [run]), Curve("c", [(3.0, records(9))])])[0]
    assert [trace.name for trace in panel.figure.data] == ["a", "b (on a)", "c"]
    assert [trace.line.dash for trace in panel.figure.data] == ["solid", "dash", "solid"]
    assert panel.figure.layout.yaxis.title.text.endswith("[nat], logarithmic")
    assert panel.figure.layout.yaxis.type == "log"


def test_one_arm_with_one_number_makes_no_panel() -> None:
    made = lines(clients=2)
    for record in made:
        for entry in record["clients"]:
            entry.pop("pruning_rate", None)
            entry.pop("main_subchannels")
            entry["kept_ranks"] = [5, 5]
    flat = read(made)
    assert mean_decisions([("only", [flat])]) == []
    assert extra_of_arms([("only", [records(steady=2.0)])]) == ["only: Steady: 2 in every round."]
    assert len(extra_of_arms([("one", [records(steady=2.0)]), ("b", [records(steady=3.0)])])) == 1


def test_an_equal_cost_is_a_sentence(compared: ComparisonView) -> None:
    assert compared.measured is not None
    arms = [arm for arm in compared.measured["arms"] if arm["to_target"]]
    both = replace(compared, measured={**compared.measured, "arms": [*arms, *arms]})
    page = render_comparison(both)
    assert "Bytes sent up to the target: " in page
    assert "in each of the 2 arms that reached it." in page
    assert comparison_panels(both)["Cost to the target"] == []
