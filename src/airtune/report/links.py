"""What the uplinks carried: rate and signal-to-noise ratio over the rounds, and how often which.

The records have each client's rate and bandwidth. Where the cell's rate is Shannon's,
`rate = bandwidth log2(1 + snr)` gives the ratio back, the implementation margin included; elsewhere
the spectral efficiency, rate over bandwidth, is shown.
"""

from collections.abc import Sequence
from math import expm1, log, log10

import numpy as np

from airtune.federated.records.record import ClientRecord
from airtune.report.alike import finite, one_value
from airtune.report.client_paths import Measure, by_client, over_rounds, steady
from airtune.report.style import Panel, figure, line
from airtune.report.view import RunView

_QUANTILES = 200


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
        table = by_client(view, measure)
        values = [value for path in table.values() for value in finite(path)]
        if not values:
            continue
        if one_value(values):
            made.append(steady(measure, values[0]))
            continue
        made += [over_rounds(view, measure, table), _distribution(measure, values)]
    return made


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
