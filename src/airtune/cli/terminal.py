"""A run at the terminal: live progress, summary, times by stage, a hint when interrupted."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from airtune.cli.text import facts, page_width, prose, text_table
from airtune.experiment import Experiment, Run
from airtune.federated.records.record import RoundRecord
from airtune.federated.records.run_folder import RunFolder
from airtune.federated.records.stopwatch import STAGES
from airtune.quantities import format_duration, format_quantity
from airtune.report.sentences import charged_as, summary_sentences
from airtune.report.waiting import waited_for


class RoundsView:
    """A line for every round and, on a terminal, a bar below that moves.

    Wrap the run in `with`; `start` once the number of rounds is known, `round` after each.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("rounds, real time left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("loading", total=None)

    def __enter__(self) -> "RoundsView":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def start(self, rounds_done: int, rounds: int, names: tuple[str, ...]) -> None:
        """The run begins or continues: print the table's head."""
        # The heading names them as clients.
        self._names = [name.removeprefix("client ") for name in names]
        self._progress.update(
            self._task, description="training", total=rounds, completed=rounds_done
        )
        self._console.print(
            f"{'round':>5}  {'virtual time':>12}  {'latency':>9}  {'train':>6}  {'test':>6}  "
            "waited for client",
            soft_wrap=True,
        )

    def round(self, record: RoundRecord) -> None:
        """One finished round."""
        train = "-" if record.train_loss is None else f"{record.train_loss:.4f}"
        outcomes = [entry.outcome for entry in record.clients]
        missing = [
            f"{outcomes.count(kind)} {word}"
            for kind, word in (("late", "late"), ("silent", "silent"))
            if kind in outcomes
        ]
        if record.skipped:
            missing.append(f"{len(record.skipped)} out of reach")
        note = f"; {', '.join(missing)}" if missing else ""
        self._console.print(
            f"{record.round:>5}  {format_duration(record.virtual_time_s):>12}  "
            f"{format_duration(record.latency_s):>9}  {train:>6}  {record.test_loss:.4f}  "
            f"{waited_for(record, self._names)}{note}",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
        self._progress.advance(self._task)


def print_summary(console: Console, summary: Mapping[str, Any], folder: str) -> None:
    """The closing words: what was learned, what it cost, and why the rounds took so long."""
    console.print()
    charged = charged_as(summary["charge_as"], summary["model"])
    for sentence in [*summary_sentences(summary), *([charged] if charged else [])]:
        console.print(prose(sentence, page_width()), highlight=False, markup=False, soft_wrap=True)
    _print_sample(console, summary["sample"])
    console.print(f"\nEverything is in {folder} (open report.html).", highlight=False)


def _print_sample(console: Console, sample: Mapping[str, str] | None) -> None:
    if sample is None:
        return
    texts = [
        (key, " ".join(sample[key].split()) or "(nothing)")
        for key in ("prompt", "before", "after", "reference")
    ]
    console.print("\nOne test prompt:")
    console.print(facts(texts, page_width()), highlight=False, markup=False, soft_wrap=True)


MOST_ROWS = 40
"""Clients that a table shows; JSON has them all."""


class TerminalListener:
    """Shows a run as it happens: the experiment calls its methods."""

    def __init__(self, console: Console, view: RoundsView) -> None:
        self._console, self._view = console, view

    def notice(self, sentence: str) -> None:
        """A notice for the user: rows dropped, a checkpoint passed over."""
        self._console.print(prose(sentence, page_width()), highlight=False, markup=False)

    def started(self, rounds_done: int, rounds: int, names: tuple[str, ...]) -> None:
        """Everything is loaded; rounds begin."""
        self._view.start(rounds_done, rounds, names)

    def round_done(self, record: RoundRecord) -> None:
        """One round is on disk."""
        self._view.round(record)


def watch_run(
    action: Any, folder: Path, *, as_json: bool, quiet: bool, goes_on: str = "airtune resume"
) -> None:
    """Run `action(listener)` with a progress view, then print the summary.

    `goes_on` is the command that continues an interrupted run.
    """
    silent = quiet or as_json
    # JSON goes to standard output alone, so that it can be piped.
    console = Console(file=sys.stderr) if as_json else Console(soft_wrap=True)
    console.quiet = silent
    try:
        with RoundsView(console) as view:
            run: Run = action(TerminalListener(console, view))
    except KeyboardInterrupt:
        if (folder / "checkpoints").is_dir():
            command = f"{goes_on} {quote(str(folder))}"
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
    watch_run(
        lambda listener: experiment.run(folder, listener), folder, as_json=as_json, quiet=quiet
    )


def resume_run(folder: Path, *, as_json: bool = False, quiet: bool = False, **wish: Any) -> None:
    """`airtune resume`; `wish` as for `Experiment.resume`."""
    watch_run(
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


def _rounds_alike(rounds: int) -> str:
    return "a round like this one" if rounds == 1 else f"{rounds} rounds like this one"


def _facts(preview: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("model", f"{preview['model']} ({_parameters(preview['parameters'])})"),
        ("trained", f"{preview['adapter_parameters']:,} parameters"),
        ("learning rate", _rate(preview)),
        ("sent", f"{format_quantity(preview['uplink_bits'] / 8, 'B')} a client and round"),
        ("data", f"{preview['train_rows']} training and {preview['test_rows']} test rows"),
        (
            "planned latency",
            f"{format_duration(preview['latency_s'])} a round: {preview['message']}",
        ),
        *_virtual_time(preview),
        ("expected real time", f"about {format_duration(preview['real_s'])} on this machine"),
    ]
    if preview["charge_as"]:
        size = _parameters(preview["charged_parameters"])
        size += f", {preview['charged_adapter_parameters']:,} trained"
        text = f"{preview['charge_as']} ({size}): time, bits, energy and memory"
        facts.insert(0, ("charged as", text))
    return facts


def _virtual_time(preview: dict[str, Any]) -> list[tuple[str, str]]:
    """Of rounds alike; nothing where steps are no rounds."""
    if preview["virtual_time_s"] is None:
        return []
    whole = format_duration(preview["virtual_time_s"])
    return [("expected virtual time", f"about {whole} for {_rounds_alike(preview['rounds'])}")]


def _rate(preview: dict[str, Any]) -> str:
    source = preview["learning_rate_source"]
    return f"{preview['learning_rate']:g}" + (f": {source}" if source else "")


def _parameters(count: int) -> str:
    return f"{format_quantity(count, '').strip()} parameters"


def stage_seconds(folder: Path) -> dict[str, float]:
    """Mean real seconds of a round by stage, from `timing.jsonl`; what no stage claims is `other`.

    The first round of several is left out, for it also starts worker processes.
    """
    rounds = RunFolder(folder).read_timings()
    rounds = rounds[1:] or rounds
    if not rounds:
        return {}
    stages = {name: fmean(entry["stages"].get(name, 0.0) for entry in rounds) for name in STAGES}
    whole = fmean(entry["real_s"] for entry in rounds)
    return {**stages, "other": max(0.0, whole - sum(stages.values()))}


def show_profile(folder: Path, *, to_stderr: bool = False) -> None:
    """Print a table, aside from output that is meant for a pipe."""
    seconds = stage_seconds(folder)
    whole = sum(seconds.values())
    rows = [
        (name, f"{spent:.3f}", f"{100 * spent / whole:.1f} %" if whole else "-")
        for name, spent in seconds.items()
    ]
    table = text_table(("stage", "seconds", "share"), rows, width=page_width())
    stream = sys.stderr if to_stderr else sys.stdout
    stream.write(f"Real seconds of a round: {whole:.3f}\n{table}\n")
