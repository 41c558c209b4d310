"""A measured trace, drawn: its throughput over time and its distribution, as a page or as SVG."""

from collections.abc import Mapping, Sequence
from html import escape
from math import floor, log10
from typing import Any

import numpy as np

from airtune.quantities import FloatArray, format_duration, format_quantity
from airtune.report import html
from airtune.report.style import PALETTE, Panel, figure, line
from airtune.wireless.trace import Trace

_MOST_POINTS = 1000
Curve = tuple[str, FloatArray, FloatArray]
"""A name, and the points of a line."""


def over_time(traces: Sequence[Trace]) -> list[Curve]:
    """Throughput [Mbit/s] over time [s] or rows; of long traces the means of 1000 stretches."""
    curves = []
    for trace in traces:
        count = min(len(trace), _MOST_POINTS)
        if trace.edge_s is None:
            parts = np.array_split(trace.rate_bps, count)
            rate = np.array([part.mean() for part in parts])
        else:
            rate = trace.means(count)
        at = (np.arange(count) + 0.5) * trace.duration / count
        curves.append((trace.name.rpartition(":")[2], at, rate / 1e6))
    return curves


def distributions(found: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Share of the time over the throughput [Mbit/s] that is not exceeded in it."""
    curves = []
    for summary in found:
        share, rate = np.array(summary["cdf"]).T
        curves.append((str(summary["name"]).rpartition(":")[2], rate / 1e6, share))
    return curves


def _axes(traces: Sequence[Trace]) -> str:
    return "row" if traces[0].edge_s is None else "time [s]"


def trace_page(name: str, traces: Sequence[Trace], found: Sequence[Mapping[str, Any]]) -> str:
    """The whole page as HTML."""
    panels = [
        _panel("Throughput", over_time(traces), _axes(traces), "throughput [Mbit/s]"),
        _panel("Distribution", distributions(found), "throughput [Mbit/s]", "share of the time"),
    ]
    told = html.sentences([_sentence(summary) for summary in found])
    return html.page(f"airtune: the trace {name}", told + html.grid(panels, "trace"))


def _panel(title: str, curves: Sequence[Curve], x: str, y: str) -> Panel:
    made = figure(x, y, height=380)
    for index, (name, at, value) in enumerate(curves):
        made.add_scatter(x=at.tolist(), y=value.tolist(), name=name, mode="lines", line=line(index))
    made.update_layout(showlegend=len(curves) > 1)
    return Panel(title, "", made)


def _sentence(summary: Mapping[str, Any]) -> str:
    seconds = summary["duration_s"]
    lasts = "" if seconds is None else f" over {format_duration(seconds)}"
    mean, median = (format_quantity(summary[key], "bit/s") for key in ("mean_bps", "median_bps"))
    return (
        f"{summary['name']}: {summary['samples']} samples{lasts}, mean {mean}, median {median}, "
        f"idle for {summary['idle_share']:.1%} of the time."
    )


_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 860, 300, 70, 46, 34


def trace_svg(name: str, traces: Sequence[Trace], found: Sequence[Mapping[str, Any]]) -> str:
    """Both charts below each other as one SVG drawing."""
    charts = (
        _chart(over_time(traces), _axes(traces), "throughput [Mbit/s]", 0),
        _chart(distributions(found), "throughput [Mbit/s]", "share of the time", _HEIGHT),
    )
    names = [curve[0] for curve in over_time(traces)]
    legend = "".join(
        f'<text x="{_LEFT + 150 * k}" y="20" fill="{line(k)["color"]}">{escape(label)}</text>'
        for k, label in enumerate(names)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {2 * _HEIGHT}" '
        f'width="{_WIDTH}" font-family="sans-serif" font-size="13"><title>{escape(name)}</title>'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{legend}{"".join(charts)}</svg>\n'
    )


def _chart(curves: Sequence[Curve], x: str, y: str, down: int) -> str:
    """One chart: axes from 0 with some ticks, and a line for each curve."""
    most_x = max(float(at.max()) for _, at, _ in curves) or 1.0
    most_y = max(float(value.max()) for _, _, value in curves) or 1.0
    right, bottom = _WIDTH - 20, _HEIGHT - _BOTTOM

    def place(at: float, value: float) -> tuple[float, float]:
        return (
            _LEFT + at / most_x * (right - _LEFT),
            down + bottom - value / most_y * (bottom - _TOP),
        )

    drawn = []
    for tick in _ticks(most_x):
        left, low = place(tick, 0)
        drawn.append(f'<path d="M{left:.1f} {low:.1f}V{down + _TOP}" stroke="#e4e4e4"/>')
        drawn.append(_text(left, low + 18, f"{tick:g}", "middle"))
    for tick in _ticks(most_y):
        left, low = place(0, tick)
        drawn.append(f'<path d="M{left:.1f} {low:.1f}H{right}" stroke="#e4e4e4"/>')
        drawn.append(_text(left - 8, low + 4, f"{tick:g}", "end"))
    drawn.append(_text((_LEFT + right) / 2, down + _HEIGHT - 8, x, "middle"))
    drawn.append(_text(_LEFT, down + _TOP - 8, y, "start") if down else "")
    drawn.append("" if down else _text(right, _TOP - 8, y, "end"))
    for index, (_, at, value) in enumerate(curves):
        points = (place(*point) for point in zip(at.tolist(), value.tolist(), strict=True))
        path = " ".join(f"{left:.1f},{low:.1f}" for left, low in points)
        colour = PALETTE[index % len(PALETTE)]
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
    return "".join(drawn)


def _text(left: float, low: float, words: str, anchor: str) -> str:
    return f'<text x="{left:.1f}" y="{low:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _ticks(most: float) -> list[float]:
    """Four to nine round numbers from 0 to at most `most`."""
    power = 10.0 ** floor(log10(most))
    step = next(s for s in (0.1, 0.2, 0.5, 1.0, 2.0) if most / (s * power) <= 9) * power
    return [step * k for k in range(int(most / step + 1e-9) + 1)]
