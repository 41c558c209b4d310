"""A sweep at a terminal: one bar over all runs, then the table."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from airtune.cli.text import page_width, prose, text_table
from airtune.federated.records.record import RoundRecord
from airtune.jobs.job import RunResult
from airtune.quantities import format_duration
from airtune.sweeping.axes import short_keys, show
from airtune.sweeping.table import SweepResult, explained
from airtune.sweeping.words import headings, sweep_sentences, table_rows

MOST_POINTS = 100
"""That a dry run lists; JSON has them all."""


class SweepProgress:
    """A bar over all runs and, where nothing can move, a line a finished run."""

    def __init__(self, console: Console, runs: int) -> None:
        self._console = console
        self._heard: set[str] = set()
        self._running: dict[tuple[str, int], str] = {}
        self._progress = Progress(
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("runs"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[now]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task("", total=runs, now="")

    def __enter__(self) -> "SweepProgress":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def notice(self, name: str, seed: int, sentence: str) -> None:
        """Once, however many runs report it."""
        if sentence not in self._heard:
            self._heard.add(sentence)
            self._print(prose(sentence, page_width()))

    def run_started(self, name: str, seed: int, rounds_done: int, rounds: int) -> None:
        """A run begins or continues."""
        self._now(name, seed, f"{rounds_done}/{rounds}")

    def round_done(self, name: str, seed: int, record: RoundRecord) -> None:
        """One round of a run is on disk."""
        self._now(name, seed, f"round {record.round}, loss {record.test_loss:.3f}")

    def run_ended(self, result: RunResult) -> None:
        """A run is finished, was finished before, or did not finish."""
        self._running.pop((result.name, result.seed), None)
        if result.failure:
            words = f"{result.state}: {result.failure}"
        else:
            words = f"loss {result.records[-1].test_loss:.4f}" if result.records else "finished"
        self._progress.advance(self._task)
        self._progress.update(self._task, now=", ".join(self._running.values()))
        if result.failure or not self._console.is_terminal:
            self._print(prose(f"{result.name}, seed {result.seed}: {words}", page_width()))

    def _now(self, name: str, seed: int, words: str) -> None:
        self._running[name, seed] = f"{name.partition('-')[0]}: {words}"
        self._progress.update(self._task, now="; ".join(self._running.values()))

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def print_sweep(console: Console, result: SweepResult) -> None:
    """The table, what it means, why points have no result, and where everything is."""
    width = page_width()
    keys = len(result.keys)
    heads = headings(result)
    table = text_table(
        heads, table_rows(result), left=(*heads[:keys], heads[-1]), keys=keys, width=width
    )
    parts = ["", table, ""]
    parts += [prose(sentence, width) for sentence in sweep_sentences(result)]
    parts += [prose(sentence, width) for sentence in explained(result.rows)]
    parts.append(f"\nEverything is in {result.folder} (open report.html).")
    for text in parts:
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def print_points(preview: Mapping[str, Any]) -> None:
    """The points of a dry run, and how long all of them may take."""
    from typer import echo

    width, keys = page_width(), preview["keys"]
    entries = preview["points"]
    rows = [
        [*(show(entry.get(key)) if key in entry else "-" for key in keys), entry["state"]]
        for entry in entries[:MOST_POINTS]
    ]
    heads = [*short_keys(keys), "state"]
    echo(text_table(heads, rows, left=heads, keys=len(keys), width=width))
    if len(entries) > MOST_POINTS:
        echo(f"... and {len(entries) - MOST_POINTS} more points (all of them: --json)")
    echo("")
    for entry in entries:
        if entry.get("sentence"):
            words = ", ".join(f"{key}={show(entry[key])}" for key in keys if key in entry)
            echo(prose(f"{words}: {entry['sentence']}", width))
    echo(prose(_expected(preview), width))


def _expected(preview: Mapping[str, Any]) -> str:
    runs, left, real_s = preview["runs"], preview["left"], preview["real_s"]
    told = f"{runs} runs, {left} of them still to be made."
    if real_s is None:
        return told
    return (
        f"{told} They take about {format_duration(real_s)} on this machine, {preview['jobs']} at "
        "a time, from the pace of the first of them and the steps of the others."
    )
