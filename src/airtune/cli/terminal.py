"""Output in the terminal: live progress of a run, and its closing summary."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from airtune.cli.text_table import facts, page_width, prose
from airtune.quantities import format_duration
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

    def round(self, record: Mapping[str, Any]) -> None:
        """One finished round."""
        train = "-" if record["train_loss"] is None else f"{record['train_loss']:.4f}"
        outcomes = [entry["outcome"] for entry in record["clients"]]
        missing = [
            f"{outcomes.count(kind)} {word}"
            for kind, word in (("late", "late"), ("silent", "silent"))
            if kind in outcomes
        ]
        if record["skipped"]:
            missing.append(f"{len(record['skipped'])} out of reach")
        note = f"; {', '.join(missing)}" if missing else ""
        self._console.print(
            f"{record['round']:>5}  {format_duration(record['virtual_time_s']):>12}  "
            f"{format_duration(record['latency_s']):>9}  {train:>6}  {record['test_loss']:.4f}  "
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
