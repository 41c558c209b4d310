"""A comparison at a terminal: one progress bar per arm, then the table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from airtune.cli.text import page_width, prose, text_table
from airtune.comparison.definition import Comparison
from airtune.comparison.table import HEADINGS, comparison_sentences, table_rows
from airtune.federated.records.record import RoundRecord
from airtune.jobs.job import RunResult
from airtune.quantities import format_duration, format_quantity
from airtune.report.sentences import charged_as
from airtune.report.targets import ABOUT, target_tables


class ComparisonProgress:
    """A bar an arm over all its seeds and, where nothing can move, a line a finished run."""

    def __init__(self, console: Console, asked: Comparison) -> None:
        self._console = console
        self._heard: set[str] = set()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f} rounds"),
            TextColumn("{task.fields[now]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks, self._done = {}, {arm.name: 0 for arm in asked.arms}
        for arm in asked.arms:
            total = sum(config.rounds for config in arm.configs.values())
            self._tasks[arm.name] = self._progress.add_task(
                arm.name, total=total, now="", start=False
            )

    def __enter__(self) -> "ComparisonProgress":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def notice(self, arm: str, seed: int, sentence: str) -> None:
        """Once, however many runs report it."""
        if sentence not in self._heard:
            self._heard.add(sentence)
            self._console.print(sentence, highlight=False)

    def run_started(self, arm: str, seed: int, rounds_done: int, rounds: int) -> None:
        """A run begins or continues."""
        task = self._tasks[arm]
        self._progress.start_task(task)
        self._progress.update(task, completed=self._done[arm] + rounds_done, now=f"seed {seed}")

    def round_done(self, arm: str, seed: int, record: RoundRecord) -> None:
        """One round of a run is on disk."""
        self._progress.update(
            self._tasks[arm],
            completed=self._done[arm] + record.round,
            now=f"seed {seed}, loss {record.test_loss:.4f} after "
            f"{format_duration(record.virtual_time_s)}",
        )

    def run_ended(self, result: RunResult) -> None:
        """A run is finished, was finished before, or failed."""
        self._done[result.name] += len(result.records)
        if result.failure:
            words = f"failed: {result.failure}"
        else:
            last = result.records[-1]
            words = (
                f"{last.round} rounds, loss {last.test_loss:.4f}, "
                f"{format_duration(last.virtual_time_s)}"
            )
        self._progress.update(
            self._tasks[result.name],
            completed=self._done[result.name],
            now=f"seed {result.seed}: {words}",
        )
        if result.failure or not self._console.is_terminal:
            self._console.print(f"{result.name}, seed {result.seed}: {words}", highlight=False)


def print_result(console: Console, numbers: Mapping[str, Any], folder: Path) -> None:
    """The table, what it means, and where everything is."""
    console.print("\nTo the target loss; in brackets, the ratio to the first arm", highlight=False)
    _print(console, text_table(HEADINGS, table_rows(numbers), width=page_width()))
    console.print()
    _print_targets(console, numbers)
    sentences = comparison_sentences(numbers)
    if numbers["charge_as"]:
        sentences.append(charged_as(numbers["charge_as"], numbers["model"]))
    for sentence in sentences:
        _print(console, prose(sentence, page_width()))
    console.print(f"\nEverything is in {folder} (open report.html).", highlight=False)


def _print_targets(console: Console, numbers: Mapping[str, Any]) -> None:
    """The costs to each of several targets."""
    tables = target_tables(numbers)
    for table in tables:
        console.print(table.title, highlight=False)
        _print(console, text_table(table.headings, table.rows, width=page_width()) + "\n")
    if tables:
        _print(console, prose(ABOUT, page_width()) + "\n")


def _print(console: Console, text: str) -> None:
    """Text as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def print_previews(console: Console, previews: Sequence[Mapping[str, Any]]) -> None:
    """The first round of every arm as planned, and how long all of it may take here."""
    headings = ("arm", "seeds", "rounds", "latency", "sent up", "virtual time", "real time")
    rows = [
        (
            entry["arm"],
            str(entry["seeds"]),
            str(entry["rounds"]),
            format_duration(entry["latency_s"]),
            format_quantity(entry["uplink_bits"] / 8, "B"),
            "-" if entry["virtual_time_s"] is None else format_duration(entry["virtual_time_s"]),
            format_duration(entry["real_s"] * entry["seeds"]),
        )
        for entry in previews
    ]
    console.print("First round of each arm, as planned", highlight=False)
    _print(console, text_table(headings, rows, width=page_width()))
    total = sum(entry["real_s"] * entry["seeds"] for entry in previews)
    console.print(
        f"\nAll runs together take about {format_duration(total)} on this machine.",
        highlight=False,
    )
