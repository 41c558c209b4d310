"""What a tracker is: a place outside the run folder that shows rounds as they end.

Subclass `Tracker` for one of your own, and name it as `report_to: package.module:Class`. Options
beside it, `{use: package.module:Class, option: value}`, are keyword arguments of the class.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["finished", "failed", "interrupted"]


@dataclass(frozen=True)
class TrackedRun:
    """The run as a tracker gets it.

    `folder` is the run folder and `name` its last two parts. `experiment` is every key by its
    dotted name with the value in force; what came from the environment is its template. `id` is
    what `begin` answered when the run began (None: it begins now), `rounds_done` the rounds that
    are not made again.
    """

    folder: Path
    name: str
    method: str
    experiment: Mapping[str, Any]
    id: str | None
    rounds_done: int


class Tracker:
    """Base of trackers. An exception of any method ends the tracking, never the run."""

    def check(self) -> None:
        """Called before anything is loaded. Raise InputError for what the user has to mend."""

    def begin(self, run: TrackedRun) -> str:
        """Open the run, or go on with `run.id`; the id under which it goes on."""
        raise NotImplementedError

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """The numbers of one round, by names such as `round/test_loss`; `step` is the round."""
        raise NotImplementedError

    def end(self, outcome: Outcome, note: Mapping[str, str]) -> None:
        """The session has ended. `note` says where the result is; empty without one."""
