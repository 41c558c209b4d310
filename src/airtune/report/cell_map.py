"""Where the clients are, and the rates of their links."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from airtune.report.style import INK, QUIET, SCALE, Panel, colour_limits, figure
from airtune.report.view import RunView, entries

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "pentagon", "star", "hexagon")
LABELLED = 60


def _mean_rates(view: RunView) -> dict[int, float]:
    """Mean uplink rate of each scheduled client [Mbit/s]."""
    rates: dict[int, list[float]] = {}
    for _, entry in entries(view.records):
        rates.setdefault(entry.client, []).append(entry.rate_bps / 1e6)
    return {client: sum(values) / len(values) for client, values in rates.items()}


def _device(name: str) -> str:
    return name.partition("(")[2].removesuffix(")") or name


def cell_map(view: RunView) -> Panel | None:
    """Distances in metres, the base station at the origin; None without positions (a trace)."""
    placed = [k for k, place in enumerate(view.position_m) if all(map(isfinite, place))]
    if not placed:
        return None
    rates = _mean_rates(view)
    made = figure("east of the base station [m]", "north of the base station [m]", height=520)
    for index, kind in enumerate(dict.fromkeys(_device(view.names[k]) for k in placed)):
        of_kind = [k for k in placed if _device(view.names[k]) == kind]
        shape = SYMBOLS[index % len(SYMBOLS)]
        label = len(placed) <= LABELLED
        _add_clients(made, view, [k for k in of_kind if k in rates], kind, shape, rates, label)
        _add_clients(made, view, [k for k in of_kind if k not in rates], kind, shape, {}, label)
    made.add_scatter(
        x=[0.0],
        y=[0.0],
        mode="markers",
        name="base station",
        hoverinfo="name",
        marker={"symbol": "x", "size": 14, "color": INK},
    )
    _colour(made, [rates[k] for k in placed if k in rates])
    if "radius_m" in view.limits:
        _draw_edge(made, view.limits["radius_m"])
    made.update_yaxes(scaleanchor="x", scaleratio=1)
    return Panel(
        "The cell in round 1",
        "Symbols are devices, numbers clients, the dotted circle the edge of the cell. Colours are "
        "uplink rates at the bandwidths given, averaged over the rounds.",
        made,
    )


def _add_clients(
    made: Any,
    view: RunView,
    clients: Sequence[int],
    kind: str,
    symbol: str,
    rates: Mapping[int, float],
    label: bool,
) -> None:
    """Clients of one device, filled by rate [Mbit/s]; white without rates: never scheduled."""
    if not clients:
        return
    colour: Any = [rates[k] for k in clients] if rates else "white"
    said = [f"{rates[k]:.3g} Mbit/s" if rates else "never scheduled" for k in clients]
    made.add_scatter(
        x=[view.position_m[k][0] for k in clients],
        y=[view.position_m[k][1] for k in clients],
        mode="markers+text" if label else "markers",
        text=[str(k) for k in clients],
        textposition="top center",
        marker={
            "symbol": symbol,
            "size": 13,
            "line": {"width": 1, "color": INK},
            "color": colour,
        },
        name=kind if rates else f"{kind}, never scheduled",
        customdata=said,
        hovertemplate=f"client %{{text}} ({kind})<br>%{{customdata}}<extra></extra>",
    )


def _colour(made: Any, rates: Sequence[float]) -> None:
    """One colour scale for all clients with a rate, and its bar once."""
    coloured = [trace for trace in made.data if isinstance(trace.marker.color, tuple)]
    if not coloured:
        return
    low, high = colour_limits(rates)
    for trace in coloured:
        trace.marker.update(cmin=low, cmax=high, colorscale=SCALE, showscale=False)
    bar = {"title": {"text": "mean rate<br>[Mbit/s]"}, "thickness": 14}
    coloured[0].marker.update(showscale=True, colorbar=bar)


def _draw_edge(made: Any, radius_m: float) -> None:
    """The edge of the cell, and axes that show all of it."""
    made.add_shape(
        type="circle",
        x0=-radius_m,
        x1=radius_m,
        y0=-radius_m,
        y1=radius_m,
        layer="below",
        fillcolor="rgba(0,0,0,0)",
        line={"color": QUIET, "dash": "dot", "width": 1},
    )
    made.update_xaxes(range=[-1.06 * radius_m, 1.06 * radius_m])
    made.update_yaxes(range=[-1.06 * radius_m, 1.06 * radius_m])
