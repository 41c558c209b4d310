"""`airtune.compare`: a comparison from Python, with what it found as typed values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast, final

from airtune.comparison.definition import Comparison, parse_methods, read_comparison
from airtune.comparison.results import write_results
from airtune.comparison.runs import run_comparison
from airtune.comparison.table import HEADINGS, comparison_sentences, table_rows
from airtune.experiment.run import Run
from airtune.jobs.job import RunResult, Unwatched, Watcher
from airtune.report.snippet import table_html


@final
@dataclass(frozen=True)
class Compared:
    """A finished comparison.

    `numbers` is what comparison.json holds: costs to the target and in all by arm and seed.
    """

    folder: Path
    comparison: Comparison
    results: Sequence[RunResult]
    numbers: Mapping[str, Any]

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms; ratios refer to the first."""
        return tuple(arm.name for arm in self.comparison.arms)

    @property
    def target_loss(self) -> float:
        """The test loss to reach [nat]."""
        return float(self.numbers["target_loss"])

    @property
    def sentences(self) -> list[str]:
        """The result in words, failures included."""
        return comparison_sentences(self.numbers)

    @property
    def notices(self) -> list[str]:
        """What a reader of the runs should know."""
        return list(self.numbers["notices"])

    @cached_property
    def failures(self) -> dict[tuple[str, int], str]:
        """(arm, seed) -> the reason why its run failed."""
        return {
            (result.name, result.seed): result.failure
            for result in self.results
            if result.failure is not None
        }

    def run(self, arm: str, seed: int) -> Run:
        """One run. Raises KeyError for an arm or a seed that was not compared."""
        folders = {(result.name, result.seed): result.folder for result in self.results}
        return Run.open(folders[arm, seed])

    def to_frame(self, rounds: bool = False) -> Any:
        """A pandas DataFrame: a row a run, as comparison.csv, or a row a round, as curves.csv."""
        import pandas

        return pandas.read_csv(self.folder / ("curves.csv" if rounds else "comparison.csv"))

    def _repr_html_(self) -> str:
        said = "".join(f"<p>{sentence}</p>" for sentence in self.sentences)
        return table_html(str(self.folder), HEADINGS, table_rows(self.numbers)) + said


def _watching(watcher: Any) -> Watcher:
    """A watcher with the methods that it has; the others do nothing."""
    full: Any = Unwatched()
    for name in ("run_started", "round_done", "run_ended", "notice"):
        if hasattr(watcher, name):
            setattr(full, name, getattr(watcher, name))
    return cast(Watcher, full)


def compare(
    experiment: Mapping[str, Any] | Path | str | None = None,
    methods: Sequence[str] | str = (),
    *,
    out: Path | str,
    seeds: int | None = None,
    target_loss: float | None = None,
    target_share: float | Sequence[float] | None = None,
    settings: Sequence[str] = (),
    jobs: int = 1,
    watcher: Any = None,
) -> Compared:
    """Run several methods on the same cell, devices, data and seeds.

    The same call again continues where it was interrupted; finished runs are kept.

    Args:
        experiment: the content of a comparison or experiment file, the path of one, or None for the
            built-in experiment.
        methods: arms of the file, method names, or `name:key=value+key=value`.
        out: the folder of the comparison.
        seeds: how many seeds an arm; None: the file's number, or 1.
        target_loss: the test loss to reach [nat]; None: the lowest that every run of the first arm
            reaches.
        target_share: in place of `target_loss`, the share of the first arm's descent to reach, or
            several: costs to each are then in `numbers["targets"]`.
        settings: `key=value` for every arm.
        jobs: runs at once, each in a process of its own.
        watcher: has some methods of `airtune.jobs.job.Watcher`.

    Returns:
        What was measured. A run that failed is in `failures`.

    Raises:
        InputError: for bad input, before anything runs.
        AirtuneError: where no run of the first arm finished.
    """
    names = parse_methods(methods) if isinstance(methods, str) else list(methods)
    asked = read_comparison(experiment, names, settings, seeds, target_loss, target_share)
    folder = Path(out)
    results = run_comparison(asked, folder, _watching(watcher), jobs)
    return Compared(folder, asked, results, write_results(asked, results, folder))
