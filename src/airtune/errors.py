"""Exceptions of airtune: one clear sentence for the user, never a traceback."""

from collections.abc import Mapping
from copy import copy
from typing import Any

from airtune.redaction import redacted


class AirtuneError(Exception):
    """A problem that the user can act on; the command line prints it and exits with `exit_code`.

    `details` is the traceback of foreign code that the sentence stands for, as text, since a cause
    does not survive the way out of a worker process.
    """

    exit_code = 2
    details = ""

    def __init__(self, sentence: str = "") -> None:
        super().__init__(redacted(sentence))

    def within(self, place: str) -> "AirtuneError":
        """The same error, of the same kind, with the place in front: `arm jcpba: …`."""
        error = copy(self)
        error.args = (f"{place}: {self}",)
        return error

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors of worker processes are pickled on their way to the user."""
        return _remade, (type(self), self.args, self.__dict__)


class InputError(AirtuneError):
    """Bad input. Names the field, the value, what is allowed, and what to do.

    >>> str(InputError("cell.bandwidth_hz", -1.0, "a positive number", "give the band in hertz"))
    'cell.bandwidth_hz is -1.0, but it must be a positive number: give the band in hertz.'
    """

    def __init__(self, field: str, value: object, allowed: str, remedy: str = "") -> None:
        self.field, self.value, self.allowed, self.remedy = field, value, allowed, remedy
        # A value of several lines still makes one sentence.
        shown = " ".join(value.split("\n")) if isinstance(value, str) else repr(value)
        # Nothing, and blanks alone, would not be seen.
        shown = shown if shown.strip() else repr(value) if value else "empty"
        shown = redacted(shown)
        shown = shown if len(shown) <= 120 else shown[:117] + "..."
        advice = f": {remedy.rstrip('.')}" if remedy else ""
        super().__init__(f"{field} is {shown}, but it must be {allowed}{advice}.")


class UnknownKeyError(InputError):
    """A key that nothing reads, most often mistyped; `remedy` has the closest one, or all."""

    def __init__(self, field: str, remedy: str) -> None:
        super().__init__(field, "given", "a key that airtune knows", remedy)
        self.args = (f"{field} is not a key that airtune knows: {remedy}",)


class InfeasibleError(AirtuneError):
    """Well formed input that no plan can satisfy; the sentence names the client or the limit."""

    exit_code = 3


def _remade(
    kind: type[AirtuneError], args: tuple[str, ...], state: Mapping[str, object]
) -> AirtuneError:
    """An error as it was, whatever arguments its class takes."""
    error = kind.__new__(kind, *map(redacted, args))
    error.__dict__.update(state)
    return error


class DivergedError(AirtuneError):
    """Training left the finite numbers; the sentence names round and client. What was before it is
    kept."""

    exit_code = 4
