"""The page of a run: every panel full, every axis with a unit, nothing asked of a network."""

import gzip
import re
from base64 import b64decode
from dataclasses import replace
from typing import Any

import pytest

from airtune.config.experiment import CHARGED_AS
from airtune.report.decisions import decided
from airtune.report.labels import quantity, span
from airtune.report.latency import departure
from airtune.report.page import render, run_panels
from airtune.report.paths import constraint_panels, extra_paths
from airtune.report.sentences import further, run_sentences
from airtune.report.style import Panel, colour_limits
from airtune.report.view import RunView, numbers
from tests.report.views import lines, read, records, view

WITHOUT_UNIT = {
    "round",
    "client",
    "arm",
    "value",
    "spread: first",
    "norm of the clients' updates",
    "learning rate",
}
"""Axes that count or name things."""
UNIT = r"\[[^\]]+\](, logarithmic)?$"


def check_panel(panel: Panel) -> None:
    """Something is drawn, and both axes say what they show and in which unit."""
    assert panel.title
    drawn = panel.figure.data
    assert drawn
    for trace in drawn:
        for axis in ("x", "y"):
            values = getattr(trace, axis)
            assert values is not None and len(values) > 0, (panel.title, trace.name)  # noqa: PT018
    for axis in (panel.figure.layout.xaxis, panel.figure.layout.yaxis):
        title = axis.title.text
        assert title in WITHOUT_UNIT or re.search(UNIT, title), (panel.title, title)
        assert "[1]" not in title


@pytest.fixture(scope="module")
def full() -> RunView:
    """A run with all that a method may record."""
    made = lines(
        plan={"virtual_queue_s": 3.0, "latency_target_s": 6.0, "objective": 2.0},
        measured={"update_energy": 9.0, "covariance_energy": 0.01},
        spread={"first": 0.1, "share": 0.02},
        note="text",
    )
    made[2]["planned_latency_s"] *= 0.5
    for key in ("plan", "measured", "spread"):
        made[1][key] = {name: 1.5 * value for name, value in made[1][key].items()}
    return view(read(made))


def test_every_panel_is_full_and_has_units(full: RunView) -> None:
    sections = run_panels(full)
    titles = [panel.title for panels in sections.values() for panel in panels]
    for panels in sections.values():
        for panel in panels:
            check_panel(panel)
    assert titles == [
        "Loss against virtual time",
        "Loss against bytes sent up",
        "Loss against the clients' energy",
        "Latency of each round, by stage",
        "Mean time of a round, by client and stage",
        "Planned against charged latency",
        "Uplink rate over rounds",
        "Distribution of the uplink rate",
        "Spectral efficiency of the uplink over rounds",
        "Distribution of the spectral efficiency of the uplink",
        "Bandwidth, by client and round",
        "Pruning rate, by client and round",
        "Kept ranks of a matrix (mean), by client and round",
        "Subchannels to the main server, by client and round",
        "The cell in round 1",
        "Long-term latency constraint",
        "Pruning budget",
        "Virtual queue",
        "Squared norms: the update, and what the server does not get of it",
        "Objective of each round",
        "Spread: first over rounds",
        "Share of the update over rounds",
    ]


def test_what_a_run_does_not_have_makes_no_panel() -> None:
    nan = float("nan")
    made = [
        {
            **record,
            "clients": [
                {
                    k: v
                    for k, v in entry.items()
                    if k not in ("pruning_rate", "kept_ranks", "main_subchannels")
                }
                for entry in record["clients"]
            ],
        }
        for record in lines()
    ]
    plain = view(read(made), limits={"pruning_budget": 0.3}, position_m=[[nan, nan]] * 4)
    sections = run_panels(plain)
    assert sections["Constraints"] == sections["Measured by the method"] == []
    assert [panel.title for panel in sections["Decisions and the cell"]] == [
        "Bandwidth, by client and round"
    ]
    assert ">Constraints</h2>" not in render(plain)


def test_page_is_self_contained_and_reproducible(full: RunView) -> None:
    page = render(full)
    assert page == render(full)
    packed = re.findall(r'const plotly = "([^"]+)"', page)
    assert len(packed) == 1
    assert b"plotly.js (cartesian" in gzip.decompress(b64decode(packed[0]))
    assert len(page.encode()) < 0.9e6
    outside = page.replace(page[page.index("<script>") : page.index("</script>")], "")
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", outside)
    assert "<p></td>" not in page
    assert "&lt;p&gt;" in page
    ids = re.findall(r'<div id="(figure-\d+-\d+)"', page)
    assert len(ids) == len(set(ids)) == 22


def test_sentences(full: RunView) -> None:
    told = " ".join(run_sentences(full))
    assert "fell from 3.0000 to 0.3333 nat (89 % less) in 6 rounds of jcpba." in told
    assert (
        "Client 3 (laptop-cpu) was last in 6 of 6 rounds, furthest behind the others in its upload."
        in told
    )
    assert "charged latency was up to 100.0% off the planned one." in told
    assert "LoRA rank 8, transmit power 200 mW" in told
    assert "Share of slots realised: 25 % before and 50 % after, on 4 test examples." in told
    assert "Charged as llama-3.2-1b: time, bits, energy and memory" in render(full)
    assert "Every round took as long as planned." in run_sentences(view(records()))


def test_late_silent_and_skipped_are_counted() -> None:
    made = lines(rounds=2)
    made[0]["clients"][0]["outcome"] = "late"
    made[1]["clients"][1]["outcome"] = "silent"
    made[1]["skipped"] = {"4": "out of reach"}
    told = run_sentences(view(read(made)))
    assert (
        "Of 9 updates requested, 1 came too late, 1 fell silent, 1 left out by the planner." in told
    )


def test_a_removed_share_that_is_not_recorded_is_zero() -> None:
    rates = decided(records())["pruning_rate"]
    assert set(rates.values()) == {0.0, 0.25}
    assert len(rates) == 24


def test_weighted_mean_of_the_pruning_budget() -> None:
    made = records(rounds=2, clients=2)
    # Weights 1 and 2; client 0 is pruned by 0.25 in round 1, client 1 in round 2.
    (panel,) = constraint_panels(view(made))
    assert isinstance(panel, Panel)
    assert list(panel.figure.data[0].y) == pytest.approx([0.25 / 3, 0.5 / 3])


def test_the_straggler_is_named_above_its_bar() -> None:
    made = records(rounds=3)
    panel = run_panels(view(made))["Latency"][0]
    labels = next(trace for trace in panel.figure.data if trace.name == "last client")
    assert list(labels.text) == ["3", "3", "3"]
    assert list(labels.y) == [record.latency_s for record in made]
    bars = [trace for trace in panel.figure.data if trace.type == "bar"]
    stacked = [sum(bar.y[k] for bar in bars) for k in range(3)]
    assert stacked == pytest.approx([record.latency_s for record in made])


def test_no_promise_no_departure() -> None:
    made = [replace(record, planned_latency_s=0.0) for record in records(rounds=2)]
    assert departure(made) is None
    render(view(made))


@pytest.mark.parametrize(
    ("key", "axis", "scaled"),
    [
        ("bandwidth_hz", "bandwidth [MHz]", 3.0),
        ("some_psd_w_per_hz", "some psd [nW/Hz]", 3e15),
        ("queue_length_s", "queue length [s]", 3e6),
        ("head_flops", "head flops [GFLOP]", 3e-3),
        ("theory.rank_share", "theory: rank share [share]", 3e6),
        ("something", "something", 3e6),
    ],
)
def test_words_and_units_of_fields(key: str, axis: str, scaled: float) -> None:
    assert quantity(key).axis == axis
    assert 3e6 * quantity(key).shown.scale == pytest.approx(scaled)


@pytest.mark.parametrize(
    ("largest", "unit", "shown"),
    [
        (2.0, "s", "s"),
        (200.0, "s", "min"),
        (20_000.0, "s", "h"),
        (300_000.0, "s", "d"),
        (999.0, "B", "B"),
        (5e6, "B", "MB"),
        (2e3, "J", "kJ"),
        (0.0, "J", "J"),
    ],
)
def test_spans(largest: float, unit: str, shown: str) -> None:
    assert span(largest, unit).unit == shown


def test_numbers_of_any_record() -> None:
    value: dict[str, Any] = {
        "a": 1,
        "b": {"c": 2.0, "d": "x"},
        "e": [1, 3],
        "f": [1, "x"],
        "g": True,
        "h": None,
        "i": [],
    }
    assert numbers(value, most=2) == {"a": 1.0, "b.c": 2.0, "e": 2.0}
    assert numbers({"m": {"q": 1, "v": 3}}, most=1) == {"m": 2.0}
    assert extra_paths(records(rounds=1, new=5)) == {"new": {1: 5.0}}


def test_planned_latency_is_drawn_only_where_it_differs() -> None:
    made = records()
    names = {trace.name for trace in run_panels(view(made))["Latency"][0].figure.data}
    assert "planned latency" not in names
    made[0] = replace(made[0], planned_latency_s=1.1 * made[0].planned_latency_s)
    traces = run_panels(view(made))["Latency"][0].figure.data
    (planned,) = [trace for trace in traces if trace.name == "planned latency"]
    # A tick across a bar would look like the end of an error bar.
    assert planned.marker.symbol == "diamond-open"


def test_a_long_run_has_no_words_about_numbers_that_are_not_drawn() -> None:
    for rounds, said in ((6, True), (60, False)):
        panel = run_panels(view(records(rounds=rounds)))["Latency"][0]
        assert ("number above a bar" in panel.caption) == said
        assert any(getattr(trace, "mode", "") == "text" for trace in panel.figure.data) == said


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ([22.526, 22.540], (0.0, 22.540)),
        ([1.0, 9.0], (1.0, 9.0)),
        ([0.0, 0.0], (0.0, 1.0)),
        ([-2.0, -1.9], (-2.0, 0.0)),
    ],
)
def test_a_colour_scale_does_not_stretch_what_is_alike(
    values: list[float], ends: tuple[float, float]
) -> None:
    assert colour_limits(values) == ends


def test_small_numbers_have_no_prefix_beside_the_unit(full: RunView) -> None:
    for panels in run_panels(full).values():
        for panel in panels:
            axis = panel.figure.layout.yaxis
            assert axis.exponentformat == "power"


def test_dark_mode_has_its_colours(full: RunView) -> None:
    page = render(full)
    assert "prefers-color-scheme: dark" in page
    for panels in run_panels(full).values():
        for panel in panels:
            assert panel.figure.layout.paper_bgcolor == "rgba(0,0,0,0)"


def test_what_is_charged_is_said_once(full: RunView) -> None:
    told = [f"{CHARGED_AS} gpt2 were trained; the learning is that of builtin.", "Row 3 is empty."]
    assert further(told) == ["Row 3 is empty."]
    page = render(replace(full, summary={**full.summary, "charge_as": "gpt2", "notices": told}))
    assert page.count("Charged as gpt2") == 1
    assert "are charged as if" not in page
    assert "Row 3 is empty." in page
