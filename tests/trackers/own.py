"""Trackers as a user would write them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from airtune.trackers.tracker import Outcome, TrackedRun, Tracker


@dataclass
class Kept(Tracker):
    """Keeps every call as a line of `kept.jsonl`, in the run folder."""

    api_key: str = ""
    path: Path = field(default_factory=Path)

    def _keep(self, *call: object) -> None:
        with self.path.open("a") as stream:
            stream.write(json.dumps(call, default=str) + "\n")

    def begin(self, run: TrackedRun) -> str:
        """Whether it goes on, and what it was given."""
        self.path = run.folder / "kept.jsonl"
        self._keep("begin", run.id, run.rounds_done, run.name, dict(run.experiment))
        return run.id or "id-1"

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """One round."""
        self._keep("log", step, dict(numbers))

    def end(self, outcome: Outcome, note: Mapping[str, str]) -> None:
        """The end."""
        self._keep("end", outcome, dict(note))


@dataclass
class Failing(Kept):
    """Fails in one of its methods, in a round if that is `log`."""

    method: str = "log"
    step: int = 2

    def begin(self, run: TrackedRun) -> str:
        """May fail."""
        if self.method == "begin":
            raise ConnectionError("no route to host")
        return super().begin(run)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """May fail."""
        if self.method == "log" and step == self.step:
            raise SystemExit(3)
        super().log(step, numbers)

    def end(self, outcome: Outcome, note: Mapping[str, str]) -> None:
        """May fail."""
        if self.method == "end":
            raise OSError(28, "No space left on device")
        super().end(outcome, note)


class NoTracker:
    """Has the methods, and is none."""
