"""MLflow: a run of the experiment `airtune`, at `MLFLOW_TRACKING_URI` or in the folder `mlruns`.

The address comes from the environment alone: a run folder is data, and must not say where a token
is sent.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from airtune.trackers.options import MlflowOptions
from airtune.trackers.tracker import Outcome, TrackedRun, Tracker

DEFAULTS = {
    # The file store is closed to new users unless this is said.
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Without these a server that is away holds a round up for a quarter of an hour.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}
"""Of the environment, where it does not say otherwise."""
MOST_METRICS, MOST_PARAMETERS, LONGEST = 1000, 100, 500
"""Of one request, and characters of a value."""
T = TypeVar("T")
_END = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class Mlflow(Tracker):
    """Parameters are the experiment's keys, metrics have the round as step."""

    def __init__(self, options: MlflowOptions) -> None:
        self._options = options
        self._client: Any = None
        self._id = ""
        self._there: set[int] = set()

    def begin(self, run: TrackedRun) -> str:
        """A new run, or the one that has this id."""
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or "mlruns")
        if run.id is None:
            self._id = self._created(run)
            return self._id
        self._id = run.id
        self._client.update_run(self._id, status="RUNNING")
        history = self._client.get_metric_history(self._id, "round/test_loss")
        self._there = {metric.step for metric in history}
        self._tell_changes(run.experiment)
        return self._id

    def _created(self, run: TrackedRun) -> str:
        from mlflow.entities import Param

        found = self._client.get_experiment_by_name(self._options.experiment)
        place = found.experiment_id if found else None
        if place is None:
            place = self._client.create_experiment(self._options.experiment)
        made = self._client.create_run(place, run_name=run.name, tags={"method": run.method})
        parameters = [Param(_name(k), _short(value)) for k, value in run.experiment.items()]
        for part in _parts(parameters, MOST_PARAMETERS):
            self._client.log_batch(made.info.run_id, params=part)
        return str(made.info.run_id)

    def _tell_changes(self, experiment: Mapping[str, Any]) -> None:
        """Parameters of a run stay as they are; a key that changed later is a tag."""
        before = self._client.get_run(self._id).data.params
        for key, value in experiment.items():
            if before.get(_name(key), _short(value)) != _short(value):
                self._client.set_tag(self._id, f"changed.{_name(key)}", _short(value))

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """A round that the run has already is left out."""
        from mlflow.entities import Metric

        if step in self._there:
            return
        now_ms = time.time_ns() // 1_000_000
        # The loss comes last: where it is, the whole round is.
        names = sorted(numbers, key=lambda name: name == "round/test_loss")
        metrics = [Metric(_name(name), numbers[name], now_ms, step) for name in names]
        for part in _parts(metrics, MOST_METRICS):
            self._client.log_batch(self._id, metrics=part)

    def end(self, outcome: Outcome, note: Mapping[str, str]) -> None:
        """The note as tags, and the run's status."""
        for name, text in note.items():
            self._client.set_tag(self._id, name, text)
        self._client.set_terminated(self._id, _END[outcome])


def _parts(entries: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    return (entries[start : start + most] for start in range(0, len(entries), most))


def _name(key: str) -> str:
    """A name of MLflow's: letters, digits and `_-. /`; a user's method may have others."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-. /") else "_" for c in key)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
