"""Drawings with matplotlib, as a journal prints them: one or two columns wide, readable in grey."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from textwrap import fill
from typing import Any

from airtune.report.alike import lopsided
from airtune.report.curves import TICKS, log_ticks
from airtune.report.figures.drawing import Curves, Drawing, Intervals, Stack

FONT = "DejaVu Sans"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""After Okabe and Ito, without their yellow, which is too light for a line."""
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1, 1.2)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (3, 1)),
    (0, (6, 1.2, 1, 1.2, 1, 1.2)),
    (0, (9, 2)),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p")
HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "oooo", "++++")
WIDTH_IN = {1: 3.5, 2: 7.16}
"""Of one and of two columns."""
_LETTERS = {1: 52, 2: 108}
"""About as many fit beside each other."""
_LONGEST = 26
_BARS = 60
"""More rounds than these are drawn as areas."""
STYLE = {
    "font.family": [FONT],
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.4,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "legend.columnspacing": 1.2,
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,
    # TrueType outlines in the file, as publishers require; text of an SVG as paths, so that it
    # looks the same everywhere; names inside an SVG from a fixed seed.
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "airtune",
    "savefig.dpi": 300,
}


@contextmanager
def styled() -> Iterator[None]:
    """The style of all figures; drawing and saving stand within it."""
    from matplotlib import rc_context, rcParamsDefault

    plain = {key: rcParamsDefault[key] for key in rcParamsDefault if key not in _KEPT}
    with rc_context({**plain, **STYLE}):
        yield


_KEPT = ("backend", "backend_fallback", "interactive", "toolbar", "timezone")


def missing_letters(texts: Sequence[str]) -> str:
    """Letters that the font of the figures does not have."""
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    known = FT2Font(findfont(FONT)).get_charmap()
    return "".join(sorted({c for text in texts for c in text if c > " " and ord(c) not in known}))


def draw(drawing: Drawing, columns: int) -> Any:
    """A matplotlib figure, `columns` columns wide."""
    if isinstance(drawing, Curves):
        return _curves(drawing, columns)
    return (
        _intervals(drawing, columns) if isinstance(drawing, Intervals) else _stack(drawing, columns)
    )


def _figure(columns: int, height_in: float, legend: Sequence[str]) -> tuple[Any, Any, int]:
    """Figure, axes, and how many columns a legend of these names has above them."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    beside = 1
    if legend:
        lines = [_in_legend(name, columns) for name in legend]
        longest = max(len(part) for line in lines for part in line.splitlines()) + 7
        beside = max(1, min(len(legend), _LETTERS[columns] // longest))
        tallest = max(line.count("\n") + 1 for line in lines)
        height_in += 0.165 * ceil(len(legend) / beside) * tallest
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02)
    figure = Figure(figsize=(WIDTH_IN[columns], height_in), layout=layout)
    return figure, figure.add_subplot(), beside


def _named(name: str) -> str:
    return fill(name, _LONGEST) if len(name) > _LONGEST else name


def _in_legend(name: str, columns: int) -> str:
    return fill(name, _LETTERS[columns] - 10)


def _line(index: int) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
    }


def _curves(drawing: Curves, columns: int) -> Any:
    several = len(drawing.curves) > 1
    figure, axes, beside = _figure(columns, 2.2, drawing.labels if several else [])
    for index, curve in enumerate(drawing.curves):
        style = _line(index)
        # Nothing was spent before training: no place on a logarithmic axis.
        shown = slice(sum(x <= 0.0 for x in curve.x) if drawing.x.log else 0, None)
        if curve.low:
            low, high = curve.low[shown], curve.high[shown]
            axes.fill_between(
                curve.x[shown], low, high, color=style["color"], alpha=0.18, linewidth=0
            )
        # A mark on about eight points, each curve's at places of its own.
        step = max(1, len(curve.x) // 8)
        start = index % step if len(curve.x) > 16 else 0
        axes.plot(
            curve.x[shown],
            curve.y[shown],
            label=_in_legend(curve.name, columns),
            markevery=(start, step),
            **style,
        )
    if drawing.level is not None:
        words, value = drawing.level
        axes.axhline(value, color="#555555", linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
        axes.annotate(
            words,
            # Losses fall, so that there is room at the left.
            (0.01, value),
            xycoords=axes.get_yaxis_transform(),
            ha="left",
            va="bottom",
            color="#555555",
        )
    axes.set(xlabel=drawing.x.text, ylabel=drawing.y.text)
    axes.margins(x=0.02)
    if drawing.x.log:
        _log_costs(axes)
    if drawing.y.log:
        _log_losses(axes)
    if not drawing.x.unit:
        _whole_numbers(axes)
    if several:
        _legend(figure, axes, beside)
    return figure


def _log_costs(axes: Any) -> None:
    from matplotlib.ticker import FixedLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(log_ticks(*axes.get_xlim())))
    axes.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _log_losses(axes: Any) -> None:
    """A logarithmic axis with plain numbers."""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    ticks = [tick for tick in TICKS if low < tick < high]
    if len(ticks) > 1:
        ticks = ticks[:: max(1, len(ticks) // 7)]
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        axes.yaxis.set_major_formatter(lambda value, place: f"{value:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_formatter(NullFormatter())


def _whole_numbers(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))


def _legend(figure: Any, axes: Any, beside: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=beside, borderpad=0.1)


def _intervals(drawing: Intervals, columns: int) -> Any:
    intervals = drawing.intervals
    figure, axes, _ = _figure(columns, 0.6 + 0.26 * len(intervals), [])
    places = range(len(intervals))
    for place, it in zip(places, intervals, strict=True):
        style = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
        if it.mean is None:
            axes.annotate(it.note, (0.01, place), xycoords=axes.get_yaxis_transform(), va="center")
            continue
        if it.low is not None and it.high is not None:
            axes.plot(
                [it.low, it.high], [place, place], color=style["color"], solid_capstyle="butt"
            )
            axes.plot(
                [it.low, it.high], [place, place], linestyle="", marker="|", color=style["color"]
            )
        axes.plot([it.mean], [place], linestyle="", markersize=5, **style)
        if it.note:
            axes.annotate(f"  {it.note}", (it.high or it.mean, place), va="center", color="#555555")
    axes.set_yticks(list(places), [_named(it.name) for it in intervals])
    axes.set_ylim(len(intervals) - 0.4, -0.6)
    ends = [end for it in intervals for end in (it.mean, it.high) if end is not None]
    means = [it.mean for it in intervals if it.mean is not None]
    if lopsided(means):
        # A mean less its deviation may be at or below nothing: it goes on to the axis.
        axes.set_xlim(0.6 * min(means), 1.6 * max(ends))
        _log_costs(axes)
    else:
        axes.set_xlim(0, 1.08 * max(ends))
    axes.set_xlabel(drawing.value.text)
    axes.grid(visible=False, axis="y")
    return figure


def _stack(drawing: Stack, columns: int) -> Any:
    by_arm = drawing.category == "arm"
    height_in = 0.6 + 0.26 * len(drawing.categories) if by_arm else 2.0
    legend = [part for part, _ in drawing.parts]
    figure, axes, beside = _figure(columns, height_in, legend)
    places = list(range(len(drawing.categories))) if by_arm else list(drawing.categories)
    below = [0.0] * len(places)
    for index, (part, values) in enumerate(drawing.parts):
        style = {
            "color": COLOURS[index % len(COLOURS)],
            "hatch": HATCHES[index % len(HATCHES)],
            "edgecolor": "white",
            "linewidth": 0.4 if len(places) <= _BARS else 0.0,
            "label": part,
        }
        above = [a + b for a, b in zip(below, values, strict=True)]
        if by_arm:
            axes.barh(places, values, left=below, height=0.72, **style)
        elif len(places) <= _BARS:
            axes.bar(places, values, bottom=below, width=0.82, **style)
        else:
            axes.fill_between(places, below, above, step="mid", **style)
        below = above
    if by_arm:
        axes.set_yticks(places, [_named(str(name)) for name in drawing.categories])
        axes.set_ylim(len(places) - 0.4, -0.6)
        axes.set_xlabel(drawing.value.text)
        axes.grid(visible=False, axis="y")
    else:
        axes.set(xlabel="round", ylabel=drawing.value.text)
        axes.margins(x=0.01)
        axes.grid(visible=False, axis="x")
        _whole_numbers(axes)
    _legend(figure, axes, beside)
    return figure
