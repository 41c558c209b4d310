"""Rounds sent to trackers as they end; a tracker that fails is left behind, the run goes on.

`RUN/trackers.json` holds under which id a tracker goes on, and how many rounds it has. A tracker
that begins later, or begins again after a failure, is first sent the rounds that it lacks.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypedDict, final

from airtune.errors import AirtuneError, foreign_code, redacted
from airtune.federated.records.record import RoundRecord
from airtune.federated.records.run_folder import RunFolder
from airtune.files import write_json_atomic
from airtune.trackers.numbers import MOST_CLIENTS, numbers_of
from airtune.trackers.tracker import Outcome, TrackedRun, Tracker

FILE = "trackers.json"
Notice = Callable[[str], None]


class Known(TypedDict):
    """What the run folder remembers of a tracker."""

    id: str
    rounds: int


@final
class Reporting:
    """Sends one session of a run to its trackers; `with` ends them however the session ends.

    `experiment` has the keys as they may be written; `clients` is the number registered.
    """

    def __init__(
        self,
        trackers: Mapping[str, Tracker],
        folder: RunFolder,
        experiment: Mapping[str, Any],
        clients: int,
        notice: Notice,
    ) -> None:
        self._trackers = dict(trackers)
        self._folder, self._notice = folder, notice
        self._experiment = {key: _safe(value) for key, value in experiment.items()}
        self._each_client = clients <= MOST_CLIENTS
        self._known: dict[str, Known] = _read(folder.path / FILE) if trackers else {}

    def started(self, rounds_done: int) -> None:
        """Open every tracker, and send it the rounds that it lacks."""
        if not self._trackers:
            return
        if not self._each_client:
            self._notice(
                f"With more than {MOST_CLIENTS} clients trackers get the least, mean and greatest "
                "value over the clients of a round, not each client's."
            )
        records = self._folder.read_records() if rounds_done else []
        for name in list(self._trackers):
            self._safely(name, "before the first round", partial(self._begin, name, rounds_done))
            for record in records[self._rounds_of(name) : rounds_done]:
                self._send(name, record)

    def round_done(self, record: RoundRecord) -> None:
        """Send one round, which is on disk already."""
        for name in list(self._trackers):
            self._send(name, record)

    def __enter__(self) -> "Reporting":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        outcome: Outcome = "finished" if kind is None else "failed"
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            outcome = "interrupted"
        places = (self._folder.adapter, self._folder.model)
        note = {place.name: str(place.resolve()) for place in places if place.is_dir()}
        for name, tracker in list(self._trackers.items()):
            self._safely(name, "at the end", partial(tracker.end, outcome, note))

    def _begin(self, name: str, rounds_done: int) -> None:
        known = self._known.get(name)
        done = min(known["rounds"], rounds_done) if known else 0
        run = TrackedRun(
            self._folder.path,
            "/".join(self._folder.path.resolve().parts[-2:]),
            str(self._experiment["method"]),
            self._experiment,
            known["id"] if known else None,
            done,
        )
        self._remember(name, self._trackers[name].begin(run), done)

    def _send(self, name: str, record: RoundRecord) -> None:
        def send() -> None:
            numbers = numbers_of(record, each_client=self._each_client)
            self._trackers[name].log(record.round, numbers)
            self._remember(name, self._known[name]["id"], record.round)

        if name in self._trackers:
            self._safely(name, f"in round {record.round}", send)

    def _remember(self, name: str, run_id: str, rounds: int) -> None:
        self._known[name] = {"id": run_id, "rounds": rounds}
        write_json_atomic(self._folder.path / FILE, self._known)

    def _rounds_of(self, name: str) -> int:
        return self._known[name]["rounds"] if name in self._known else 0

    def _safely(self, name: str, when: str, action: Callable[[], object]) -> None:
        """Do it; a tracker that fails is reported once and not used again in this session."""
        if name not in self._trackers:
            return
        try:
            with foreign_code(f"The tracker {name}, {when},"):
                action()
        except AirtuneError as error:
            del self._trackers[name]
            said = str(error)
            if not said.startswith(f"The tracker {name}"):
                said = f"The tracker {name}, {when}, failed: {said}"
            self._notice(
                f"{said.rstrip('.')}. The run goes on without it; every round is in rounds.jsonl, "
                "and `airtune resume` sends it what it lacks."
            )


def _safe(value: Any) -> Any:
    return redacted(value) if isinstance(value, str) else value


def _read(path: Path) -> dict[str, Known]:
    """What is remembered; nothing where the file is lost or damaged, and a tracker begins anew."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(name): {"id": str(known["id"]), "rounds": int(known["rounds"])}
            for name, known in found.items()
        }
    return {}
