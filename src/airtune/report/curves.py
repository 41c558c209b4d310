"""Loss against what it cost: virtual time, bytes and energy."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from statistics import median
from typing import Any

from airtune.report.alike import lopsided, thinned
from airtune.report.costs import ENERGY, TIME, UPLINK, Cost, spent
from airtune.report.labels import span
from airtune.report.style import INK, PALETTE, Panel, faint, figure, line
from airtune.report.view import Records

TICKS = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12)
LOSS = "test loss per completion token [nat]"


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every decade between two positive numbers; 1 alone of many decades."""
    first, last = floor(log10(low)), ceil(log10(high))
    digits = (1, 2, 5) if last - first <= 4 else (1,)
    every = (digit * 10.0**power for power in range(first, last + 1) for digit in digits)
    return [tick for tick in every if low <= tick <= high]


@dataclass(frozen=True)
class Curve:
    """A run's, or an arm's runs' (one a seed), way to its loss."""

    name: str
    runs: Sequence[tuple[float | None, Records]]
    """Start loss (None where it is unknown) and records of each run."""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _paths(curve: Curve, cost: Cost) -> tuple[list[float], list[list[float]]]:
    """Mean cost after each round, and the losses of all runs there; the common rounds only.

    From round 1 on where a run's start loss is unknown.
    """
    xs = [spent(records, cost) for _, records in curve.runs]
    ys: list[list[Any]] = [
        [start, *(record.test_loss for record in records)] for start, records in curve.runs
    ]
    first = 1 if any(start is None for start, _ in curve.runs) else 0
    common = range(first, min(len(x) for x in xs))
    mean_x = [_mean([x[k] for x in xs]) for k in common]
    return thinned(mean_x, [[y[k] for y in ys] for k in common])


def _positive(
    xs: Sequence[float], losses: Sequence[list[float]]
) -> tuple[list[float], list[list[float]]]:
    there = [k for k, x in enumerate(xs) if x > 0.0]
    return [xs[k] for k in there], [losses[k] for k in there]


def loss_against(curves: Sequence[Curve], cost: Cost, target: float | None, title: str) -> Panel:
    """One line an arm: the mean over its seeds, with the range between them shaded."""
    paths = [_paths(curve, cost) for curve in curves]
    ends = [x[-1] for x, _ in paths]
    far = lopsided(ends)
    if far:
        # Nothing was spent before training: no place on a logarithmic axis.
        paths = [_positive(*path) for path in paths]
    shown = span(median(ends) if far else max(ends), cost.unit)
    paths = [([value * shown.scale for value in x], losses) for x, losses in paths]
    scale = ", logarithmic" if far else ""
    made = figure(f"{cost.label} [{shown.unit}]{scale}", LOSS, height=380)
    drawn: list[tuple[str, list[float]]] = []
    for index, (curve, (x, losses)) in enumerate(zip(curves, paths, strict=True)):
        points = [*x, *map(_mean, losses)]
        twin = next((name for name, other in drawn if _coincide(points, other)), None)
        drawn.append((curve.name, points))
        _draw(made, index, curve, x, losses, twin)
    if far:
        _log_costs(made, [value for x, _ in paths for value in x])
    if len(curves) > 1:
        _log_losses(made, [loss for _, losses in paths for at in losses for loss in at])
    if target is not None:
        _mark_target(made, target, log=len(curves) > 1)
    made.update_layout(showlegend=len(curves) > 1, height=400 + 6 * len(curves))
    return Panel(title, "", made)


def _draw(
    made: Any,
    index: int,
    curve: Curve,
    x: Sequence[float],
    losses: Sequence[Sequence[float]],
    twin: str | None,
) -> None:
    """A curve and its range; one that lies on an earlier one is dashed and labelled, so that both
    are seen."""
    style = line(index) | ({"dash": "dash"} if twin else {})
    name = f"{curve.name} (on {twin})" if twin else curve.name
    if len(curve.runs) > 1:
        made.add_scatter(
            x=[*x, *reversed(x)],
            y=[*(max(y) for y in losses), *(min(y) for y in reversed(losses))],
            fill="toself",
            fillcolor=faint(style["color"]),
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=curve.name,
            name=f"{curve.name}, range",
        )
    made.add_scatter(
        x=x,
        y=[_mean(y) for y in losses],
        name=name,
        legendgroup=curve.name,
        mode="lines+markers" if len(x) <= 60 else "lines",
        line={**style, "width": 2},
        marker={"size": 5},
    )


def _log_costs(made: Any, values: Sequence[float]) -> None:
    ticks = log_ticks(min(values), max(values))
    made.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])


def _log_losses(made: Any, values: Sequence[float]) -> None:
    """Where the curves end is what is compared, so it gets the room."""
    made.update_yaxes(
        type="log",
        tickvals=[tick for tick in TICKS if min(values) < tick < max(values)],
        title=f"{LOSS}, logarithmic",
    )


def _mark_target(made: Any, target: float, *, log: bool) -> None:
    made.add_hline(y=target, line={"color": INK, "dash": "dash", "width": 1})
    # plotly takes the logarithm of an annotation's place, though not of a line's.
    made.add_annotation(
        text=f"target {target:.4g} nat",
        showarrow=False,
        xref="paper",
        x=0,
        xanchor="left",
        y=log10(target) if log else target,
        yanchor="top",
    )


def _coincide(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two curves cannot be distinguished in a figure."""
    size = max(map(abs, [*one, *other]))
    return len(one) == len(other) and all(
        abs(a - b) <= 1e-3 * size for a, b in zip(one, other, strict=True)
    )


def loss_panels(curves: Sequence[Curve], target: float | None = None) -> list[Panel]:
    """Loss against virtual time, bytes up and energy."""
    titles = {
        TIME: "Loss against virtual time",
        UPLINK: "Loss against bytes sent up",
        ENERGY: "Loss against the clients' energy",
    }
    return [loss_against(curves, cost, target, title) for cost, title in titles.items()]


def train_and_test(start_loss: float | None, records: Records) -> Panel:
    """Test and train loss of one run against the virtual clock."""
    times = spent(records, TIME)
    shown = span(times[-1], "s")
    made = figure(f"virtual time [{shown.unit}]", "loss per completion token [nat]", height=380)
    at = [time * shown.scale for time in times]
    tested = [(0.0, start_loss), *zip(at[1:], (r.test_loss for r in records), strict=True)]
    trained = list(zip(at[1:], (record.train_loss for record in records), strict=True))
    words = "train (before each step, mean over the cohort)"
    for index, (name, points) in enumerate((("test", tested), (words, trained))):
        known = [point for point in points if point[1] is not None]
        if known:
            x, y = thinned([x for x, _ in known], [y for _, y in known])
            made.add_scatter(
                x=x,
                y=y,
                name=name,
                mode="lines+markers" if len(x) <= 60 else "lines",
                line={"color": PALETTE[index], "dash": "dot" if index else "solid"},
            )
    made.update_layout(showlegend=True)
    return Panel("Loss against virtual time", "", made)
