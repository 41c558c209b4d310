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
ROUND = "round"


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
    )
    made.update_xaxes(title=x, showgrid=True, gridcolor="#eeeeee")
    made.update_yaxes(title=y, showgrid=True, gridcolor="#eeeeee", automargin=True)
    return made


def line(index: int) -> dict[str, str]:
    """Colour and dash of the `index`-th of many curves: colours first, then dashes."""
    return {
        "color": PALETTE[index % len(PALETTE)],
        "dash": DASHES[index // len(PALETTE) % len(DASHES)],
    }


def count_rounds(made: Any, rounds: Sequence[int]) -> None:
    """Whole numbers on a round axis, ten or so of them."""
    span = max(rounds, default=1)
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**6) if span / s <= 14)
    made.update_xaxes(tickmode="linear", tick0=0 if step > 1 else 1, dtick=step,
                      range=[0.4, span + 0.6])  # fmt: skip


def faint(color: str, opacity: float = 0.18) -> str:
    """A palette colour as a fill that lines stay readable on."""
    red, green, blue = (int(color[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
