"""A run's page from its folder alone: the rounds written so far, no model and no data loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airtune import part_folders
from airtune.config.experiment import ExperimentConfig
from airtune.config.text import resolved_yaml
from airtune.errors import AirtuneError
from airtune.experiment.closing import has_shannon_rates, limits, summary_of_records
from airtune.experiment.environment import Sessions
from airtune.experiment.run import Run
from airtune.experiment.shards import deal_devices
from airtune.experiment.world import client_names
from airtune.federated.records.checkpoint import read_start_loss
from airtune.report.sources import has_ended
from airtune.report.view import RunView
from airtune.wireless.channel import open_channel
from airtune.wireless.state import NO_CLIENTS


def places(config: ExperimentConfig) -> tuple[list[list[float]], list[str]]:
    """Position of every client before round 1 [m], and a sentence where it cannot be had."""
    try:
        channel = open_channel(config.cell, config.clients.count, config.seed)
        position_m = channel.observe(0, NO_CLIENTS).truth.position_m
    except AirtuneError as error:
        return [], [f"The cell is not drawn: {error}"]
    return [[float(x) for x in place[:2]] for place in position_m], []


def run_view(folder: Path) -> RunView:
    """The run as its page shows it, with the real seconds of its rounds.

    Raises AirtuneError for a folder that is none of a run, or damaged.
    """
    run = Run.open(folder)
    part_folders.of_run(folder, Sessions.read(folder).parts)
    config, records, devices = run.config, run.records, deal_devices(run.config)
    position_m, missing = places(config)
    summary = _summary(run, config, records)
    summary["notices"] = [*summary.get("notices", []), *missing]
    return RunView(
        summary=summary,
        records=records,
        names=client_names(devices),
        position_m=position_m,
        weights=None,
        limits=limits(config),
        experiment_yaml=resolved_yaml(config),
        shannon=has_shannon_rates(config),
        timings=run.folder.read_timings(),
    )


def _summary(run: Run, config: ExperimentConfig, records: Sequence[Any]) -> dict[str, Any]:
    """The closing summary, or that of the rounds so far."""
    path = run.folder.path / "summary.json"
    closed = dict(run.summary) if path.is_file() else {}
    if has_ended(closed, len(records), config.rounds):
        return closed
    start = closed.get("start_test_loss", read_start_loss(run.folder.checkpoints))
    told = summary_of_records(config, records, start, deal_devices(config))
    # The engine is told of in every session; no result depends on it.
    said = Sessions.read(run.folder.path).notices()
    notices = [sentence for sentence in said if not sentence.startswith("Engine: ")]
    return {**told, "rounds_asked": config.rounds, "notices": notices}
