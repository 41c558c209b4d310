"""Names of things that the kernel keeps beyond a process: they carry the process that made them.

A network namespace or a control group stays after a process that was killed. Its name,
`airtune-PID-START-SERIAL...`, identifies that process: START is its start in ticks since boot, so
that a reused number is not mistaken for it.
"""

import itertools
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

PREFIX = "airtune-"
_serials = itertools.count()
_ENDING = (signal.SIGTERM, signal.SIGHUP)


def own_name() -> str:
    """A new name that carries this process."""
    pid = os.getpid()
    return f"{PREFIX}{pid}-{_started(pid)}-{next(_serials)}"


def is_left_over(name: str) -> bool:
    """Whether a name is one of `own_name`, with or without something behind, of a dead process."""
    if not name.startswith(PREFIX):
        return False
    pid, _, rest = name.removeprefix(PREFIX).partition("-")
    start = rest.partition("-")[0]
    if not (pid.isdecimal() and start.isdecimal()):
        return False
    return _started(int(pid)) != int(start)


def _started(pid: int) -> int | None:
    """When a process started, ticks since boot; None for one that is not there or is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the program's name in brackets and may contain anything.
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])


@contextmanager
def ending_unwinds() -> Iterator[None]:
    """Within it SIGTERM and SIGHUP raise SystemExit, so that `with` and `finally` clean up.

    In the main thread alone, and only in place of the default handlers: a program's own handlers
    stay, and have to let the stack unwind themselves.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _unwind)
    try:
        yield
    finally:
        try:
            _give_back(taken)
        except SystemExit:  # a signal that another thread took arrives only now
            _give_back(taken)
            raise


def _give_back(numbers: Iterable[int]) -> None:
    for number in numbers:
        if signal.getsignal(number) is _unwind:
            signal.signal(number, signal.SIG_DFL)


def _unwind(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Within it signals that end a process wait, so that cleaning up is not cut short.

    Blocked for this thread and the processes that it starts; where another thread takes one, its
    handler, which Python runs in the main thread, is put off as well.
    """
    waiting = {signal.SIGINT, *_ENDING}
    late: list[int] = []
    handlers = _put_off(waiting, late)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waiting)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number in late[:1]:
            os.kill(os.getpid(), number)


def _put_off(numbers: Iterable[int], late: list[int]) -> dict[int, Any]:
    """Handlers that note their signal in `late` in place of the present ones, which it answers.

    In the main thread alone; a signal that is ignored, or handled outside Python, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {number: signal.getsignal(number) for number in numbers}
    handlers = {
        number: handler
        for number, handler in found.items()
        if handler not in (None, signal.SIG_IGN)
    }
    for number in handlers:
        signal.signal(number, lambda number, frame: late.append(number))
    return handlers
