"""What a run tells while it goes on: the seam of the command line and of a user's own program."""

from typing import Any, Protocol

from airtune.errors import InputError, redacted
from airtune.federated.records.record import RoundRecord


class Listener(Protocol):
    """Events of a run; the command line shows them. A listener may leave methods out."""

    def notice(self, sentence: str) -> None: ...
    def started(self, rounds_done: int, rounds: int, names: tuple[str, ...]) -> None: ...
    def round_done(self, record: RoundRecord) -> None: ...


class Silent:
    """No-op listener."""

    def notice(self, sentence: str) -> None: ...
    def started(self, rounds_done: int, rounds: int, names: tuple[str, ...]) -> None: ...
    def round_done(self, record: RoundRecord) -> None: ...


class Listening:
    """A listener with the methods that it has; the others do nothing."""

    def __init__(self, listener: Any) -> None:
        names = ("notice", "started", "round_done")
        if listener is not None and not any(hasattr(listener, name) for name in names):
            raise InputError(
                "listener", listener, f"an object with at least one of {', '.join(names)}"
            )
        silent = Silent()
        self.told: list[str] = []
        self._notice = getattr(listener, "notice", silent.notice)
        self.started = getattr(listener, "started", silent.started)
        self.round_done = getattr(listener, "round_done", silent.round_done)

    def notice(self, sentence: str) -> None:
        """Pass a sentence on, and keep it for the record."""
        sentence = redacted(sentence)
        self.told.append(sentence)
        self._notice(sentence)
