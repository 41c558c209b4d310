"""The page of a sweep: which figure shows what."""

from typing import Any

import pytest

from airtune.report.sweep_page import (
    SweepMetric,
    SweepPoint,
    SweepView,
    render_sweep,
    sweep_panels,
)

LOSS, TIME = SweepMetric("loss", "final loss", "nat"), SweepMetric("time", "virtual time", "s")


def view(keys: list[str], points: list[Any]) -> SweepView:
    made = [SweepPoint(values, metrics) for values, metrics in points]
    metrics = [metric for metric in (LOSS, TIME) if any(metric.key in m for _, m in points)]
    rows = [[*map(str, values), "finished"] for values, _ in points]
    return SweepView(
        "a sweep", ["told <here>."], ["rank=0: refused."], keys, [*keys, "state"], rows, made,
        metrics, ["points/1/seed-0/report.html"],
    )  # fmt: skip


def test_two_numeric_keys_are_a_heat_map_with_a_hole() -> None:
    points = [([r, b], {"loss": [r * b]} if r * b < 8 else {}) for r in (1, 2) for b in (3, 4)]
    (panel,) = sweep_panels(view(["rank", "bits"], points))
    (map_,) = panel.figure.data
    assert map_.type == "heatmap"
    assert [list(row) for row in map_.z] == [[3, 4], [6, None]]
    assert (list(map_.x), list(map_.y)) == (["3", "4"], ["1", "2"])
    assert panel.figure.layout.xaxis.title.text == "bits"


def test_a_metric_is_drawn_over_the_keys_that_it_depends_on() -> None:
    points = [([r, b], {"loss": [r * b], "time": [120.0 * r]}) for r in (1, 2) for b in (3, 4)]
    loss, time = sweep_panels(view(["rank", "bits"], points))
    assert loss.figure.data[0].type == "heatmap"
    (curve,) = time.figure.data
    assert (list(curve.x), list(curve.y)) == ([1, 2], [2.0, 4.0])
    assert time.figure.layout.yaxis.title.text == "virtual time [min]"
    assert time.caption == "The same for every bits."


def test_other_keys_tell_curves_apart_and_seeds_are_a_band() -> None:
    points = [
        ([band, method], {"loss": [level / band, 3 * level / band]})
        for band in (1e6, 1e7, 1e8)
        for method, level in (("one", 1.0), ("two", 2.0))
    ]
    (panel,) = sweep_panels(view(["band", "method"], points))
    lines = [trace for trace in panel.figure.data if trace.fill is None]
    bands = [trace for trace in panel.figure.data if trace.fill == "toself"]
    assert [line.name for line in lines] == ["method one", "method two"]
    assert list(lines[1].y) == pytest.approx([4e-6, 4e-7, 4e-8])
    assert list(bands[0].y) == pytest.approx([3e-6, 3e-7, 3e-8, 1e-8, 1e-7, 1e-6])
    assert panel.figure.layout.xaxis.type == "log"
    assert list(panel.figure.layout.xaxis.ticktext) == ["1e6", "1e7", "1e8"]
    assert "shaded" in panel.caption


def test_names_alone_are_bars() -> None:
    points = [([name], {"loss": [value]}) for name, value in (("a", 2.0), ("b", 1.0), (None, 3.0))]
    (panel,) = sweep_panels(view(["method"], points))
    (bars,) = panel.figure.data
    assert (list(bars.x), list(bars.y)) == ([2.0, 1.0, 3.0], ["a", "b", "-"])


def test_points_of_a_list_need_not_be_a_grid() -> None:
    points = [([1, 5], {"loss": [3.0]}), ([2, 6], {"loss": [2.0]}), ([3, None], {"loss": [1.0]})]
    (panel,) = sweep_panels(view(["rank", "bits"], points))
    assert {trace.type for trace in panel.figure.data} == {"scatter"}
    assert sorted(y for trace in panel.figure.data for y in trace.y) == [1.0, 2.0, 3.0]


def test_the_page_is_whole() -> None:
    page = render_sweep(view(["rank"], [([1], {"loss": [2.0]}), ([2], {"loss": [1.0]})]))
    assert "told &lt;here&gt;." in page
    assert "<h3>Final loss</h3>" in page
    assert 'href="points/1/seed-0/report.html"' in page
    assert "Points without a result" in page


def test_nothing_to_draw_is_no_figure() -> None:
    assert sweep_panels(view(["rank"], [([1], {}), ([2], {})])) == []
