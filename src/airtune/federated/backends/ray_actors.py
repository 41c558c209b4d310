"""A cohort on the actors of a Ray cluster, each with a resident base of its own.

The same deal and the same code as `Workers`, so the answers are the same bytes for the same number
of actors. The broadcast goes through Ray's object store once a round. An actor that dies is
replaced, and its clients run again: their batches and draws come from (seed, round, client), so
nothing of the first try remains.
"""

import atexit
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, final

from airtune.errors import AirtuneError, InputError, reason_of
from airtune.federated.backends.backend import Backend, ClientReport, ClientTask, deal
from airtune.federated.backends.workers import MakeSide

LONGEST_TEMPORARY = 20
"""Characters of the temporary folder's path that leave room for the paths of Ray's sockets."""
REMOVAL_TRIES, REMOVAL_PAUSE_S = 20, 0.1
LOST_AT_MOST = 3
"""A part of the cohort that lost so many actors would lose the next one, too."""


class Resident:
    """What an actor keeps: the client side, made once."""

    def __init__(self, make_side: MakeSide, together: int) -> None:
        self._side, self._together = make_side(), together

    def answer(
        self, tasks: Sequence[ClientTask], which: Sequence[int], *broadcasts: bytes
    ) -> list[ClientReport] | AirtuneError:
        """Answer tasks whose broadcasts travelled apart; `which` numbers each task's broadcast."""
        whole = [
            replace(task, broadcast=broadcasts[index])
            for task, index in zip(tasks, which, strict=True)
        ]
        one_by_one = self._together == 1
        try:
            found = (
                map(self._side.answer, whole) if one_by_one else self._side.answer_stacked(whole)
            )
            return list(found)
        except AirtuneError as error:
            # As a value: raised, it would come back wrapped in Ray's own error and trace.
            return error


@final
class RayActors(Backend):
    """`count` actors of one core each, started at the first round and ended with this object.

    `address` is that of a running cluster (`ray://host:port`, `auto`); None starts a local one.
    """

    def __init__(
        self, make_side: MakeSide, count: int, together: int = 1, address: str | None = None
    ) -> None:
        self._make_side, self._count, self._together = make_side, count, together
        self._address = address
        self._actors: list[Any] = []

    def run(self, tasks: Sequence[ClientTask]) -> Iterator[ClientReport]:
        if not self._actors:
            connect(self._address, self._count)
            self._actors = [self._new_actor() for _ in range(self._count)]
        count = len(tasks) if self._together == 1 else self._count
        parts = deal(tasks, count, self._together)
        yield from self._answers(parts, _stored(tasks))

    def _answers(
        self, parts: Sequence[Sequence[ClientTask]], stored: dict[bytes, Any]
    ) -> Iterator[ClientReport]:
        import ray

        waiting, idle = list(range(len(parts)))[::-1], list(range(self._count))[::-1]
        lost, busy = [0] * len(parts), dict[Any, tuple[int, int]]()
        while waiting or busy:
            while waiting and idle:
                part, actor = waiting.pop(), idle.pop()
                busy[self._give(actor, parts[part], stored)] = (part, actor)
            for ready in ray.wait(list(busy))[0]:
                part, actor = busy.pop(ready)
                idle.append(actor)
                try:
                    answer = ray.get(ready)
                except ray.exceptions.RayActorError:
                    lost[part] += 1
                    _give_up(lost[part], parts[part])
                    self._actors[actor] = self._new_actor()
                    waiting.append(part)
                    continue
                if isinstance(answer, AirtuneError):
                    raise answer
                yield from answer

    def close(self) -> None:
        """End the actors, and the cluster if it was started here."""
        if not self._actors:
            return
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        disconnect()

    def _new_actor(self) -> Any:
        import ray

        actor = ray.remote(num_cpus=1)(Resident)
        return actor.remote(self._make_side, self._together)

    def _give(self, actor: int, tasks: Sequence[ClientTask], stored: dict[bytes, Any]) -> Any:
        distinct = list(dict.fromkeys(task.broadcast for task in tasks))
        which = [distinct.index(task.broadcast) for task in tasks]
        light = [replace(task, broadcast=b"") for task in tasks]
        broadcasts = [stored[broadcast] for broadcast in distinct]
        return self._actors[actor].answer.remote(light, which, *broadcasts)


def _stored(tasks: Sequence[ClientTask]) -> dict[bytes, Any]:
    """Each broadcast once in the object store, for all readers."""
    import ray

    return {broadcast: ray.put(broadcast) for broadcast in {task.broadcast for task in tasks}}


def _give_up(lost: int, tasks: Sequence[ClientTask]) -> None:
    if lost < LOST_AT_MOST:
        return
    clients = ", ".join(str(task.client) for task in tasks)
    raise AirtuneError(
        f"{lost} Ray actors in a row died while they trained client {clients} (out of memory?): "
        "run `airtune resume`, or a new run with --set backend=local if it happens again."
    )


def connect(address: str | None, cores: int | None = None) -> None:
    """Join a cluster, or start one of this many cores on this machine; twice does no harm.

    What a cluster started here writes (logs, sockets, spilled objects) goes into a temporary folder
    that `disconnect`, or the end of this process, removes. Raises InputError where Ray cannot be
    imported or the address does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = _imported()
    if ray.is_initialized():
        return
    local: dict[str, Any] = {}
    if not address:
        local = {"num_cpus": cores, "include_dashboard": False, "_temp_dir": _session_folder()}
    try:
        ray.init(address or "local", log_to_driver=False, logging_level="ERROR", **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        _remove_sessions()
        reason = str(error).splitlines()[0]
        raise InputError(
            "ray_address", f"{address} ({reason})", "the address of a running Ray cluster"
        ) from None


def disconnect() -> None:
    """Leave a cluster; end one that was started here, and remove what it wrote."""
    import ray

    ray.shutdown()
    _remove_sessions()


def _imported() -> Any:
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise _not_importable(error) from error
        raise InputError(
            "backend", "ray", "local where Ray is not installed", "pip install 'airtune[ray]'"
        ) from None
    except Exception as error:
        raise _not_importable(error) from error
    return ray


def _not_importable(error: Exception) -> InputError:
    return InputError(
        "backend",
        "ray",
        "local where Ray cannot be imported",
        f"Ray is installed, but its import fails ({reason_of(error)})",
    )


_sessions: list[str] = []
"""Folders of clusters that this process started."""


def _session_folder() -> str:
    if not _sessions:
        atexit.register(disconnect)
    # Sockets lie deep in it, and the kernel allows their paths 107 bytes.
    short = len(tempfile.gettempdir()) <= LONGEST_TEMPORARY
    _sessions.append(tempfile.mkdtemp(prefix="airtune-ray-", dir=None if short else "/tmp"))
    return _sessions[-1]


def _remove_sessions() -> None:
    """Ray's processes may still write for a moment after they were asked to end."""
    for folder in _sessions:
        for _ in range(REMOVAL_TRIES):
            shutil.rmtree(folder, ignore_errors=True)
            if not os.path.exists(folder):
                break
            time.sleep(REMOVAL_PAUSE_S)


def cluster_cores(address: str) -> int:
    """Cores of a running cluster."""
    import ray

    connect(address)
    return int(ray.cluster_resources().get("CPU", 1))
