"""Slower computing for one process: some cores alone, or a share of one core's time.

    with CpuQuota(0.25) as quota:
        client = links.popen(0, [...])
        quota.add(client.pid)       # takes four times as long from now on
    pin(client.pid, [1])            # or: this core alone

A quota is the kernel's CFS bandwidth: within every period a process and its children run for
`share x period` and then wait. It needs root and a control group with the controller cpu, of
version 1 (cpu.cfs_quota_us) or 2 (cpu.max); `quota_unavailable` states what is missing.
"""

import os
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from airtune.deploy.owned import ending_unwinds, is_left_over, own_name, uninterrupted
from airtune.errors import AirtuneError, InputError

PERIOD_S = 0.02
"""Shorter periods make the waiting finer; below 1 ms of running the kernel refuses a quota."""
LEAST_SHARE = 0.05
_MOUNTS, _OWN_GROUPS = Path("/proc/self/mountinfo"), Path("/proc/self/cgroup")


class PinError(AirtuneError):
    """The kernel or the permissions do not allow to restrict a process."""


@dataclass(frozen=True)
class Hierarchy:
    """Where groups with a quota are made: a folder of control groups, and their version."""

    folder: Path
    version: int

    def limit(self, group: Path, share: float) -> None:
        """Write a group's quota."""
        period_us = round(1e6 * PERIOD_S)
        quota_us = round(share * period_us)
        if self.version == 2:
            (group / "cpu.max").write_text(f"{quota_us} {period_us}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(period_us))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))


class CpuQuota:
    """A share of one core's time for some processes; a context manager that removes its group.

    On leaving, processes that still run go on without the quota. What a killed process left is
    removed when the next quota enters.

    Args:
        share: of one core, from 0.05 to the number of cores.

    Raises:
        InputError: a share outside this range.
        PinError: on entering, with the reason.
    """

    def __init__(self, share: float) -> None:
        most = os.cpu_count() or 1
        if not LEAST_SHARE <= share <= most:
            raise InputError("share", share, f"a number from {LEAST_SHARE:g} to {most}")
        self.share = share
        self._group = Path()
        self._owner = os.getpid()
        self._stack = ExitStack()

    def __enter__(self) -> "CpuQuota":
        hierarchy = _hierarchy()
        if isinstance(hierarchy, str):
            raise PinError(hierarchy)
        with ExitStack() as stack:
            stack.enter_context(ending_unwinds())
            for folder in hierarchy.folder.glob("airtune-*"):
                if is_left_over(folder.name):
                    _remove(folder)
            self._group = hierarchy.folder / own_name()
            stack.callback(self._leave)
            try:
                self._group.mkdir()
                hierarchy.limit(self._group, self.share)
            except OSError as error:
                raise PinError(
                    f"A CPU quota cannot be set in {hierarchy.folder}: {error.strerror}."
                ) from None
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def add(self, pid: int) -> None:
        """Restrict a process; its children and threads to come share the quota with it."""
        try:
            (self._group / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            raise PinError(f"Process {pid} cannot be restricted: {error.strerror}.") from None

    def _leave(self) -> None:
        # A process that was forked from the owner leaves its things alone.
        if os.getpid() == self._owner:
            with uninterrupted():
                _remove(self._group)


def quota_unavailable() -> str | None:
    """Why `CpuQuota` cannot work here, in one sentence; None where it can. It is tried out."""
    try:
        with CpuQuota(1.0):
            return None
    except PinError as error:
        return str(error)


def cores() -> list[int]:
    """The cores that this process may use, ascending."""
    if not hasattr(os, "sched_getaffinity"):
        raise PinError("Processes can be pinned to cores on Linux alone.")
    return sorted(os.sched_getaffinity(0))


def pin(pid: int, to: Iterable[int]) -> None:
    """Restrict a process to these cores, with all its threads and its children to come.

    Raises InputError for cores that this process may not use, PinError for a process that is gone.
    """
    chosen, usable = sorted(set(to)), cores()
    if not chosen or not set(chosen) <= set(usable):
        raise InputError("cores", chosen, f"some of {usable}")
    seen: set[str] = set()
    # A thread that starts meanwhile inherits from a thread that may not be pinned yet.
    while fresh := set(_threads(pid)) - seen:
        for thread in fresh:
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread), chosen)
        seen |= fresh


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        raise PinError(f"Process {pid} is not running.") from None


def _remove(group: Path) -> None:
    """Remove a control group; what runs in it goes on in the group above."""
    with suppress(OSError):
        for pid in (group / "cgroup.procs").read_text().split():
            with suppress(OSError):
                (group.parent / "cgroup.procs").write_text(pid)
        group.rmdir()


def _hierarchy() -> Hierarchy | str:
    """Where to make groups, or a sentence on why there is no place."""
    try:
        mounts, own = _MOUNTS.read_text(), _OWN_GROUPS.read_text()
    except OSError:
        return "CPU quotas need the control groups of Linux."
    found = _version_1(mounts, own) or _version_2(mounts)
    if found is None:
        return "No control group with the controller cpu is mounted, so there are no CPU quotas."
    if isinstance(found, Hierarchy) and not os.access(found.folder, os.W_OK):
        return f"CPU quotas need permission to write to {found.folder}: run as root."
    return found


def _version_1(mounts: str, own: str) -> Hierarchy | None:
    """The group of this process in the hierarchy of the controller cpu, or that one's root."""
    for point, kind, options in _mounted(mounts):
        if kind == "cgroup" and "cpu" in options:
            for line in own.splitlines():
                _, controllers, path = line.split(":", 2)
                mine = point / path.lstrip("/")
                if "cpu" in controllers.split(",") and mine.is_dir():
                    return Hierarchy(mine, 1)
            return Hierarchy(point, 1)
    return None


def _version_2(mounts: str) -> Hierarchy | str | None:
    """The root: a group with processes of its own cannot hand the controller to groups below it."""
    for point, kind, _ in _mounted(mounts):
        if kind == "cgroup2":
            with suppress(OSError):
                if "cpu" in (point / "cgroup.subtree_control").read_text().split():
                    return Hierarchy(point, 2)
                if "cpu" in (point / "cgroup.controllers").read_text().split():
                    return (
                        f"The controller cpu is not handed down in {point}: write +cpu to its "
                        "cgroup.subtree_control."
                    )
    return None


def _mounted(mounts: str) -> list[tuple[Path, str, list[str]]]:
    """Place, file system and its options of every mount, from the kernel's mountinfo."""
    rows = []
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        rows.append((Path(left.split()[4]), kind, options.split(",")))
    return rows
