"""Figures of one run, from its records alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

Records = Sequence[Mapping[str, Any]]

PALETTE = ["#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB"]
"""Paul Tol's bright scheme: distinct for colour-blind readers and in grey."""
STAGES = (("broadcast_s", "broadcast"), ("compute_s", "computing"), ("upload_s", "upload"))


def _figure(title: str, x: str, y: str) -> Any:
    figure = go.Figure()
    figure.update_layout(
        title=title,
        template="simple_white",
        margin={"l": 64, "r": 24, "t": 72, "b": 56},
        height=360,
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
    )
    figure.update_xaxes(title=x)
    figure.update_yaxes(title=y)
    return figure


def _count_rounds(figure: Any, records: Records) -> None:
    """Whole numbers on a round axis, ten or so of them."""
    figure.update_xaxes(tickmode="linear", tick0=1, dtick=max(1, round(len(records) / 10)))


def loss_over_time(records: Records, start_loss: float) -> Any:
    """Test and train loss against the virtual clock."""
    figure = _figure("Loss", "virtual time [s]", "loss per completion token [nat]")
    times = [record["virtual_time_s"] for record in records]
    figure.add_scatter(
        x=[0.0, *times],
        y=[start_loss, *(record["test_loss"] for record in records)],
        name="test",
        mode="lines+markers",
        line={"color": PALETTE[0]},
    )
    figure.add_scatter(
        x=times,
        y=[record["train_loss"] for record in records],
        name="train (before each step)",
        mode="lines+markers",
        line={"color": PALETTE[1], "dash": "dot"},
    )
    figure.update_yaxes(rangemode="tozero")
    return figure


def mean_stages(records: Records, names: Sequence[str]) -> Any:
    """Where each client's time goes, as a mean over the rounds it took part in."""
    figure = _figure("Time of a round by client and stage", "mean delay [s]", "")
    clients = sorted({entry["client"] for record in records for entry in record["clients"]})
    shown = clients[:40]
    for color, (key, label) in zip(PALETTE, STAGES, strict=False):
        means = [_mean(records, client, key) for client in shown]
        figure.add_bar(
            y=[names[client] for client in shown],
            x=means,
            name=label,
            orientation="h",
            marker_color=color,
        )
    figure.update_layout(barmode="stack", height=max(260, 110 + 24 * len(shown)))
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def _mean(records: Records, client: int, key: str) -> float:
    values: list[float] = [
        entry[key] for record in records for entry in record["clients"] if entry["client"] == client
    ]
    return sum(values) / len(values)


def latency_over_rounds(records: Records, names: Sequence[str]) -> Any:
    """Charged and planned latency of every round, the straggler named on hover."""
    figure = _figure("Latency of each round", "round", "latency [s]")
    rounds = [record["round"] for record in records]
    figure.add_bar(
        x=rounds,
        y=[record["latency_s"] for record in records],
        name="charged",
        marker_color=PALETTE[4],
        customdata=[
            f"{names[record['straggler']]} ({record['straggler_stage']})" for record in records
        ],
        hovertemplate="round %{x}: %{y:.3g} s<br>last: %{customdata}<extra></extra>",
    )
    figure.add_scatter(
        x=rounds,
        y=[record["planned_latency_s"] for record in records],
        name="planned",
        mode="markers",
        marker={"color": PALETTE[1], "symbol": "diamond-open", "size": 9},
    )
    _count_rounds(figure, records)
    return figure


def bandwidth_over_rounds(records: Records, names: Sequence[str]) -> Any:
    """Who got how much of the band in each round."""
    figure = _figure("Shares of the uplink band", "round", "bandwidth [MHz]")
    clients = sorted({entry["client"] for record in records for entry in record["clients"]})[:12]
    for position, client in enumerate(clients):
        figure.add_scatter(
            x=[record["round"] for record in records],
            y=[_bandwidth_mhz(record, client) for record in records],
            name=names[client],
            mode="lines+markers",
            line={"color": PALETTE[position % len(PALETTE)]},
        )
    _count_rounds(figure, records)
    figure.update_layout(
        legend={"orientation": "v", "y": 1, "yanchor": "top", "x": 1.01, "xanchor": "left"}
    )
    return figure


def _bandwidth_mhz(record: Mapping[str, Any], client: int) -> float | None:
    for entry in record["clients"]:
        if entry["client"] == client:
            return float(entry["bandwidth_hz"]) / 1e6
    return None


def cell_map(position_m: Sequence[Sequence[float]], names: Sequence[str]) -> Any:
    """Where the clients are in round 1; the base station is the origin."""
    figure = _figure("The cell in round 1", "east [m]", "north [m]")
    figure.add_scatter(
        x=[p[0] for p in position_m],
        y=[p[1] for p in position_m],
        text=list(names) if len(names) <= 40 else None,
        mode="markers+text" if len(names) <= 40 else "markers",
        textposition="top center",
        marker={"color": PALETTE[0], "size": 9},
        name="client",
    )
    figure.add_scatter(
        x=[0.0],
        y=[0.0],
        mode="markers",
        marker={"color": PALETTE[1], "size": 13, "symbol": "triangle-up"},
        name="base station",
    )
    figure.update_yaxes(scaleanchor="x")
    figure.update_layout(height=460)
    return figure
