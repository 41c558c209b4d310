"""Runs at a terminal: progress, a summary, a hint when interrupted."""

import json
import sys
import time
from pathlib import Path
from shlex import quote
from typing import Any

from rich.console import Console

from airtune.cli.terminal import RoundsView, print_summary
from airtune.cli.text_table import facts, page_width, prose, text_table
from airtune.experiment import Experiment, Run
from airtune.quantities import format_duration, format_quantity

MOST_ROWS = 40
"""Clients that a table shows; JSON has them all."""


class TerminalListener:
    """Shows a run as it happens: the experiment calls its methods."""

    def __init__(self, console: Console, view: RoundsView) -> None:
        self._console, self._view = console, view

    def notice(self, sentence: str) -> None:
        """Something a user should know: rows dropped, a checkpoint passed over."""
        self._console.print(prose(sentence, page_width()), highlight=False, markup=False)

    def started(self, rounds_done: int, rounds: int, names: tuple[str, ...]) -> None:
        """Everything is loaded; rounds begin."""
        self._view.start(rounds_done, rounds, names)

    def round_done(self, record: dict[str, Any]) -> None:
        """One round is on disk."""
        self._view.round(record)


def _watch(action: Any, folder: Path, *, as_json: bool, quiet: bool) -> None:
    """Run `action(listener)` with a progress view, then print the summary."""
    silent = quiet or as_json
    # JSON goes to standard output alone, so that it can be piped.
    console = Console(file=sys.stderr) if as_json else Console(soft_wrap=True)
    console.quiet = silent
    try:
        with RoundsView(console) as view:
            run: Run = action(TerminalListener(console, view))
    except KeyboardInterrupt:
        if (folder / "checkpoints").is_dir():
            command = f"airtune resume {quote(str(folder))}"
            sys.stderr.write(f"\nInterrupted. Every finished round is kept: {command}\n")
        raise
    if as_json:
        shown = {**run.summary, "notices": run.notices}
        sys.stdout.write(json.dumps(shown, indent=2) + "\n")
    elif not quiet:
        print_summary(console, run.summary, str(folder))


def run_experiment(
    experiment: Experiment, folder: Path, *, as_json: bool = False, quiet: bool = False
) -> None:
    """`airtune run`."""
    _watch(lambda listener: experiment.run(folder, listener), folder, as_json=as_json, quiet=quiet)


def resume_run(folder: Path, *, as_json: bool = False, quiet: bool = False, **wish: Any) -> None:
    """`airtune resume`; `wish` as for `Experiment.resume`."""
    _watch(
        lambda listener: Experiment.resume(folder, listener=listener, **wish),
        folder,
        as_json=as_json,
        quiet=quiet,
    )


def dry_run(experiment: Experiment, *, as_json: bool = False) -> None:
    """`airtune run --dry-run`: everything but the training."""
    began = time.perf_counter()
    preview = experiment.preview()
    preview["load_s"] = round(time.perf_counter() - began, 1)
    if as_json:
        sys.stdout.write(json.dumps(preview, indent=2) + "\n")
        return
    console = Console(soft_wrap=True)
    for sentence in preview["notices"]:
        console.print(prose(sentence, page_width()), highlight=False, markup=False)
    width = page_width()
    sys.stdout.write(f"First round as planned\n{_client_table(preview['clients'], width)}\n\n")
    sys.stdout.write(facts(_facts(preview), width) + "\n")


def _client_table(clients: list[dict[str, Any]], width: int | None) -> str:
    headings = ("client", "distance", "rows", "memory", "bandwidth", "rate", "compute", "upload")
    rows = []
    for entry in clients[:MOST_ROWS]:
        distance = entry["distance_m"]
        row = (
            f"{entry['client']} {entry['device']}",
            "-" if distance is None else f"{distance:.0f} m",
            str(entry["rows"]),
            format_quantity(entry["memory_bytes"], "B"),
            format_quantity(entry["bandwidth_hz"], "Hz"),
            format_quantity(entry["rate_bps"], "bit/s"),
            format_duration(entry["compute_s"]),
            format_duration(entry["upload_s"]),
        )
        rows.append(row)
    more = len(clients) - MOST_ROWS
    rest = f"\n... and {more} more clients (all of them: --json)" if more > 0 else ""
    return text_table(headings, rows, width=width) + rest


def _facts(preview: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("model", f"{preview['model']} ({_parameters(preview['parameters'])})"),
        ("trained", f"{preview['adapter_parameters']:,} parameters"),
        ("sent", f"{format_quantity(preview['uplink_bits'] / 8, 'B')} a client and round"),
        ("data", f"{preview['train_rows']} training and {preview['test_rows']} test rows"),
        ("planned latency", f"{format_duration(preview['latency_s'])} a round: "
                            f"{preview['message']}"),
        ("expected virtual time", f"about {format_duration(preview['virtual_time_s'])} for "
                                  f"{preview['rounds']} rounds like this one"),
        ("expected real time", f"about {format_duration(preview['real_s'])} on this machine"),
    ]  # fmt: skip
    if preview["charge_as"]:
        size = _parameters(preview["charged_parameters"])
        size += f", {preview['charged_adapter_parameters']:,} trained"
        text = f"{preview['charge_as']} ({size}): time, bits, energy and memory"
        facts.insert(0, ("charged as", text))
    return facts


def _parameters(count: int) -> str:
    return f"{format_quantity(count, '').strip()} parameters"
