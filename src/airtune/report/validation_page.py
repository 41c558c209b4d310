"""`report.html` of a validation: prediction against measurement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from airtune.report import html
from airtune.report.style import PALETTE, Panel, count_rounds, figure

Table = tuple[Sequence[str], Sequence[Sequence[str]]]


@dataclass(frozen=True)
class ValidationView:
    """A validation as its page shows it.

    Attributes:
        note: what must not be overlooked. summary, stages: headings and rows, the latter by arm.
        transfers: arm, stage, client, round, predicted and measured seconds.
        rounds: by arm, round -> `predicted`, `path` and `overhead` [s].
    """

    title: str
    note: str
    sentences: Sequence[str]
    summary: Table
    stages: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]]
    transfers: Sequence[tuple[str, str, int | None, int, float, float]]
    rounds: Sequence[tuple[str, Mapping[int, Mapping[str, float]]]]


def validation_panels(view: ValidationView) -> list[Panel]:
    """Every figure of the page."""
    made = [_by_round(arm, rounds) for arm, rounds in view.rounds]
    return [*([_seconds(view), _ratios(view)] if view.transfers else []), *made]


def _stages(view: ValidationView) -> list[str]:
    return list(dict.fromkeys(stage for _, stage, *_ in view.transfers))


def _seconds(view: ValidationView) -> Panel:
    """A point a transfer stage, client and round."""
    made = figure("predicted [s]", "measured [s]")
    for color, stage in zip(PALETTE, _stages(view), strict=False):
        own = [entry for entry in view.transfers if entry[1] == stage]
        made.add_scatter(
            x=[entry[4] for entry in own],
            y=[entry[5] for entry in own],
            mode="markers",
            name=stage.replace("_", " "),
            text=[f"{arm}, client {client}, round {number}" for arm, _, client, number, *_ in own],
            marker={"color": color, "size": 7},
        )
    seconds = [value for entry in view.transfers for value in entry[4:]]
    ends = [0.9 * min(seconds), 1.1 * max(seconds)]
    made.add_scatter(
        x=ends,
        y=ends,
        mode="lines",
        name="as predicted",
        hoverinfo="skip",
        line={"color": PALETTE[6], "dash": "dash", "width": 1},
    )
    made.update_xaxes(type="log")
    made.update_yaxes(type="log")
    return Panel("Transfers, predicted and measured", "A point a stage, client and round.", made)


def _ratios(view: ValidationView) -> Panel:
    made = figure("round", "measured / predicted")
    for color, stage in zip(PALETTE, _stages(view), strict=False):
        own = [entry for entry in view.transfers if entry[1] == stage]
        made.add_scatter(
            x=[entry[3] for entry in own],
            y=[entry[5] / entry[4] for entry in own],
            mode="markers",
            name=stage.replace("_", " "),
            text=[f"{arm}, client {client}" for arm, _, client, *_ in own],
            marker={"color": color, "size": 7},
        )
    made.add_hline(y=1.0, line={"dash": "dash", "width": 1})
    count_rounds(made, sorted({entry[3] for entry in view.transfers}))
    return Panel(
        "Transfers, measured over predicted", "1 is as predicted; rates change every round.", made
    )


def _by_round(arm: str, rounds: Mapping[int, Mapping[str, float]]) -> Panel:
    """The measured round, its overhead on top, and the predicted latency."""
    made, numbers = figure("round", "latency [s]"), list(rounds)
    for color, key, words in (
        (PALETTE[0], "path", "transfers and computing, measured"),
        (PALETTE[1], "overhead", "overhead, measured"),
    ):
        values = [rounds[number][key] for number in numbers]
        made.add_bar(x=numbers, y=values, name=words, marker_color=color)
    made.add_scatter(
        x=numbers,
        y=[rounds[number]["predicted"] for number in numbers],
        name="predicted latency",
        mode="markers",
        marker={"color": "#000000", "symbol": "diamond-open", "size": 8},
    )
    made.update_layout(barmode="stack", legend_traceorder="normal", height=380)
    count_rounds(made, numbers)
    words = "Overhead: planning, encoding, dispatch, aggregation, evaluation and checkpoint."
    return Panel(f"Rounds of {arm}", words, made)


def render_validation(view: ValidationView) -> str:
    """The whole page as HTML."""
    tables = "".join(
        f"<h3>{escape(arm)}</h3>{html.table(headings, rows)}" for arm, headings, rows in view.stages
    )
    return html.page(
        view.title,
        f"{html.note(view.note)}{html.sentences(view.sentences)}"
        f"{html.section('The result', html.table(*view.summary))}"
        f"{html.section('Figures', html.grid(validation_panels(view), 'figure-0'))}"
        f"{html.section('Stages and clients, means over the rounds', tables)}",
    )
