"""A command of airtune in a forked child: exit code, output, processor time and memory.

A fork starts in milliseconds with everything imported, where a new process takes half a second.
"""

import os
import resource
import signal
import sys
import tempfile
import traceback
from dataclasses import dataclass
from typing import NoReturn

CPU_S = 20
MEMORY_BYTES = 2 * 1024**3
MAPPED, RESIDENT = 0, 1


@dataclass(frozen=True)
class Ended:
    """How a command ended. `code` is negative for a signal, as with subprocess."""

    code: int
    out: str
    err: str
    cpu_s: float
    memory_bytes: int  # at its highest, beyond what it shares with the process it was forked from


def run_forked(arguments: list[str], cpu_s: int = CPU_S) -> Ended:
    """`airtune ARGUMENTS`, stopped by the kernel after `cpu_s` of processor time."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        shared_bytes = _pages_bytes(RESIDENT)
        child = os.fork()
        if child == 0:
            _child(arguments, out.fileno(), err.fileno(), cpu_s)
        _, status, used = os.wait4(child, 0)
        out.seek(0), err.seek(0)
        return Ended(
            os.waitstatus_to_exitcode(status),
            out.read().decode("utf-8", "replace"),
            err.read().decode("utf-8", "replace"),
            used.ru_utime + used.ru_stime,
            max(0, used.ru_maxrss * 1024 - shared_bytes),
        )


def _child(arguments: list[str], out: int, err: int, cpu_s: int) -> NoReturn:
    code = 70
    try:
        # Pytest's capture and warning filters stay with the parent.
        os.dup2(out, 1), os.dup2(err, 2)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
        import warnings

        warnings.resetwarnings()
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
        # A command that waits instead of computing ends as well.
        signal.alarm(20 * cpu_s)
        # Beyond what the parent has mapped: the limit is for the command, with room to report it.
        mapped = _pages_bytes(MAPPED) + 2 * MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (mapped, mapped))
        from airtune.cli.main import entry

        sys.argv = ["airtune", *arguments]
        entry()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _pages_bytes(column: int) -> int:
    """Of this process, from /proc/self/statm."""
    with open("/proc/self/statm", encoding="ascii") as pages:
        return int(pages.read().split()[column]) * os.sysconf("SC_PAGE_SIZE")
