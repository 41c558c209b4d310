"""Exceptions of airtune: one clear sentence for the user, never a traceback.

Calls into foreign code (parsers, templates, hubs, tokenizers and user-defined parts) stand within
`foreign_input` or `foreign_code`: within them every exception becomes one sentence that names the
place. The exception stays as the sentence's cause, and `AIRTUNE_TRACEBACK=1` makes the command line
print it. Values from the environment are kept out of messages and files (`redacted`).
"""

import os
import re
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from types import TracebackType
from typing import Any

SECRET = re.compile(r"token|secret|passw|api_?key|credential|(private|access)_?key", re.IGNORECASE)
"""Names of options whose values are secret wherever they come from."""
SHORTEST = 4
"""Characters below which a value (`8`, `cpu`) is too common to be replaced by its template."""
_templates: dict[str, str] = {}


def hide(value: str, template: str) -> None:
    """From now on `redacted` writes the template for this value."""
    if len(value) >= SHORTEST:
        _templates[value] = template


def redacted(text: str) -> str:
    """The text with a template for every hidden value that stands in it as a whole."""
    for value in sorted(_templates, key=len, reverse=True):
        if value in text:
            # `data` is no part of `database`, nor of the key `data.train`.
            whole = rf"(?<![\w.]){re.escape(value)}(?!\w|\.\w)"
            text = re.sub(whole, _templates[value].replace("\\", r"\\"), text)
    return text


def secret_options(
    values: Mapping[str, Any], parts: Iterable[str]
) -> dict[tuple[str | int, ...], tuple[str, str]]:
    """Options of parts (dotted keys, of one part or a list) whose names mark them as secret: place
    -> (`${AIRTUNE_PART_OPTION}`, value)."""
    return {
        (*place, key): (_variable(part, str(key)), value)
        for part in parts
        for place, options in _parts_at(values, part)
        for key, value in options.items()
        if SECRET.search(str(key)) and isinstance(value, str)
    }


def _parts_at(values: Any, part: str) -> Iterator[tuple[tuple[str | int, ...], Mapping[str, Any]]]:
    """The mapping at a dotted key, or those in the list there, with their places."""
    place = tuple(part.split("."))
    for key in place:
        values = values.get(key) if isinstance(values, Mapping) else None
    if isinstance(values, Mapping):
        yield place, values
    elif isinstance(values, list):
        for index, entry in enumerate(values):
            if isinstance(entry, Mapping):
                yield (*place, index), entry


def _variable(part: str, key: str) -> str:
    name = re.sub(r"\W", "_", f"AIRTUNE_{part}_{key}".upper())
    return f"${{{name}}}"


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
        """The same error, of the same kind, with the place in front: `arm NAME: …`."""
        error = copy(self)
        error.args = (f"{place}: {self}",)
        return error

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors of worker processes are pickled on their way to the user."""
        return _remade, (type(self), self.args, self.__dict__)


class InputError(AirtuneError):
    """Bad input. Names the field, the value, what is allowed, and what to do.

    Examples:
        >>> str(InputError("cell.bandwidth_hz", -1.0, "a positive number", "give it in hertz"))
        'cell.bandwidth_hz is -1.0, but it must be a positive number: give it in hertz.'
    """

    def __init__(self, field: str, value: object, allowed: str, remedy: str = "") -> None:
        self.field, self.value, self.allowed, self.remedy = field, value, allowed, remedy
        # A value of several lines still makes one sentence.
        shown = " ".join(value.split("\n")) if isinstance(value, str) else repr(value)
        # Nothing, and blanks alone, would not be seen.
        shown = shown if shown.strip() else repr(value) if value else "empty"
        shown = redacted(shown)
        shown = shown if len(shown) <= 120 else shown[:117] + "..."
        sentence = f"{field} is {shown}, but it must be {allowed}"
        sentence += f": {remedy.rstrip('.')}" if remedy else ""
        super().__init__(sentence if sentence.endswith("?") else f"{sentence}.")


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


class ClientLostError(AirtuneError):
    """A client on another machine is gone for this round; the round goes on without it."""


class DivergedError(AirtuneError):
    """Training left the finite numbers; the sentence names round and client. What was before it is
    kept."""

    exit_code = 4


TRACEBACK_VARIABLE = "AIRTUNE_TRACEBACK"
_LONGEST_REASON = 200
_OWN = Path(__file__).resolve().parent
# Compared after links are followed: a virtual environment's standard library lies elsewhere.
_INSTALLED = tuple(
    Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")
)
# An interrupt and a generator's end are no errors; Rust's panics are, and are no `Exception`.
_PASSES = (AirtuneError, KeyboardInterrupt, GeneratorExit)


@contextmanager
def foreign_input(field: str, value: object, allowed: str, remedy: str = "") -> Iterator[None]:
    """Around foreign code that reads what a user gave.

    An exception becomes `InputError(field, value, allowed, "remedy (reason)")`; errors of airtune
    pass as they are. `value` names the place: a file, and its line where it is known.
    """
    try:
        yield
    except _PASSES:
        raise
    except BaseException as error:
        reason = reason_of(error)
        advice = f"{remedy.rstrip('.')} ({reason})" if remedy else reason
        raised = InputError(field, value, allowed, advice)
        raise _with_details(raised, error) from error


@contextmanager
def foreign_code(place: str, remedy: str = "") -> Iterator[None]:
    """Around foreign code that works on a user's behalf: a user-defined part, a library's call.

    An exception becomes an AirtuneError, `PLACE failed: REASON (FILE, line N): REMEDY.`, with the
    file of the user's own code where the exception came through one; errors of airtune pass as
    they are. `place` names the part and, in a round, the round and the client.
    """
    try:
        yield
    except BaseException as error:
        raised = foreign_error(error, place, remedy)
        if raised is None:
            raise
        raise raised from error


def foreign_error(error: BaseException, place: str, remedy: str = "") -> AirtuneError | None:
    """What `foreign_code` makes of an exception; None where it passes as it is."""
    if isinstance(error, _PASSES):
        return None
    advice = f": {remedy.rstrip('.')}" if remedy else ""
    raised = AirtuneError(f"{place} failed: {reason_of(error)}{_origin(error)}{advice}.")
    return _with_details(raised, error)


def reason_of(error: BaseException) -> str:
    """The kind of an exception and the first line of its message."""
    lines = str(error).strip().splitlines()
    kind = type(error).__name__
    reason = f"{kind}: {lines[0].strip()}" if lines else kind
    reason = reason if len(reason) <= _LONGEST_REASON else reason[: _LONGEST_REASON - 1] + "…"
    return reason.rstrip(".")


def traceback_text(error: BaseException) -> str:
    """The whole traceback where the environment requests it, else nothing."""
    if os.environ.get(TRACEBACK_VARIABLE, "") in ("", "0"):
        return ""
    # The cause of an error that crossed a process boundary is text.
    details = error.details if isinstance(error, AirtuneError) and not error.__cause__ else ""
    return details + "".join(traceback.format_exception(error))


def _with_details(raised: AirtuneError, cause: BaseException) -> AirtuneError:
    raised.details = "".join(traceback.format_exception(cause))
    return raised


def _origin(error: BaseException) -> str:
    """` (parts.py, line 12)`: the deepest frame in code that is neither ours nor installed."""
    frames = [(path, line) for path, line in _frames(error.__traceback__) if _is_users(path)]
    return f" ({frames[-1][0]}, line {frames[-1][1]})" if frames else ""


def _frames(trace: TracebackType | None) -> Iterator[tuple[Path, int]]:
    for frame, line in traceback.walk_tb(trace):
        yield Path(frame.f_code.co_filename), line


def _is_users(path: Path) -> bool:
    if str(path).startswith("<"):
        return False
    place = path.resolve()
    return not any(place.is_relative_to(folder) for folder in (_OWN, *_INSTALLED))
