"""What worker processes are forked from: everything is imported there, nothing computed yet.

Importing torch, transformers and PEFT takes longer than many a job, and every worker needs them.
One host imports them once, while the main process is still loading, and each worker is then a fork
of it, there in an instant and with its code in shared memory. The host has a single thread, so
nothing is held by a thread that a fork leaves behind; it has not seen the main process's torch,
which may have run on several. It is a plain `python -c`: the user's script is not run again in it,
with or without `if __name__ == "__main__"`. Imports nothing heavy itself.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import traceback
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from socket import socketpair
from typing import Any, TypeAlias, final

Serve: TypeAlias = Callable[[Connection], None]
"""What a worker does with its connection; picklable, and no function of `__main__`."""

FORKS = sys.platform == "linux"
"""Elsewhere system libraries need not survive a fork, so that every worker has a host to itself."""
PRELOADED = ("torch", "transformers.modeling_utils", "airtune.tuning.plain_peft")
"""What any worker needs; an engine adds the module of its own client side."""
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from airtune.federated.backends.worker_host import host; host(int(sys.argv[1]), sys.argv[3:])"
)
_NO_WAITING = "--no-waiting"
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_ENDS_WITHIN_S = 2.0


@final
class WorkerHost:
    """A host process. It begins to import at once, and ends with this object.

    Forks are workers of a run, on one thread each and ended by their closed connections. With
    `whole_runs` they are runs of their own: as many threads as in a process of their own, and they
    are killed where the main process ends or dies. The libraries of linear algebra, which have
    threads from their import on, put them away before a fork.
    """

    def __init__(self, preloaded: Sequence[str] = PRELOADED, *, whole_runs: bool = False) -> None:
        self._preloaded, self._whole_runs = preloaded, whole_runs
        names = [*([_NO_WAITING] if whole_runs else []), *preloaded]
        threads = {} if whole_runs else dict.fromkeys(_ONE_THREAD, "1")
        ours, theirs = socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, str(theirs.fileno()), _path(), *names],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # Ctrl-C reaches the whole process group; the main process decides what it means.
                process_group=0,
                env={**os.environ, **threads},
            )
        self._control = Connection(ours.detach())
        self._started = False
        self._end = weakref.finalize(self, _end, self._process, self._control)

    def start(self, serve: Serve) -> Connection:
        """A new worker, which runs `serve` on the other end of the connection.

        Raises OSError where the host has ended.
        """
        ours, theirs = socketpair()
        try:
            with theirs:
                # The host's `recv` may still be seconds away: both wait in the socket.
                self._control.send_bytes(pickle.dumps(serve))
                send_handle(self._control, theirs.fileno(), self._process.pid)
        except OSError:
            ours.close()
            raise
        self._started = True
        return Connection(ours.detach())

    def again(self) -> "WorkerHost":
        """Another one like this one, which is closed."""
        self.close()
        return WorkerHost(self._preloaded, whole_runs=self._whole_runs)

    def close(self) -> None:
        """End the host, and workers that do not end by themselves (their connections closed)."""
        if self._started and self._end.alive:
            self._control.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_ENDS_WITHIN_S)
        self._end()

    def kill(self) -> None:
        """End the host and everything that it forked, at once."""
        self._end()


def _path() -> str:
    """Where this process imports from; the empty entry of an interactive session made explicit."""
    return json.dumps([entry or os.getcwd() for entry in sys.path])


def _end(process: "subprocess.Popen[bytes]", control: Connection) -> None:
    control.close()
    # There is no process to kill where all of them have ended.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def host(descriptor: int, preloaded: Sequence[str]) -> None:
    """Import, then fork a worker for every request, until the main process hangs up."""
    waits = _NO_WAITING not in preloaded
    for name in preloaded:
        if name != _NO_WAITING:
            __import__(name)
    control = Connection(descriptor)
    children: list[int] = []
    while True:
        try:
            request = control.recv_bytes()
            connection = Connection(recv_handle(control))
        except (EOFError, OSError):
            break
        children = [child for child in children if not os.waitpid(child, os.WNOHANG)[0]]
        if FORKS and (child := _forked()):
            children.append(child)
            connection.close()
            continue
        control.close()
        _run(request, connection)
    for child in children:
        if not waits:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _forked() -> int:
    """`os.fork`, which newer Pythons warn of where a library has threads, even ones that it ends
    and begins again around a fork."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _run(request: bytes, connection: Connection) -> None:
    """A worker's life."""
    code = 1
    try:
        serve: Any = pickle.loads(request)
        serve(connection)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        # Whatever would run at the host's exit is the host's.
        os._exit(code)
