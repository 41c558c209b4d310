"""What the uplinks carried: rate and signal-to-noise ratio over the rounds, and how often which.

The records have each client's rate and bandwidth. Where the cell's rate is Shannon's,
`rate = bandwidth log2(1 + snr)` gives the ratio back, the implementation margin included; elsewhere
the spectral efficiency, rate over bandwidth, is shown.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import expm1, log, log10

import numpy as np

from airtune.federated.records.record import ClientRecord
from airtune.report.alike import called, finite, groups, one_value, stretches
from airtune.report.style import PALETTE, Panel, count_rounds, faint, figure, line
from airtune.report.view import RunView, entries

MOST_LINES = 8
"""Groups of clients with lines of their own; of more, the median and a band."""
MOST_ROUNDS = 300
_QUANTILES = 200


@dataclass(frozen=True)
class Measure:
    """A number of a client's link; `of` answers None where it has none."""

    name: str
    unit: str
    of: Callable[[ClientRecord], float | None]

    @property
    def axis(self) -> str:
        return f"{self.name} [{self.unit}]"


def _rate(entry: ClientRecord) -> float | None:
    return entry.rate_bps / 1e6


def efficiency(entry: ClientRecord) -> float | None:
    """Rate over bandwidth, bit/s/Hz; None without bandwidth."""
    return entry.rate_bps / entry.bandwidth_hz if entry.bandwidth_hz > 0 else None


def snr_db(entry: ClientRecord) -> float | None:
    """`10 log10(2^(rate / bandwidth) - 1)`, in decibels; None for a link that carries nothing."""
    bits = efficiency(entry)
    if bits is None or bits <= 0:
        return None
    # 2^x - 1 overflows above 1024 bit/s/Hz, where it is 2^x.
    return 10.0 * (log10(expm1(bits * log(2.0))) if bits < 1000 else bits * log10(2.0))


RATE = Measure("uplink rate", "Mbit/s", _rate)
SNR = Measure("SNR of the uplink", "dB", snr_db)
EFFICIENCY = Measure("spectral efficiency of the uplink", "bit/s/Hz", efficiency)


def link_panels(view: RunView) -> list[Panel | str]:
    """Two panels for the rate and two for the SNR, or for the efficiency where that is unknown."""
    made: list[Panel | str] = []
    for measure in (RATE, SNR if view.shannon else EFFICIENCY):
        table = _table(view, measure)
        values = [value for path in table.values() for value in finite(path)]
        if not values:
            continue
        if one_value(values):
            made.append(
                f"The {measure.name} was {values[0]:.4g} {measure.unit} for every client in every "
                "round."
            )
            continue
        made += [_over_rounds(view, measure, table), _distribution(measure, values)]
    return made


def _table(view: RunView, measure: Measure) -> dict[int, list[float | None]]:
    """Values of each scheduled client over the rounds; None where it took no part."""
    place = {number: index for index, number in enumerate(view.rounds)}
    table: dict[int, list[float | None]] = {}
    for number, entry in entries(view.records):
        path = table.setdefault(entry.client, [None] * len(place))
        path[place[number]] = measure.of(entry)
    return dict(sorted(table.items()))


def _over_rounds(
    view: RunView, measure: Measure, table: Mapping[int, Sequence[float | None]]
) -> Panel:
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


def _distribution(measure: Measure, values: Sequence[float]) -> Panel:
    """The empirical distribution, of many values at evenly spaced shares."""
    made = figure(measure.axis, "share of clients and rounds [share]")
    ordered = np.sort(np.asarray(values))
    shares = np.arange(1, len(ordered) + 1) / len(ordered)
    if len(ordered) > _QUANTILES:
        places = np.linspace(0, len(ordered) - 1, _QUANTILES).round().astype(int)
        ordered, shares = ordered[places], shares[places]
    made.add_scatter(
        x=ordered.tolist(),
        y=shares.tolist(),
        mode="lines",
        line={**line(0), "shape": "hv"},
        name=measure.name,
    )
    made.update_yaxes(range=[0, 1.02])
    made.update_layout(showlegend=False)
    title = f"Distribution of the {measure.name}"
    return Panel(title, "The share that does not exceed a value.", made)
