"""A run at the terminal of another process: a view that renews itself, or lines in a pipe."""

import time
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from airtune.cli.text import facts, page_width, prose, text_table
from airtune.quantities import format_duration, format_quantity
from airtune.watching.pages import State, read_state, sentence_of, version_of
from airtune.watching.state import RunState
from airtune.watching.words import HEADINGS, has_stopped, rows_of, sparkline

LOOKS_EVERY_S = 1.0
ROUNDS, RUNS = 8, 40
"""Newest rounds, and runs, that the view shows."""


def watch_at_terminal(folder: Path) -> None:
    """Until everything has ended; in a pipe a line for every change."""
    console = Console(soft_wrap=True, highlight=False)
    if not console.is_terminal:
        _watch_in_a_pipe(folder, console)
        return
    state = read_state(folder)
    with Live(Text(view(state)), console=console, auto_refresh=False) as live:
        while not has_stopped(state):
            time.sleep(LOOKS_EVERY_S)
            state = read_state(folder)
            live.update(Text(view(state)), refresh=True)


def _watch_in_a_pipe(folder: Path, console: Console) -> None:
    shown = None
    while True:
        state = read_state(folder)
        if version_of(state) != shown:
            shown = version_of(state)
            if not has_stopped(state):
                console.print(_line(state), markup=False)
        if has_stopped(state):
            break
        time.sleep(LOOKS_EVERY_S)
    console.print(view(state), markup=False)


def _line(state: State) -> str:
    if isinstance(state, RunState) and state.records:
        return f"{sentence_of(state)} Test loss {state.records[-1].test_loss:.4f}."
    return sentence_of(state)


def view(state: State) -> str:
    """The whole view as text."""
    width = page_width() or 80
    parts = [prose(sentence_of(state), width)]
    if isinstance(state, RunState):
        parts += _run(state, width)
    else:
        left = len(state.runs) - RUNS
        rows = rows_of(state.runs[:RUNS])
        if rows:
            parts.append(text_table(HEADINGS, rows, left=HEADINGS[:2], width=width))
        parts += [f"... and {left} more runs"] if left > 0 else []
    return "\n\n".join(parts)


def _run(run: RunState, width: int) -> list[str]:
    if not run.records:
        return []
    room = max(10, width - 40)
    losses = [record.test_loss for record in run.records]
    latencies = [record.latency_s for record in run.records]
    energies = [record.energy_j for record in run.records]
    curves = [
        ("test loss", f"{sparkline(losses, room)}  {losses[0]:.4f} to {losses[-1]:.4f} nat"),
        (
            "latency",
            f"{sparkline(latencies, room)}  {format_duration(min(latencies))} to "
            f"{format_duration(max(latencies))} a round",
        ),
        (
            "energy",
            f"{sparkline(energies, room)}  {format_quantity(sum(energies), 'J')} in all",
        ),
    ]
    headings = ("round", "virtual time", "latency", "energy", "train", "test")
    rows = [
        (
            str(record.round),
            format_duration(record.virtual_time_s),
            format_duration(record.latency_s),
            format_quantity(record.energy_j, "J"),
            "-" if record.train_loss is None else f"{record.train_loss:.4f}",
            f"{record.test_loss:.4f}",
        )
        for record in run.records[-ROUNDS:]
    ]
    return [facts(curves), text_table(headings, rows, width=width)]
