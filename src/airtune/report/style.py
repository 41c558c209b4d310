"""How every figure of a report looks, so that a reader learns it once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

PALETTE = ("#4477AA", "#EE6677", "#228833", "#AA7700", "#AA3377", "#3399BB", "#777777")
"""After Paul Tol's bright scheme: distinct for colour-blind readers, dark enough for thin lines."""
DASHES = ("solid", "dash", "dot")
SCALE = "Viridis"
"""Even in brightness, so it survives a grey printer."""
INK, QUIET = "#222222", "#999999"


@dataclass(frozen=True)
class Panel:
    """One figure with the words around it."""

    title: str
    caption: str
    figure: Any


def figure(x: str, y: str, height: int = 340) -> Any:
    """An empty figure with axis titles; the title is the page's heading above it."""
    made = go.Figure()
    made.update_layout(
        template="simple_white",
        margin={"l": 68, "r": 20, "t": 16, "b": 52},
        height=height,
        font={"family": "system-ui, 'Liberation Sans', sans-serif", "size": 13, "color": INK},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        hoverlabel={"font": {"size": 13}},
        # The page's own colour shows through, light or dark.
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    # 2.42e-9 is 2.42 times ten to the power of -9, not "2.42n".
    made.update_xaxes(title=x, showgrid=True, gridcolor="#eeeeee", exponentformat="power")
    made.update_yaxes(
        title=y, showgrid=True, gridcolor="#eeeeee", automargin=True, exponentformat="power"
    )
    return made


def line(index: int) -> dict[str, str]:
    """Colour and dash of the `index`-th of many curves: colours first, then dashes."""
    return {
        "color": PALETTE[index % len(PALETTE)],
        "dash": DASHES[index // len(PALETTE) % len(DASHES)],
    }


NARROW = 0.2
"""Values that differ by a smaller share of the largest are shown on a scale that shows it."""


def colour_limits(values: Sequence[float]) -> tuple[float, float]:
    """Ends of a colour scale: the values' own where they differ much, else with 0 at one end.

    So that 22.526 and 22.540 Mbit/s have the same colour.
    """
    low, high = min(values), max(values)
    if high - low >= NARROW * max(abs(low), abs(high)) > 0:
        return low, high
    return (0.0, high) if high > 0 else (low, 0.0) if low < 0 else (0.0, 1.0)


def count_rounds(made: Any, rounds: Sequence[int]) -> None:
    """Whole numbers on a round axis, ten or so of them."""
    span = max(rounds, default=1)
    steps = (m * 10**power for power in range(12) for m in (1, 2, 5))
    step = next(step for step in steps if span / step <= 14)
    made.update_xaxes(
        tickmode="linear", tick0=0 if step > 1 else 1, dtick=step, range=[0.4, span + 0.6]
    )


def faint(color: str, opacity: float = 0.18) -> str:
    """A palette colour as a fill that lines stay readable on."""
    red, green, blue = (int(color[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
