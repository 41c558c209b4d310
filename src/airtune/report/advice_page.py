"""The page of `airtune advise`: what each method takes, what binds, and what would help."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from airtune.quantities import format_duration, format_quantity
from airtune.report import html
from airtune.report.labels import span
from airtune.report.style import PALETTE, QUIET, Panel, figure

Entry = Mapping[str, Any]
_HEIGHT, _BAR = 150, 34
"""Of a figure around its bars, and of a bar [px]."""


def render_advice(advice: Mapping[str, Any]) -> str:
    """The whole page as HTML, from what `Advice.to_json` gives."""
    feasible = [entry for entry in advice["methods"] if entry["feasible"]]
    figures = [_latencies(feasible), _stages(feasible)] if feasible else []
    suggestions = _suggestions(advice)
    return html.page(
        f"airtune: advice on {advice['charged_model']}, {advice['clients']} clients",
        f"{html.sentences(_sentences(advice))}{html.notices(advice['notices'])}"
        f"{html.section('A round', _rounds(feasible))}"
        f"{html.section('The whole job', _jobs(feasible, advice['deadline_s']))}"
        f"{html.section('Not feasible', _refused(advice))}"
        f"{html.section('What a round waits for', html.grid(figures, 'figure-binds'))}"
        f"{html.section('What would help', suggestions)}"
        f"{html.section('What would not help', _left_out(advice))}",
    )


def _sentences(advice: Mapping[str, Any]) -> list[str]:
    told = [
        f"Means, and in brackets the 10th to 90th percentile, over {advice['drawn']}. Bytes and "
        "energy are those of all clients, memory is that of the client with the least room."
    ]
    if advice["charged_model"] != advice["model"]:
        told.append(f"Charged in place of {advice['model']}, whose rows the clients hold.")
    if advice["deadline_s"] is not None:
        told.append(f"The deadline of the job is {format_duration(advice['deadline_s'])}.")
    if advice["best"] is not None:
        told.append(f"The shortest job is that of {advice['best']}.")
    notes = [note for entry in advice["methods"] for note in entry["notes"]]
    return [*told, *dict.fromkeys(notes)]


def _rounds(entries: Sequence[Entry]) -> str:
    heads = ("method", "latency", "sent up", "sent down", "energy", "memory", "of the usable")
    rows = [
        [entry["name"], *_costs(entry["round"]), *_memory(entry["memory"])] for entry in entries
    ]
    return html.table(heads, rows, cell=_cell) if rows else ""


def _memory(memory: Mapping[str, Any] | None) -> list[str]:
    if memory is None:
        return ["-", "-"]
    usable = format_quantity(memory["usable_bytes"], "B")
    who = f"{usable} (client {memory['client']}, {memory['device']})"
    return [format_quantity(memory["needed_bytes"], "B"), who]


def _jobs(entries: Sequence[Entry], deadline_s: float | None) -> str:
    heads = ["method", "rounds", "time", "sent up", "sent down", "energy"]
    rows = []
    for entry in entries:
        job = entry["job"]
        row = [entry["name"], f"{job['rounds']:,} ({job['rounds_source']})"]
        row += _costs(job["totals"])
        if deadline_s is not None:
            row += ["yes" if job["in_time"] else "no", f"{job['rounds_that_fit']:,}"]
        rows.append(row)
    if deadline_s is not None:
        heads += ["in time", "rounds that fit"]
    return html.table(heads, rows, cell=_cell) if rows else ""


def _costs(spreads: Mapping[str, Mapping[str, float]]) -> list[str]:
    units = {"uplink_bytes": "B", "downlink_bytes": "B", "energy_j": "J"}
    amounts = [
        _shown(spreads[key], lambda x, u=unit: format_quantity(x, u)) for key, unit in units.items()
    ]
    return [_shown(spreads["latency_s"], format_duration), *amounts]


def _shown(spread: Mapping[str, float], text: Any) -> str:
    mean, low, high = (text(spread[key]) for key in ("mean", "p10", "p90"))
    return mean if low == high else f"{mean} ({low} to {high})"


def _refused(advice: Mapping[str, Any]) -> str:
    told = [f"{e['name']}: {e['reason']}" for e in advice["methods"] if not e["feasible"]]
    return html.sentences(told) if told else ""


def _latencies(entries: Sequence[Entry]) -> Panel:
    """The mean latency of each method as a bar, with a line between the percentiles."""
    spreads = [entry["round"]["latency_s"] for entry in entries]
    shown = span(max(spread["p90"] for spread in spreads), "s")
    made = figure(f"latency of a round [{shown.unit}]", "", _HEIGHT + _BAR * max(len(entries), 3))
    made.add_bar(
        x=[spread["mean"] * shown.scale for spread in spreads],
        y=[entry["name"] for entry in entries],
        orientation="h",
        marker_color=PALETTE[0],
        error_x={
            "type": "data",
            "color": QUIET,
            "thickness": 1.5,
            "symmetric": False,
            # A mean may lie outside the percentiles.
            "array": [max(s["p90"] - s["mean"], 0.0) * shown.scale for s in spreads],
            "arrayminus": [max(s["mean"] - s["p10"], 0.0) * shown.scale for s in spreads],
        },
    )
    made.update_layout(showlegend=False)
    made.update_yaxes(autorange="reversed", showgrid=False)
    return Panel("Latency", "Mean of a round; the thin line is the 10th to 90th percentile.", made)


def _stages(entries: Sequence[Entry]) -> Panel:
    """Shares of the latency by stage of the client that the round waits for."""
    names = list(dict.fromkeys(name for entry in entries for name in entry["binds"]["stages"]))
    made = figure("share of the latency [%]", "", _HEIGHT + _BAR * max(len(entries), 3))
    for index, name in enumerate(names):
        made.add_bar(
            x=[100.0 * entry["binds"]["stages"].get(name, 0.0) for entry in entries],
            y=[entry["name"] for entry in entries],
            orientation="h",
            name=name,
            marker_color=PALETTE[index % len(PALETTE)],
        )
    # Above the plot, on as many lines as it needs.
    made.update_layout(barmode="stack", margin={"t": 60})
    made.update_xaxes(range=[0, 100])
    made.update_yaxes(autorange="reversed", showgrid=False)
    caption = "Stages of the client that a round waits for, over all draws."
    return Panel("What binds", caption, made)


def _suggestions(advice: Mapping[str, Any]) -> str:
    heads = ["method", "change", "a\u00a0round", "", "whole\u00a0job", "saved", "set"]
    rows = [_suggestion(one) for one in advice["suggestions"]]
    return html.table(heads, rows, left=(1, 6), cell=_cell) if rows else ""


def _suggestion(one: Mapping[str, Any]) -> list[str]:
    change, saved = one["latency_change"], one["total_change_s"]
    return [
        one["name"],
        f"{one['what']} ({one['note']})" if one["note"] else one["what"],
        format_duration(one["latency_s"]["mean"]),
        "" if change is None else f"{change:+.1%}",
        format_duration(one["total_s"]),
        "" if saved is None else format_duration(-saved),
        one["command"],
    ]


def _left_out(advice: Mapping[str, Any]) -> str:
    told = [f"{one['name']}, {one['what']}: {one['reason']}" for one in advice["left_out"]]
    return html.sentences(told) if told else ""


def _cell(text: str) -> str:
    """Options of a command as code; what is in brackets in small print."""
    if text.startswith("--set"):
        return f"<code>{escape(text)}</code>"
    value, bracket, rest = text.partition(" (")
    if text[:1].isdigit() or text[:1] in "+-":
        value = value.replace(" ", "\u00a0")  # a number and its unit stay together
    return f"{escape(value)} <small>({escape(rest)}</small>" if bracket else escape(value)
