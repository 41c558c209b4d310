"""A run and a comparison as notebooks show them: a heading, one table, sentences."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from airtune.quantities import format_duration, format_quantity


def run_html(path: str, method: str, records: Sequence[Any], summary: Mapping[str, Any]) -> str:
    """The state of a run: losses, rounds and costs so far. An empty `summary`: it has not ended."""
    state = "ended" if summary else "not ended: `airtune resume` goes on"
    rows = [("method", method), ("rounds", f"{len(records)} ({state})")]
    start = summary.get("start_test_loss")
    if start is not None:
        rows.append(("test loss before", f"{start:.4f} nat"))
    if records:
        rows += [
            ("test loss", f"{records[-1].test_loss:.4f} nat"),
            ("virtual time", format_duration(records[-1].virtual_time_s)),
            ("sent up", format_quantity(sum(r.uplink_bits for r in records) / 8, "B")),
            ("energy of the clients", format_quantity(sum(r.energy_j for r in records), "J")),
        ]
    notes = "".join(f"<li>{escape(sentence)}</li>" for sentence in summary.get("notices", ()))
    return table_html(path, (), rows) + (f"<ul>{notes}</ul>" if notes else "")


def table_html(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column names its rows."""
    head = "".join(f"<th>{escape(text)}</th>" for text in headings)
    body = "".join(
        f"<tr><th>{escape(row[0])}</th>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    thead = f"<thead><tr>{head}</tr></thead>" if headings else ""
    return f"<table><caption>{escape(caption)}</caption>{thead}<tbody>{body}</tbody></table>"
