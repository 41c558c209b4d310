"""A number of every client over the rounds: its links, its loss, the size of its update."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from airtune.federated.records.record import ClientRecord
from airtune.report.alike import called, finite, groups, stretches
from airtune.report.style import PALETTE, Panel, count_rounds, faint, figure, line
from airtune.report.view import RunView, entries

MOST_LINES = 8
"""Groups of clients with lines of their own; of more, the median and a band."""
MOST_ROUNDS = 300


@dataclass(frozen=True)
class Measure:
    """A number of a client in a round; `of` answers None where it has none."""

    name: str
    unit: str
    of: Callable[[ClientRecord], float | None]

    @property
    def axis(self) -> str:
        """`uplink rate [Mbit/s]`; a number without a unit is only named."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name


def steady(measure: Measure, value: float) -> str:
    """What is said in place of a figure in which nothing would vary."""
    shown = f"{value:.4g} {measure.unit}".rstrip()
    return f"The {measure.name} was {shown} for every client in every round."


def by_client(view: RunView, measure: Measure) -> dict[int, list[float | None]]:
    """Values of each scheduled client over the rounds; None where it took no part."""
    place = {number: index for index, number in enumerate(view.rounds)}
    table: dict[int, list[float | None]] = {}
    for number, entry in entries(view.records):
        path = table.setdefault(entry.client, [None] * len(place))
        path[place[number]] = measure.of(entry)
    return dict(sorted(table.items()))


def over_rounds(
    view: RunView, measure: Measure, table: Mapping[int, Sequence[float | None]]
) -> Panel:
    """A line a client; clients with the same values share one. Of many, the median and a band."""
    made = figure("round", measure.axis)
    alike = groups(table)
    title = f"{measure.name[:1].upper()}{measure.name[1:]} over rounds"
    count_rounds(made, view.rounds)
    if len(alike) <= MOST_LINES and len(view.rounds) <= MOST_ROUNDS:
        for index, clients in enumerate(alike):
            made.add_scatter(
                x=view.rounds,
                y=list(table[clients[0]]),
                name=called(clients, view.names),
                mode="lines+markers",
                line=line(index),
                marker={"size": 4},
            )
        made.update_layout(showlegend=True)
        return Panel(title, _caption(alike), made)
    parts = stretches(len(view.rounds), MOST_ROUNDS)
    middle = [view.rounds[part.stop - 1] for part in parts]
    values = [finite(v for path in table.values() for v in path[part]) for part in parts]
    known = [
        (x, np.percentile(found, (10, 50, 90)))
        for x, found in zip(middle, values, strict=True)
        if found
    ]
    x = [at for at, _ in known]
    low, median, high = ([float(found[k]) for _, found in known] for k in range(3))
    made.add_scatter(
        x=[*x, *reversed(x)],
        y=[*high, *reversed(low)],
        fill="toself",
        fillcolor=faint(PALETTE[0]),
        mode="lines",
        line={"width": 0},
        hoverinfo="skip",
        name="10 to 90 % of the clients",
    )
    made.add_scatter(x=x, y=median, name="median of the clients", mode="lines", line=line(0))
    made.update_layout(showlegend=True)
    return Panel(title, "", made)


def _caption(alike: Sequence[Sequence[int]]) -> str:
    return "Clients with the same values share a line." if any(len(g) > 1 for g in alike) else ""
