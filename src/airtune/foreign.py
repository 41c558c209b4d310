"""The boundary around foreign code: parsers, templates, hubs, tokenizers and user-defined parts.

Within it every exception becomes one sentence that names the place. The exception stays as the
sentence's cause, and `AIRTUNE_TRACEBACK=1` makes the command line print it.
"""

import os
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from airtune.errors import AirtuneError, InputError

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
    except _PASSES:
        raise
    except BaseException as error:
        advice = f": {remedy.rstrip('.')}" if remedy else ""
        raised = AirtuneError(f"{place} failed: {reason_of(error)}{_origin(error)}{advice}.")
        raise _with_details(raised, error) from error


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
