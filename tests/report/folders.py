"""Folders of runs and comparisons, written without training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from airtune.comparison.measure import measure_arms
from airtune.comparison.results import curves_csv
from airtune.config.text import resolved_yaml
from airtune.experiment.reading import default_experiment
from airtune.federated.records.record import RoundRecord
from airtune.federated.records.run_folder import RunFolder
from airtune.files import write_json_atomic
from airtune.jobs.job import RunResult
from airtune.report.sources import arm_folder
from airtune.report.waiting import ending
from tests.report.views import DEVICES, records


def write_run(
    folder: Path, made: Sequence[RoundRecord], asked: int | None = None, **keys: Any
) -> RunFolder:
    """A run of these rounds, finished unless more were `asked` for; `keys` of the experiment."""
    folder.mkdir(parents=True, exist_ok=True)
    rounds = asked or len(made)
    config = default_experiment().model_copy(update={"rounds": rounds, **keys})
    (folder / "experiment.yaml").write_text(resolved_yaml(config), "utf-8")
    place = RunFolder(folder)
    for record in made:
        place.append_record(record)
        place.append_timing({"round": record.round, "real_s": 0.5, "stages": {"tune": 0.4}})
    if rounds == len(made):
        write_json_atomic(folder / "summary.json", summary(made, config.method, config.model))
    return place


def summary(made: Sequence[RoundRecord], method: str, model: str) -> dict[str, Any]:
    """The closing summary of such a run."""
    clients = max((entry.client for record in made for entry in record.clients), default=0) + 1
    return {
        "model": model,
        "method": method,
        "charge_as": None,
        "rounds": len(made),
        "stopped": None,
        "start_test_loss": 3.0,
        "final_test_loss": made[-1].test_loss,
        "scores": {},
        "virtual_time_s": made[-1].virtual_time_s,
        "energy_j": sum(record.energy_j for record in made),
        "uplink_bits": sum(record.uplink_bits for record in made),
        "downlink_bits": sum(record.downlink_bits for record in made),
        **ending(made, [DEVICES[k % 2] for k in range(clients)]),
        "sample": None,
    }


def scaled(made: Sequence[RoundRecord], factor: float) -> list[RoundRecord]:
    """The rounds with other losses."""
    return [replace(record, test_loss=record.test_loss * factor) for record in made]


ARMS: Mapping[str, Sequence[tuple[int, float]]] = {
    "fast & small_1": [(0, 1.0), (1, 1.1)],
    "größer 100%": [(0, 0.8), (1, 0.9)],
    "late": [(0, 4.0), (1, 4.0)],
}
"""Arms with special characters; the last one does not reach the target."""


def write_comparison(
    out: Path, arms: Mapping[str, Sequence[tuple[int, float]]] = ARMS, rounds: int = 5
) -> dict[str, Any]:
    """A finished comparison: per arm (seed, factor of the losses); a factor of 0 is a failure."""
    results = []
    for name, runs in arms.items():
        for seed, factor in runs:
            folder = out / arm_folder(name) / f"seed-{seed}"
            if not factor:
                results.append(RunResult(name, seed, folder, failure="no signal."))
                continue
            made = scaled(records(rounds, 4, seed=seed), factor)
            write_run(folder, made, seed=seed)
            found = summary(made, "fedlora", "builtin")
            results.append(RunResult(name, seed, folder, found, made))
    numbers = {
        "airtune": "0",
        "model": "builtin",
        "data": "builtin",
        "charge_as": None,
        "clients": 4,
        "target_loss": 1.0,
        "target_source": "given",
        "arms": [{**arm, "method": "fedlora"} for arm in measure_arms(results, 1.0)],
        "notices": [],
    }
    write_json_atomic(out / "comparison.json", numbers)
    (out / "curves.csv").write_text(curves_csv(results), "utf-8")
    return numbers
