"""A comparison, finished or begun, or several runs, as their page shows them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airtune.comparison.table import HEADINGS, comparison_sentences, table_rows
from airtune.config.experiment import ExperimentConfig
from airtune.experiment.reopened import places
from airtune.experiment.run import Run
from airtune.experiment.shards import deal_devices
from airtune.experiment.world import client_names
from airtune.jobs.job import RunResult
from airtune.report.comparison_page import ArmView, ComparisonView
from airtune.report.sentences import charged_as
from airtune.report.sources import ArmSource, RunSource, Source
from airtune.report.targets import ABOUT, target_tables
from airtune.report.totals import ABOUT_TOTALS, TOTAL_HEADINGS, total_rows


def comparison_view(
    config: ExperimentConfig,
    results: Sequence[RunResult],
    numbers: Mapping[str, Any],
    out: Path,
) -> ComparisonView:
    """The comparison as its page, in the folder `out`, shows it; the cell is that of `config`."""
    arms = [
        ArmView(
            name,
            [
                (result.summary["start_test_loss"], result.records)
                for result in results
                if result.name == name and result.summary is not None
            ],
            [
                (result.seed, _page_of(result.folder, out))
                for result in results
                if result.name == name and result.summary is not None
            ],
        )
        for name in (measured["arm"] for measured in numbers["arms"])
    ]
    rows = table_rows(numbers)
    return ComparisonView(
        title=f"airtune: {len(arms)} arms on {numbers['model']}, {numbers['data']}",
        note=charged_as(numbers["charge_as"], numbers["model"]),
        headings=HEADINGS,
        rows=rows,
        about_rows="From rounds to the right: what it took to reach the target loss. In brackets, "
        f"the ratio to {rows[0][0]}; ±, one standard deviation over the seeds.",
        arms=arms,
        targets=target_tables(numbers),
        about_targets=ABOUT,
        measured=numbers,
        **_cell(config, comparison_sentences(numbers)),
    )


def _page_of(folder: Path, out: Path) -> str:
    """The run's page, as a page in `out` links to it."""
    return Path(os.path.relpath(folder / "report.html", out)).as_posix()


def _cell(config: ExperimentConfig, told: Sequence[str]) -> dict[str, Any]:
    """The cell, and the sentences `told` of the arms with what is missing of it."""
    position_m, missing = places(config)
    return {
        "sentences": [*told, *missing],
        "names": client_names(deal_devices(config)),
        "position_m": position_m,
        "radius_m": config.cell.radius_m if config.cell.is_drawn else None,
    }


def source_view(source: Source, out: Path) -> ComparisonView:
    """What was read from folders, for a page in the folder `out`."""
    config = Run.open(source.runs[0].folder).config
    if source.comparison is not None:
        results = [
            RunResult(
                arm.name, run.seed, run.folder, {"start_test_loss": run.start_loss}, run.records
            )
            for arm in source.arms
            for run in arm.runs
        ]
        return comparison_view(config, results, source.comparison, out)
    first = source.runs[0]
    return ComparisonView(
        title=f"airtune: {len(source.runs)} runs on {_models(source.runs)}",
        note=charged_as(first.charge_as, first.model),
        headings=TOTAL_HEADINGS,
        rows=total_rows(source.arms),
        about_rows=ABOUT_TOTALS,
        arms=[_arm_view(arm, out) for arm in source.arms],
        measured=None,
        **_cell(config, source.notes),
    )


def _models(runs: Sequence[RunSource]) -> str:
    return ", ".join(dict.fromkeys(run.model for run in runs))


def _arm_view(arm: ArmSource, out: Path) -> ArmView:
    there = [run for run in arm.runs if (run.folder / "report.html").is_file()]
    return ArmView(arm.name, arm.curves, [(run.seed, _page_of(run.folder, out)) for run in there])
