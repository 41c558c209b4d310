"""`airtune trace inspect`: what a file of measured throughput holds, before it becomes a cell."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airtune.cli.command import FullGroup, OnceCommand
from airtune.cli.text import page_width, show_value, text_table
from airtune.errors import InputError

if TYPE_CHECKING:
    from airtune.wireless.trace import Trace

app = typer.Typer(cls=FullGroup, help="Measured traces of throughput.")

_PLOTS = (".svg", ".html")
_WORDS = {
    "duration_s": "duration",
    "mean_bps": "mean",
    "median_bps": "median",
    "p10_bps": "exceeded for 90% of the time",
    "p90_bps": "exceeded for 10% of the time",
    "least_bps": "least",
    "most_bps": "most",
    "idle_share": "idle",
    "autocorrelation": "autocorrelation of neighbours",
    "coherence_s": "coherence",
    "coherence_rows": "coherence, rows",
}


@app.command(cls=OnceCommand)
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The trace.")],
    layout: Annotated[
        str | None,
        typer.Option(
            "--format", help="csv, ucc-5g, 5gophers or mahimahi; without it, by its first line."
        ),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Throughput column; may be repeated.")
    ] = None,
    unit: Annotated[str | None, typer.Option(help="Unit of the throughput, such as Mbps.")] = None,
    time_column: Annotated[str | None, typer.Option(help="Column of the time of each row.")] = None,
    time_unit: Annotated[str | None, typer.Option(help="s, ms, us or timestamp.")] = None,
    gaps: Annotated[str | None, typer.Option(help="Between far rows: hold or idle.")] = None,
    gap_s: Annotated[float | None, typer.Option(help="Longest step that is no gap [s].")] = None,
    window_s: Annotated[float | None, typer.Option(help="Windows of mahimahi [s].")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=VALUE", help="Only rows with this value; may be repeated."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it: .svg or .html.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Show what a trace is like: distribution, idle time, how fast it changes; and draw it.

    The options are those keys of a cell that begin with trace_ (docs/wireless.md).
    """
    from airtune.wireless.trace_files import format_of

    _check_plot(plot)
    keys = {
        "column": column,
        "unit": unit,
        "time_column": time_column,
        "time_unit": time_unit,
        "gaps": gaps,
        "gap_s": gap_s,
        "window_s": window_s,
        "where": _pairs(where),
    }
    try:
        layout = layout or format_of(file)
        traces = _traces(file, {"format": layout, **keys})
    except InputError as error:
        raise _in_options(error) from None
    from airtune.wireless.trace_statistics import trace_summary

    found = [trace_summary(trace) for trace in traces]
    if plot is not None:
        _draw(plot, file, traces, found)
    if json:
        from json import dumps

        typer.echo(dumps({"file": str(file), "format": layout, "traces": found}, indent=2))
        return
    _show(file, layout, found)
    if plot is not None:
        typer.echo(f"\nDrawn in {plot}.")


def _check_plot(plot: Path | None) -> None:
    """Refuse a name without a known ending, or a place that does not exist, before any work."""
    from airtune.files import require_place

    if plot is not None:
        if plot.suffix not in _PLOTS:
            raise InputError("--plot", str(plot), f"a name that ends in {' or '.join(_PLOTS)}")
        require_place("--plot", plot)


def _traces(file: Path, keys: Mapping[str, Any]) -> "Sequence[Trace]":
    """The traces as a cell with these keys has them: uplink first where it has both directions."""
    from airtune.wireless.cell import CellSettings
    from airtune.wireless.traced_cell import cell_traces
    from airtune.wireless.unused import refuse_unused_cell_keys

    given = {f"trace_{key}": value for key, value in keys.items() if value is not None}
    # The width of the carrier is not looked at here.
    cell = CellSettings(trace=file, trace_bandwidth_hz=20e6, **given)
    refuse_unused_cell_keys(cell)
    uplink, downlink = cell_traces(cell)
    if keys["column"] is not None:
        return uplink
    return [*uplink, *downlink]


def _pairs(settings: Sequence[str] | None) -> dict[str, str] | None:
    if settings is None:
        return None
    for setting in settings:
        if "=" not in setting:
            raise InputError("--where", setting, "of the form COLUMN=VALUE")
    return dict(setting.split("=", 1) for setting in settings)


def _in_options(error: InputError) -> InputError:
    """The same sentence with options in the place of the keys of a cell."""

    def option(text: Any) -> Any:
        if not isinstance(text, str):
            return text
        text = re.sub(r"cell\.trace_(\w+)", lambda found: "--" + found[1].replace("_", "-"), text)
        return text.replace("cell.trace", "FILE")

    parts = (error.field, error.value, error.allowed, error.remedy)
    return InputError(*map(option, parts))


def _show(file: Path, layout: str, found: Sequence[Mapping[str, Any]]) -> None:
    """A column a trace: what it is in numbers, then its distribution."""
    width = page_width()
    timed = found[0]["duration_s"] is not None
    clock = "on the clock of its rows" if timed else "without a clock: a row is a round"
    # A path is never broken.
    typer.echo(f"{file}\n{layout}, {clock}\n")
    names = [_column(one) for one in found]
    keys = [key for key in found[0] if key not in ("name", "cdf") and found[0][key] is not None]
    rows = [[_WORDS.get(key, key), *(_cell(key, one[key]) for one in found)] for key in keys]
    typer.echo(text_table(["trace", *names], rows, width=width))
    typer.echo("\nShare of the time in which the throughput is at most:")
    places = range(0, len(found[0]["cdf"]), 2)
    lines = [
        [f"{found[0]['cdf'][k][0]:.0%}", *(_cell("rate_bps", one["cdf"][k][1]) for one in found)]
        for k in places
    ]
    typer.echo(text_table(["share", *names], lines, width=width))


def _column(summary: Mapping[str, Any]) -> str:
    """The column alone: the file stands above."""
    return str(summary["name"]).rpartition(":")[2]


def _cell(key: str, value: Any) -> str:
    if value is not None and key == "idle_share":
        return f"{value:.1%}"
    return show_value(key, value)


def _draw(
    plot: Path, file: Path, traces: "Sequence[Trace]", found: Sequence[Mapping[str, Any]]
) -> None:
    from airtune.files import write_text_atomic
    from airtune.report.trace_page import trace_page, trace_svg

    drawn = trace_svg if plot.suffix == ".svg" else trace_page
    write_text_atomic(plot, drawn(file.name, traces, found))
