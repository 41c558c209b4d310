"""Where the clients are, and the rates of their links."""

from math import isfinite

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
    heard = [rates[k] for k in placed if k in rates]
    low, high = colour_limits(heard) if heard else (0.0, 1.0)
    scale = {"cmin": low, "cmax": high, "colorscale": SCALE} if heard else {}
    kinds = list(dict.fromkeys(_device(view.names[k]) for k in placed))
    for index, kind in enumerate(kinds):
        of_kind = [k for k in placed if _device(view.names[k]) == kind]
        for told, chosen in (
            (True, [k for k in of_kind if k in rates]),
            (False, [k for k in of_kind if k not in rates]),
        ):
            if not chosen:
                continue
            marker = {
                "symbol": SYMBOLS[index % len(SYMBOLS)],
                "size": 13,
                "line": {"width": 1, "color": INK},
            }
            marker |= {"color": [rates[k] for k in chosen], **scale} if told else {"color": "white"}
            made.add_scatter(
                x=[view.position_m[k][0] for k in chosen],
                y=[view.position_m[k][1] for k in chosen],
                mode="markers+text" if len(placed) <= LABELLED else "markers",
                text=[str(k) for k in chosen],
                textposition="top center",
                marker=marker,
                name=kind if told else f"{kind}, never scheduled",
                customdata=[
                    f"{rates[k]:.3g} Mbit/s" if told else "never scheduled" for k in chosen
                ],
                hovertemplate=f"client %{{text}} ({kind})<br>%{{customdata}}<extra></extra>",
            )
    made.add_scatter(
        x=[0.0],
        y=[0.0],
        mode="markers",
        name="base station",
        hoverinfo="name",
        marker={"symbol": "x", "size": 14, "color": INK},
    )
    if heard:
        made.update_traces(marker_showscale=False)
        first = next(trace for trace in made.data if trace.marker.cmin is not None)
        first.marker.showscale = True
        first.marker.colorbar = {"title": {"text": "mean rate<br>[Mbit/s]"}, "thickness": 14}
    if "radius_m" in view.limits:
        r = view.limits["radius_m"]
        made.add_shape(
            type="circle",
            x0=-r,
            x1=r,
            y0=-r,
            y1=r,
            layer="below",
            fillcolor="rgba(0,0,0,0)",
            line={"color": QUIET, "dash": "dot", "width": 1},
        )
        made.update_xaxes(range=[-1.06 * r, 1.06 * r])
        made.update_yaxes(range=[-1.06 * r, 1.06 * r])
    made.update_yaxes(scaleanchor="x", scaleratio=1)
    return Panel(
        "The cell in round 1",
        "Symbols are devices, numbers clients, the dotted circle the edge of the cell. Colours are "
        "uplink rates at the bandwidths given, averaged over the rounds.",
        made,
    )
