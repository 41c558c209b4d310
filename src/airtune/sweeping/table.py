"""The table of a sweep: a row a point and seed, and the files that hold it."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from airtune import __version__
from airtune.allocation.solve import Status
from airtune.files import write_json_atomic, write_text_atomic
from airtune.jobs.job import FAILED, FINISHED, INFEASIBLE
from airtune.sweeping.axes import show

DONE = (FINISHED, str(Status.OPTIMAL), str(Status.FEASIBLE))
"""States of a row with numbers: of a run, or of a plan."""
MOST_PLACES = 3
"""Points that a sentence names; the table has them all."""
JSON, CSV = "sweep.json", "sweep.csv"


@dataclass(frozen=True)
class Metric:
    """A number of a row: what it is called, and its unit (`s`, `B`, `J`, `nat`; "": none)."""

    key: str
    label: str
    unit: str


@dataclass(frozen=True)
class Row:
    """One point with one seed.

    Attributes:
        point: its number, counted from 1. values: its swept keys. seed: None for a plan.
        state: `finished`, `diverged`, `infeasible`, `refused` or `failed`.
        metrics: numbers of a finished run or a solved plan; empty for any other.
        sentence: why it did not finish, or what the planner says of its plan.
        folder: its run folder, below that of the sweep; None for a plan or a refused point.
    """

    point: int
    values: Mapping[str, Any]
    seed: int | None
    state: str
    metrics: Mapping[str, float | str | None]
    sentence: str | None = None
    folder: str | None = None

    @property
    def plain(self) -> dict[str, Any]:
        """The row as `sweep.json` has it."""
        return {
            "point": self.point,
            **self.values,
            "seed": self.seed,
            "state": self.state,
            **self.metrics,
            "sentence": self.sentence,
            "folder": self.folder,
        }


@dataclass(frozen=True)
class SweepResult:
    """A finished sweep: its folder, its swept keys, and a row a point and seed."""

    folder: Path
    kind: str
    keys: Sequence[str]
    rows: Sequence[Row]
    shared: Mapping[str, Any]
    """What all rows have alike: model, data, method or solver."""

    @property
    def plain(self) -> dict[str, Any]:
        """What `sweep.json` has; the same however often the sweep was interrupted."""
        return {
            "airtune": __version__,
            "kind": self.kind,
            **self.shared,
            "keys": list(self.keys),
            "rows": [row.plain for row in self.rows],
        }

    @property
    def failed(self) -> list[Row]:
        """Rows that are neither a result nor an answer: something went wrong."""
        return [row for row in self.rows if row.state == FAILED]

    @property
    def all_infeasible(self) -> bool:
        """Whether no point has a plan."""
        return all(row.state == INFEASIBLE for row in self.rows)

    def to_frame(self) -> Any:
        """A pandas DataFrame, a row a point and seed."""
        import pandas

        return pandas.DataFrame([row.plain for row in self.rows])

    def _repr_html_(self) -> str:
        return str(self.to_frame()._repr_html_())

    def write(self) -> None:
        """Write `sweep.json` and `sweep.csv`."""
        write_json_atomic(self.folder / JSON, self.plain)
        write_text_atomic(self.folder / CSV, sweep_csv(self))


def sweep_csv(result: SweepResult) -> str:
    """Every row with every metric that any of them has; an absent number is empty."""
    metrics = dict.fromkeys(key for row in result.rows for key in row.metrics)
    names = ["point", *result.keys, "seed", "state", *metrics, "sentence", "folder"]
    columns = list(dict.fromkeys(names))
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for row in result.rows:
        plain = row.plain
        writer.writerow([_cell(plain.get(column)) for column in columns])
    return stream.getvalue()


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else "" if value is None else value


@dataclass(frozen=True)
class PointMean:
    """A point over its seeds: how many finished, and the metrics of those."""

    values: Mapping[str, Any]
    finished: int
    state: str
    metrics: Mapping[str, Sequence[float]]

    def mean(self, key: str) -> float | None:
        """The mean over the seeds; None without any."""
        found = self.metrics.get(key, ())
        return sum(found) / len(found) if found else None


def means(rows: Sequence[Row]) -> list[PointMean]:
    """The points in order."""
    made = []
    for number in dict.fromkeys(row.point for row in rows):
        own = [row for row in rows if row.point == number]
        done = [row for row in own if row.state in DONE]
        states = list(dict.fromkeys(row.state for row in own))
        metrics: dict[str, list[float]] = {}
        for row in done:
            for key, value in row.metrics.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    metrics.setdefault(key, []).append(float(value))
        state = ", ".join(states) if len(states) > 1 else states[0]
        made.append(PointMean(own[0].values, len(done), state, metrics))
    return made


def explained(rows: Sequence[Row]) -> list[str]:
    """Why points have no result, each reason once with the points that it holds for."""
    places: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.state not in DONE and row.sentence:
            values = ", ".join(f"{key}={show(value)}" for key, value in row.values.items())
            seed = "" if row.seed is None else f", seed {row.seed}"
            places.setdefault((row.state, row.sentence), []).append(f"{values}{seed}")
    return [f"{_first(found)}: {state}: {sentence}" for (state, sentence), found in places.items()]


def _first(places: Sequence[str]) -> str:
    more = len(places) - MOST_PLACES
    return "; ".join(places[:MOST_PLACES]) + (f"; and {more} more" if more > 0 else "")
