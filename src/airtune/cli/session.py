"""Runs as a person at a terminal meets them: progress, a summary, a hint when interrupted."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from airtune.cli.terminal import RoundsView, print_summary
from airtune.experiment import Experiment, Run
from airtune.quantities import format_duration, format_quantity

MOST_ROWS = 40
"""Clients that a table shows; JSON has them all."""


class TerminalListener:
    """Shows a run as it happens; the experiment tells it what happens."""

    def __init__(self, console: Console, view: RoundsView) -> None:
        self._console, self._view = console, view

    def notice(self, sentence: str) -> None:
        """Something a user should know: rows dropped, a checkpoint passed over."""
        self._console.print(sentence, highlight=False)

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
            sys.stderr.write(
                f"\nInterrupted. Every finished round is kept: airtune resume {folder}\n"
            )
        raise
    if as_json:
        sys.stdout.write(json.dumps(run.summary, indent=2) + "\n")
    elif not quiet:
        print_summary(console, run.summary, str(folder))


def run_experiment(
    experiment: Experiment, folder: Path, *, as_json: bool = False, quiet: bool = False
) -> None:
    """`airtune run`."""
    _watch(lambda listener: experiment.run(folder, listener), folder, as_json=as_json, quiet=quiet)


def resume_run(
    folder: Path,
    more_rounds: int,
    rounds: int | None = None,
    *,
    as_json: bool = False,
    quiet: bool = False,
) -> None:
    """`airtune resume`."""
    _watch(
        lambda listener: Experiment.resume(folder, more_rounds, listener, rounds=rounds),
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
        console.print(sentence, highlight=False)
    console.print(_client_table(preview["clients"]))
    for name, text in _facts(preview):
        console.print(f"{name:>22}  {text}", highlight=False)


def _client_table(clients: list[dict[str, Any]]) -> Table:
    table = Table(
        title="First round as planned", title_justify="left", box=None, padding=(0, 2, 0, 0)
    )
    table.add_column("client", justify="right")
    table.add_column("device", no_wrap=True)
    for heading in ("distance", "rows", "memory", "bandwidth", "rate", "compute", "upload"):
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in clients[:MOST_ROWS]:
        distance = entry["distance_m"]
        table.add_row(
            str(entry["client"]),
            entry["device"],
            "-" if distance is None else f"{distance:.0f} m",
            str(entry["rows"]),
            format_quantity(entry["memory_bytes"], "B"),
            format_quantity(entry["bandwidth_hz"], "Hz"),
            format_quantity(entry["rate_bps"], "bit/s"),
            format_duration(entry["compute_s"]),
            format_duration(entry["upload_s"]),
        )
    if len(clients) > MOST_ROWS:
        table.caption = f"... and {len(clients) - MOST_ROWS} more clients (all of them: --json)"
    return table


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
