"""The page of a comparison, or of several runs side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from airtune.report import html
from airtune.report.alike import flat, stated
from airtune.report.cell_map import cell_map
from airtune.report.costs import COSTS, Cost
from airtune.report.curves import Curve, loss_panels
from airtune.report.decisions import mean_decisions
from airtune.report.labels import span
from airtune.report.latency import of_arms
from airtune.report.paths import extra_of_arms
from airtune.report.sections import Section, drawn, panels_of
from airtune.report.sentences import further
from airtune.report.style import PALETTE, QUIET, Panel, figure
from airtune.report.targets import TargetTable
from airtune.report.view import Records, RunView


@dataclass(frozen=True)
class ArmView:
    """One arm: start loss and records of each finished run, and where each run's own page is."""

    name: str
    runs: Sequence[tuple[float | None, Records]]
    pages: Sequence[tuple[int, str]]


@dataclass(frozen=True)
class ComparisonView:
    """Arms as their page shows them; `rows` are the table's texts under `headings`.

    `about_rows` explains the table, `about_targets` the tables of several `targets`. `measured`
    holds the costs to a target loss; None without one.
    """

    title: str
    note: str
    sentences: Sequence[str]
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    about_rows: str
    arms: Sequence[ArmView]
    measured: Mapping[str, Any] | None
    names: Sequence[str]
    position_m: Sequence[Sequence[float]]
    radius_m: float | None
    targets: Sequence[TargetTable] = ()
    about_targets: str = ""

    @property
    def finished(self) -> list[ArmView]:
        """The arms with a run."""
        return [arm for arm in self.arms if arm.runs]

    @property
    def records(self) -> list[tuple[str, list[Records]]]:
        """The records of the runs of each arm."""
        return [(arm.name, [records for _, records in arm.runs]) for arm in self.finished]


def _losses(view: ComparisonView) -> list[Panel]:
    target = None if view.measured is None else view.measured["target_loss"]
    return loss_panels([Curve(arm.name, arm.runs) for arm in view.finished], target)


def _costs(view: ComparisonView) -> list[Panel | str]:
    if view.measured is None:
        return []
    return [made for cost in COSTS if (made := _bars(view.measured, cost)) is not None]


SECTIONS: tuple[Section[ComparisonView], ...] = (
    Section("Learning", (_losses,)),
    Section("Cost to the target", (_costs,)),
    Section(
        "Rounds",
        (
            lambda view: of_arms(view.records),
            lambda view: mean_decisions(view.records),
            lambda view: extra_of_arms(view.records),
        ),
    ),
    Section("The cell", (lambda view: _map(view, view.finished[0]),)),
)


def comparison_panels(view: ComparisonView) -> dict[str, list[Panel]]:
    """Every figure of a comparison's page, by section."""
    return panels_of(SECTIONS, view) if view.finished else {}


def _bars(measured: Mapping[str, Any], cost: Cost) -> Panel | str | None:
    """One cost to the target, a bar an arm; arms that did not get there are marked.

    A sentence where all that got there have the same.
    """
    arms = [arm for arm in measured["arms"] if arm["finished"]]
    means = [arm["to_target"][cost.key]["mean"] if arm["to_target"] else None for arm in arms]
    known = [mean for mean in means if mean is not None]
    if not known:
        return None
    shown = span(max(known), cost.unit)
    title = f"{cost.label[0].upper()}{cost.label[1:]} to the target"
    if len(known) > 1 and flat(known):
        value = stated([mean * shown.scale for mean in known])
        return f"{title}: {value} {shown.unit} in each of the {len(known)} arms that reached it."
    made = figure(f"{cost.label} to the target [{shown.unit}]", "arm")
    made.add_bar(
        x=[0.0 if mean is None else mean * shown.scale for mean in means],
        y=[arm["arm"] for arm in arms],
        orientation="h",
        name=cost.label,
        marker_color=PALETTE[0],
        error_x={
            "type": "data",
            "color": QUIET,
            "thickness": 1.5,
            "array": [
                arm["to_target"][cost.key]["sd"] * shown.scale if arm["to_target"] else 0.0
                for arm in arms
            ],
        },
        text=["not reached" if mean is None else f"{mean * shown.scale:.3g}" for mean in means],
        # In the bar, where a deviation does not cross it, or beside a short one.
        textposition=[
            "inside" if (mean or 0.0) > 0.2 * max(known) else "outside" for mean in means
        ],
        insidetextanchor="start",
        insidetextfont={"color": "#ffffff"},
        textangle=0,
        cliponaxis=False,
    )
    made.update_layout(height=max(240, 100 + 28 * len(arms)), showlegend=False)
    made.update_xaxes(range=[0, 1.2 * max(known) * shown.scale])
    made.update_yaxes(autorange="reversed", showgrid=False)
    return Panel(title, "Mean over seeds; the thin line is one standard deviation.", made)


def _map(view: ComparisonView, arm: ArmView) -> Panel | None:
    start, records = arm.runs[0]
    limits = {} if view.radius_m is None else {"radius_m": view.radius_m}
    run = RunView(
        summary={"start_test_loss": start},
        records=records,
        names=view.names,
        position_m=view.position_m,
        weights=np.ones(len(view.names)),
        limits=limits,
    )
    panel = cell_map(run)
    if panel is None:
        return None
    return Panel(
        "The cell in round 1 of the first seed",
        f"{panel.caption} Rates are those of {arm.name}.",
        panel.figure,
    )


def render_comparison(view: ComparisonView, beside: str = "") -> str:
    """The whole page as HTML; `beside` as for `html.page`."""
    notices = () if view.measured is None else view.measured.get("notices", ())
    return html.page(
        view.title,
        f"{html.note(view.note)}{html.sentences(view.sentences)}"
        f"{html.notices(further(notices))}{_result(view)}{_targets(view)}"
        f"{drawn(SECTIONS, view) if view.finished else ''}"
        f"{html.section('Every run', _pages(view))}",
        beside,
    )


def _result(view: ComparisonView) -> str:
    table = _table(view.headings, view.rows)
    return html.section("The result", f"{table}<p>{escape(view.about_rows)}</p>")


def _targets(view: ComparisonView) -> str:
    if not view.targets:
        return ""
    tables = "".join(
        f"<h3>{escape(table.title)}</h3>{_table(table.headings, table.rows)}"
        for table in view.targets
    )
    return html.section("Several targets", f"<p>{escape(view.about_targets)}</p>{tables}")


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f'<div class="scroll">{html.table(headings, rows, cell=_cell)}</div>'


def _cell(text: str) -> str:
    """A ratio in brackets in small print."""
    value, bracket, ratio = text.partition(" (")
    return f"{escape(value)} <small>({escape(ratio)}</small>" if bracket else escape(text)


def _pages(view: ComparisonView) -> str:
    items = "".join(
        f"<li>{escape(arm.name)}: "
        + ", ".join(f'<a href="{escape(href)}">seed {seed}</a>' for seed, href in arm.pages)
        + "</li>"
        for arm in view.arms
        if arm.pages
    )
    return f"<ul>{items}</ul>" if items else ""
