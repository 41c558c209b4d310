"""Events of a run: for the command line, for notebooks, and for a program's own callbacks."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from airtune.errors import InputError, redacted
from airtune.federated.records.record import RoundRecord

EVENTS = ("notice", "started", "round_done")


class Listener(Protocol):
    """Events of a run. A listener may leave methods out; a plain function is `round_done`."""

    def notice(self, sentence: str) -> None:
        """Something that a reader of the result should know."""

    def started(self, rounds_done: int, rounds: int, names: tuple[str, ...]) -> None:
        """The first round is about to begin; `names` are those of the clients."""

    def round_done(self, record: RoundRecord) -> None:
        """A round is on disk."""


class Silent:
    """No-op listener."""

    def notice(self, sentence: str) -> None: ...
    def started(self, rounds_done: int, rounds: int, names: tuple[str, ...]) -> None: ...
    def round_done(self, record: RoundRecord) -> None: ...


class Listening:
    """Several listeners as one, each with the methods that it has; `told` keeps the notices.

    What a listener raises ends the run; the rounds that are done are on disk, and `resume` goes on.
    """

    def __init__(self, listeners: Any) -> None:
        self.told: list[str] = []
        self._of: dict[str, list[Callable[..., None]]] = {name: [] for name in EVENTS}
        for listener in _several(listeners):
            found = {name: getattr(listener, name) for name in EVENTS if hasattr(listener, name)}
            if not found and callable(listener):
                found = {"round_done": listener}
            if not found:
                allowed = f"a function of a round's record, or an object with {' or '.join(EVENTS)}"
                raise InputError("listener", listener, allowed)
            for name, method in found.items():
                self._of[name].append(method)

    def notice(self, sentence: str) -> None:
        """Pass a sentence on, and keep it for the record."""
        sentence = redacted(sentence)
        self.told.append(sentence)
        self._tell("notice", sentence)

    def started(self, rounds_done: int, rounds: int, names: tuple[str, ...]) -> None:
        self._tell("started", rounds_done, rounds, names)

    def round_done(self, record: RoundRecord) -> None:
        self._tell("round_done", record)

    def _tell(self, event: str, *arguments: Any) -> None:
        for method in self._of[event]:
            method(*arguments)


def _several(listeners: Any) -> Iterable[Any]:
    if listeners is None:
        return ()
    return listeners if isinstance(listeners, list | tuple) else (listeners,)
