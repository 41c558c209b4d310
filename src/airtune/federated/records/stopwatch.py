"""Where the real seconds of a round go. They reach `timing.jsonl`, never a record."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

STAGES = ("plan", "tune", "encode", "aggregate", "evaluate", "write")
"""`encode` is all work on payloads, client and server, decoding included."""


@final
class Stopwatch:
    """Seconds by stage; a stage within another stops the outer one, so no second counts twice.

    `clients` has what was measured of clients on other machines in the newest round.
    """

    def __init__(self) -> None:
        self.clients: list[dict[str, Any]] = []
        self._seconds: dict[str, float] = {}
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the seconds of this block for `name`."""
        self._count()
        self._running.append(name)
        try:
            yield
        finally:
            self._count()
            self._running.pop()

    def share(self, stage: str, elsewhere: Mapping[str, float]) -> None:
        """Divide the seconds spent waiting in `stage` as others divided theirs meanwhile."""
        total = sum(elsewhere.values())
        if total > 0:
            waited = self._seconds.pop(stage, 0.0)
            for name, seconds in elsewhere.items():
                self._add(name, waited * seconds / total)

    def take(self) -> dict[str, float]:
        """The seconds so far, and start again from zero."""
        seconds, self._seconds = self._seconds, {}
        return seconds

    def _count(self) -> None:
        now = time.perf_counter()
        if self._running:
            self._add(self._running[-1], now - self._since)
        self._since = now

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds
