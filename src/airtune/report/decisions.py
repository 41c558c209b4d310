"""What the planner decided, round by round and client by client."""

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10
from typing import Any

from airtune.federated.records.fields import COUNT, Quantity, quantities
from airtune.federated.records.record import ClientRecord
from airtune.report.alike import called, flat, groups, one_value, stated, stretches
from airtune.report.style import SCALE, Panel, colour_limits, count_rounds, figure, line
from airtune.report.view import Records, RunView, entries, scheduled

DECISIONS = {name: it for name, it in quantities(ClientRecord).items() if it.decision}
MOST_ROWS = 60
MOST_COLUMNS = 150
GAPS = 60
"""Columns that lines between them still separate."""
WIDE_SPAN = 20.0

Table = dict[tuple[int, int], float]
"""A decision by (round, client)."""


def decided(records: Records) -> dict[str, Table]:
    """Every decision that some plan recorded. What a plan leaves out is 0 (nothing removed)."""
    found: dict[str, Table] = {}
    present: list[tuple[int, int]] = []
    for number, entry in entries(records):
        present.append((number, entry.client))
        for key, what in DECISIONS.items():
            if (value := _number(getattr(entry, key), what)) is not None:
                found.setdefault(key, {})[number, entry.client] = value
    for key in ("pruning_rate", "sparsity"):
        if key in found:
            found[key] = {place: found[key].get(place, 0.0) for place in present}
    return {key: found[key] for key in sorted(found, key=_order)}


def _order(key: str) -> tuple[int, str]:
    return DECISIONS[key].order, key


def _number(value: Any, what: Quantity) -> float | None:
    """Of subchannels their number, of other lists their mean; None for what was not decided."""
    if not isinstance(value, list):
        return None if value is None else float(value)
    if what.unit == COUNT:
        return float(len(value))
    return sum(value) / len(value) if value else None


def constants(records: Records) -> dict[str, float]:
    """Decisions that were the same for every client in every round."""
    return {
        key: next(iter(table.values()))
        for key, table in decided(records).items()
        if one_value(table.values())
    }


def decision_panels(view: RunView) -> list[Panel]:
    """A map of clients x rounds for every decision that varied."""
    return [
        _map(view, DECISIONS[key], table)
        for key, table in decided(view.records).items()
        if not one_value(table.values())
    ]


def _map(view: RunView, what: Quantity, table: Table) -> Panel:
    """Clients x rounds as colours; clients with the same decisions share a row."""
    rows = {
        client: [_scaled(table.get((number, client)), what.shown.scale) for number in view.rounds]
        for client in scheduled(view.records)
    }
    alike = groups(rows)
    if len(alike) == 1:
        return _one_path(view, what, rows[alike[0][0]])
    shown, parts = alike[:MOST_ROWS], stretches(len(view.rounds), MOST_COLUMNS)
    values = [[_mean(rows[clients[0]][part]) for part in parts] for clients in shown]
    made = figure("round", "client")
    made.add_heatmap(
        x=[view.rounds[part.stop - 1] for part in parts],
        y=[called(clients, view.names) for clients in shown],
        xgap=1 if len(parts) <= GAPS else 0,
        ygap=1,
        name=what.label,
        **_colours(values, what),
    )
    made.update_layout(height=max(300, 110 + 22 * len(shown)))
    made.update_yaxes(autorange="reversed", type="category", showgrid=False)
    made.update_xaxes(showgrid=False)
    count_rounds(made, view.rounds)
    return Panel(f"{what.title}, by client and round", _map_caption(alike, values, parts), made)


def _map_caption(
    alike: Sequence[Sequence[int]],
    values: Sequence[Sequence[float | None]],
    parts: Sequence[slice],
) -> str:
    blank = any(value is None for row in values for value in row)
    caption = "Blank: not scheduled, or not decided, in that round. " if blank else ""
    if any(len(clients) > 1 for clients in alike):
        caption += "Clients with the same decisions share a row. "
    if len(alike) > MOST_ROWS:
        caption += f"The first {MOST_ROWS} of {len(alike)} rows. "
    if parts[0].stop > 1:
        caption += f"A column is the mean of {parts[0].stop} rounds."
    return caption.strip()


def _one_path(view: RunView, what: Quantity, path: Sequence[float | None]) -> Panel:
    """A decision that is the same for every client, over the rounds."""
    made = figure("round", what.axis)
    made.add_scatter(
        x=view.rounds, y=list(path), mode="lines+markers", line=line(0), name=what.label
    )
    made.update_layout(showlegend=False)
    count_rounds(made, view.rounds)
    return Panel(f"{what.title} over rounds", "The same for every client.", made)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _colours(values: Sequence[Sequence[float | None]], what: Quantity) -> dict[str, Any]:
    """Values as colours; on a logarithmic scale where they span more than a factor of 20."""
    unit = what.shown.unit
    hover = "round %{x}, client %{y}<br>" + what.label + " %{VALUE:.4g} " + unit + "<extra></extra>"
    known = [value for row in values for value in row if value is not None]
    bar: dict[str, Any] = {"title": {"text": f"[{unit}]", "side": "top"}, "thickness": 14}
    if min(known) <= 0 or max(known) < WIDE_SPAN * min(known):
        low, high = colour_limits(known)
        limits = {"zmin": low, "zmax": high, "hovertemplate": hover.replace("VALUE", "z")}
        return {"z": values, **limits, "colorscale": SCALE, "colorbar": bar}
    logs = [[None if value is None else log10(value) for value in row] for row in values]
    low, high = floor(log10(min(known))), ceil(log10(max(known)))
    ticks = [m * 10.0**power for power in range(low, high) for m in (1, 2, 5)]
    ticks = [tick for tick in [*ticks, 10.0**high] if min(known) <= tick <= max(known)]
    bar |= {"tickvals": [log10(tick) for tick in ticks], "ticktext": [f"{t:g}" for t in ticks]}
    told = {"customdata": values, "hovertemplate": hover.replace("VALUE", "customdata")}
    return {"z": logs, **told, "colorscale": SCALE, "colorbar": bar}


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale


def mean_decisions(arms: Sequence[tuple[str, Sequence[Records]]]) -> list[Panel | str]:
    """The mean over clients and seeds of each decision in each arm that makes it, over rounds."""
    of_arms = [[decided(records) for records in runs] for _, runs in arms]
    keys = dict.fromkeys(key for runs in of_arms for tables in runs for key in tables)
    panels: list[Panel | str] = []
    for key in sorted(keys, key=_order):
        # A constant needs no figure.
        values = [v for runs in of_arms for tables in runs for v in tables.get(key, {}).values()]
        if DECISIONS[key].divides or one_value(values):
            continue
        paths = [
            (name, index, _by_round([tables[key] for tables in runs if key in tables]))
            for index, ((name, _), runs) in enumerate(zip(arms, of_arms, strict=True))
            if any(key in tables for tables in runs)
        ]
        if len(paths) == 1 and flat(paths[0][2].values()):
            panels.append(_one_arm(DECISIONS[key], paths[0][0], paths[0][2]))
            continue
        panels.append(_lines(DECISIONS[key], paths))
    return panels


def _one_arm(what: Quantity, arm: str, path: Mapping[int, float]) -> str:
    value = stated([value * what.shown.scale for value in path.values()])
    return f"{arm}: the mean {what.label} was {value} {what.shown.unit} in every round."


def _by_round(tables: Sequence[Mapping[Any, float]]) -> dict[int, float]:
    collected: dict[int, list[float]] = {}
    for table in tables:
        for (number, _), value in table.items():
            collected.setdefault(number, []).append(value)
    return {number: sum(values) / len(values) for number, values in sorted(collected.items())}


def _lines(what: Quantity, paths: Sequence[tuple[str, int, dict[int, float]]]) -> Panel:
    made = figure("round", what.axis)
    for name, index, path in paths:
        made.add_scatter(
            x=list(path),
            y=[value * what.shown.scale for value in path.values()],
            name=name,
            mode="lines+markers",
            line=line(index),
            marker={"size": 4},
        )
    made.update_layout(showlegend=True)
    made.update_yaxes(rangemode="tozero")
    count_rounds(made, [number for _, _, path in paths for number in path])
    title = f"Mean {what.label} over rounds"
    return Panel(title, "Mean over the scheduled clients and the seeds.", made)
