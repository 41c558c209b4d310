"""`report.html` of a sweep: metrics against what was swept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from airtune.report import html
from airtune.report.labels import span
from airtune.report.style import SCALE, Panel, faint, figure, line

MOST_CURVES = 14
"""Lines that a figure can tell apart."""
MOST_FIGURES = 12
MOST_TICKS = 10
ALIKE = 1e-6
"""Relative difference below which a metric does not depend on a key."""
_CUMULATIVE = ("s", "B", "J", "FLOP")


@dataclass(frozen=True)
class SweepMetric:
    """A number that varies over the points; `unit` is `s`, `B`, `J`, `nat` or another."""

    key: str
    label: str
    unit: str


@dataclass(frozen=True)
class SweepPoint:
    """A point: the value of each swept key, and each metric's values, one a finished seed."""

    values: Sequence[Any]
    metrics: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class SweepView:
    """A sweep as its page shows it; `rows` are the table's texts under `headings`."""

    title: str
    sentences: Sequence[str]
    refused: Sequence[str]
    keys: Sequence[str]
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    points: Sequence[SweepPoint]
    metrics: Sequence[SweepMetric]
    pages: Sequence[str]


def sweep_panels(view: SweepView) -> list[Panel]:
    """A figure a metric, over the keys that it depends on: a heat map for two numeric keys, else
    lines or bars."""
    return [_panel(view, metric) for metric in view.metrics[:MOST_FIGURES]]


def _panel(view: SweepView, metric: SweepMetric) -> Panel:
    places = [place for place in range(len(view.keys)) if _matters(view, metric, place)]
    others = [key for place, key in enumerate(view.keys) if place not in places]
    view = _narrowed(view, places) if places else view
    numeric = [place for place in range(len(view.keys)) if _is_numeric(view, place)]
    if len(view.keys) == 2 and len(numeric) == 2 and _is_grid(view):
        panel = _heat_map(view, metric)
    elif numeric:
        # Along the key with most values; the others tell the curves apart.
        along = max(numeric, key=lambda place: len({point.values[place] for point in view.points}))
        panel = _curves(view, metric, along)
    else:
        panel = _bars(view, metric)
    if not others or not places:
        return panel
    words = f"The same for every {' and '.join(others)}. {panel.caption}".strip()
    return Panel(panel.title, words, panel.figure)


def _matters(view: SweepView, metric: SweepMetric, place: int) -> bool:
    """Whether a metric differs between points that differ in this key alone."""
    found: dict[str, list[float]] = {}
    for point in view.points:
        mean = _mean(point.metrics.get(metric.key, ()))
        if mean is not None:
            rest = [value for other, value in enumerate(point.values) if other != place]
            found.setdefault(repr(rest), []).append(mean)
    if all(len(values) == 1 for values in found.values()):
        # No two points to compare: a list of points, or one value.
        return len({repr(point.values[place]) for point in view.points}) > 1
    return any(max(v) - min(v) > ALIKE * max(map(abs, v)) for v in found.values())


def _narrowed(view: SweepView, places: Sequence[int]) -> SweepView:
    """The view with these keys alone; of points that are then the same, the first with a result."""
    kept: dict[str, SweepPoint] = {}
    for point in view.points:
        values = [point.values[place] for place in places]
        key = repr(values)
        if key not in kept or not kept[key].metrics:
            kept[key] = SweepPoint(values, point.metrics)
    return replace(view, keys=[view.keys[place] for place in places], points=list(kept.values()))


def _is_numeric(view: SweepView, place: int) -> bool:
    values = [point.values[place] for point in view.points]
    numbers = {v for v in values if isinstance(v, int | float) and not isinstance(v, bool)}
    return len(numbers) > 1 and all(_is_number(value) for value in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_grid(view: SweepView) -> bool:
    """Whether every value of one key meets every value of the other, at least 2 by 2."""
    first, second = ({point.values[place] for point in view.points} for place in (0, 1))
    return min(len(first), len(second)) > 1 and len(first) * len(second) == len(view.points)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _scaled(view: SweepView, metric: SweepMetric) -> tuple[str, float]:
    """Axis title and scale of a metric."""
    values = [value for point in view.points for value in point.metrics.get(metric.key, ())]
    if metric.unit in _CUMULATIVE:
        shown = span(max(map(abs, values)), metric.unit)
        return f"{metric.label} [{shown.unit}]", shown.scale
    unit = f" [{metric.unit}]" if metric.unit not in ("", "1") else ""
    return f"{metric.label}{unit}", 1.0


def _title(metric: SweepMetric) -> str:
    return metric.label[0].upper() + metric.label[1:]


def _heat_map(view: SweepView, metric: SweepMetric) -> Panel:
    """Values of the first key upward, of the second to the right; a point without a result is
    empty."""
    words, scale = _scaled(view, metric)
    ups, rights = (sorted({point.values[place] for point in view.points}) for place in (0, 1))
    found = {tuple(point.values): _mean(point.metrics.get(metric.key, ())) for point in view.points}
    cells = [[found[up, right] for right in rights] for up in ups]
    numbers = [[None if cell is None else cell * scale for cell in row] for row in cells]
    made = figure(view.keys[1], view.keys[0], height=90 + 46 * max(5, len(ups)))
    made.add_heatmap(
        x=[_word(right) for right in rights],
        y=[_word(up) for up in ups],
        z=numbers,
        colorscale=SCALE,
        text=[["" if cell is None else f"{cell:.4g}" for cell in row] for row in numbers],
        texttemplate="%{text}",
        xgap=2,
        ygap=2,
        hovertemplate=f"{view.keys[1]} %{{x}}, {view.keys[0]} %{{y}}: %{{z:.4g}}<extra></extra>",
        colorbar={"title": {"text": words, "side": "right"}, "thickness": 14},
    )
    # Values as categories: steps of a sweep are rarely even.
    made.update_xaxes(type="category", showgrid=False)
    made.update_yaxes(type="category", showgrid=False)
    return Panel(_title(metric), _seeds_words(view), made)


def _curves(view: SweepView, metric: SweepMetric, along: int) -> Panel:
    """The mean over the seeds, with the range between them shaded."""
    words, scale = _scaled(view, metric)
    made = figure(view.keys[along], words, height=380)
    groups: dict[str, list[SweepPoint]] = {}
    for point in view.points:
        if point.metrics.get(metric.key):
            groups.setdefault(_others(view, point, along), []).append(point)
    for index, (name, points) in enumerate(list(groups.items())[:MOST_CURVES]):
        points = sorted(points, key=lambda point: float(point.values[along]))
        x = [point.values[along] for point in points]
        values = [[scale * value for value in point.metrics[metric.key]] for point in points]
        style = line(index)
        if any(len(at) > 1 for at in values):
            made.add_scatter(
                x=[*x, *reversed(x)],
                y=[*map(max, values), *map(min, reversed(values))],
                mode="lines",
                fill="toself",
                fillcolor=faint(style["color"]),
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
            )
        made.add_scatter(
            x=x,
            y=[_mean(at) for at in values],
            name=name,
            mode="lines+markers",
            line={**style, "width": 2},
            marker={"size": 6},
        )
    made.update_layout(showlegend=len(groups) > 1, height=380 + 8 * min(len(groups), MOST_CURVES))
    _number_axis(made, sorted({float(point.values[along]) for point in view.points}))
    left_out = len(groups) - MOST_CURVES
    more = f" {left_out} more curves are in sweep.csv." if left_out > 0 else ""
    return Panel(_title(metric), _seeds_words(view) + more, made)


def _others(view: SweepView, point: SweepPoint, along: int) -> str:
    return ", ".join(
        f"{key} {_word(value)}"
        for place, (key, value) in enumerate(zip(view.keys, point.values, strict=True))
        if place != along
    )


def _word(value: Any) -> str:
    if _is_number(value):
        return f"{value:g}".replace("e+0", "e").replace("e+", "e")
    return "-" if value is None else str(value)


def _number_axis(made: Any, values: Sequence[float]) -> None:
    """Marks at the swept values; logarithmic where they span more than a factor of twenty, since
    they were stepped by factors then."""
    if values[0] > 0 and values[-1] > 20 * values[0]:
        made.update_xaxes(type="log")
    if len(values) <= MOST_TICKS:
        made.update_xaxes(tickvals=values, ticktext=[_word(value) for value in values])


def _bars(view: SweepView, metric: SweepMetric) -> Panel:
    """A bar a point, where no key has numbers."""
    words, scale = _scaled(view, metric)
    known = [point for point in view.points if point.metrics.get(metric.key)]
    means = [scale * (_mean(point.metrics[metric.key]) or 0.0) for point in known]
    made = figure(words, "", height=max(240, 100 + 28 * len(known)))
    made.add_bar(
        x=means,
        y=[", ".join(map(_word, point.values)) for point in known],
        orientation="h",
        marker_color=line(0)["color"],
        text=[f"{value:.4g}" for value in means],
        textposition="outside",
        cliponaxis=False,
    )
    made.update_layout(showlegend=False)
    made.update_yaxes(autorange="reversed", showgrid=False, type="category")
    if min(means) >= 0:
        made.update_xaxes(range=[0, 1.2 * max(means)])
    return Panel(_title(metric), _seeds_words(view), made)


def _seeds_words(view: SweepView) -> str:
    seeds = max(
        (len(values) for point in view.points for values in point.metrics.values()), default=1
    )
    return "Mean over the seeds; shaded is the range between them." if seeds > 1 else ""


def render_sweep(view: SweepView) -> str:
    """The whole page as HTML."""
    table = html.table(view.headings, view.rows, keys=len(view.keys))
    refused = html.section("Points without a result", html.sentences(view.refused))
    return html.page(
        view.title,
        f"{html.sentences(view.sentences)}{html.section('The result', table)}"
        f"{html.section('Figures', html.grid(sweep_panels(view), 'figure-0'))}"
        f"{refused if view.refused else ''}{html.section('Every run', _pages(view))}",
    )


def _pages(view: SweepView) -> str:
    if not view.pages:
        return ""
    links = "".join(
        f'<li><a href="{escape(page)}">{escape(page.removesuffix("/report.html"))}</a></li>'
        for page in view.pages
    )
    return f"<details><summary>Pages of {len(view.pages)} runs</summary><ul>{links}</ul></details>"
