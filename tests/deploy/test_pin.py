"""Cores and quotas: what a process may use, measured; every version's files; clean-up."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airtune.deploy import pin as module
from airtune.deploy.owned import own_name
from airtune.deploy.pin import CpuQuota, PinError, cores, pin, quota_unavailable
from airtune.errors import InputError

REASON = quota_unavailable()
needs_quota = pytest.mark.skipif(REASON is not None, reason=str(REASON))
BURN = """
import sys, time
sys.stdin.readline()
began, worked = time.monotonic(), time.process_time()
while time.process_time() - worked < 0.15:
    pass
print(time.process_time() - worked, time.monotonic() - began)
"""
THREADS = """
import threading, time
for _ in range(3):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
print("ready", flush=True)
time.sleep(60)
"""


def started(program: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", program]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def threads() -> Iterator[subprocess.Popen[str]]:
    process = started(THREADS)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


@needs_quota
def test_a_quota_stretches_computing_and_leaves_nothing() -> None:
    """Work of 0.15 s at a fifth of a core takes 0.75 s at least; a busy machine makes it longer."""
    process = started(BURN)
    with CpuQuota(0.2) as quota:
        group = quota._group
        assert group.is_dir()
        quota.add(process.pid)
        worked_s, took_s = map(float, process.communicate("\n")[0].split())
    # A period's first share may be used up at once.
    assert took_s > (worked_s - 0.2 * module.PERIOD_S) / 0.2 * 0.95
    assert not group.exists()


@needs_quota
def test_a_process_that_still_runs_goes_on_without_the_quota(
    threads: subprocess.Popen[str],
) -> None:
    with pytest.raises(KeyError), CpuQuota(0.5) as quota:
        quota.add(threads.pid)
        inside = (quota._group / "cgroup.procs").read_text().split()
        assert inside == [str(threads.pid)]
        raise KeyError
    assert not quota._group.exists()
    assert threads.poll() is None


@needs_quota
def test_what_a_killed_process_left_is_removed() -> None:
    hold = "from airtune.deploy.pin import CpuQuota\nwith CpuQuota(0.5) as quota:\n"
    hold += "    print(quota._group, flush=True)\n    input()"
    process = started(hold)
    assert process.stdout is not None
    group = Path(process.stdout.readline().strip())
    with CpuQuota(0.5):
        assert group.is_dir()
    process.kill()
    process.communicate()
    assert group.is_dir()
    with CpuQuota(0.5):
        assert not group.exists()


@needs_quota
def test_a_process_that_is_gone_is_named() -> None:
    process = started("pass")
    process.communicate()
    with CpuQuota(0.5) as quota, pytest.raises(PinError, match=f"Process {process.pid} cannot"):
        quota.add(process.pid)


def test_wrong_shares_are_refused() -> None:
    for share in (0.0, 0.01, -1.0, float("nan"), 1e9):
        with pytest.raises(InputError, match="share is"):
            CpuQuota(share)


def test_pinning_covers_every_thread(threads: subprocess.Popen[str]) -> None:
    last = cores()[-1]
    pin(threads.pid, [last])
    tasks = os.listdir(f"/proc/{threads.pid}/task")
    assert len(tasks) >= 4
    assert {tuple(os.sched_getaffinity(int(task))) for task in tasks} == {(last,)}


def test_wrong_cores_and_processes_are_refused(threads: subprocess.Popen[str]) -> None:
    for chosen in ([], [10_000], [-1]):
        with pytest.raises(InputError, match="cores is"):
            pin(threads.pid, chosen)
    gone = started("pass")
    gone.communicate()
    with pytest.raises(PinError, match=f"Process {gone.pid} is not running"):
        pin(gone.pid, cores())


def hierarchy(monkeypatch: pytest.MonkeyPatch, folder: Path, mounts: str, own: str) -> Any:
    """What is found on a machine with these mounts, whose places are below `folder`."""
    (folder / "mountinfo").write_text(mounts.replace("@", str(folder)))
    (folder / "own").write_text(own)
    monkeypatch.setattr(module, "_MOUNTS", folder / "mountinfo")
    monkeypatch.setattr(module, "_OWN_GROUPS", folder / "own")
    return module._hierarchy()


V1 = """24 23 0:21 / @/memory rw,relatime - cgroup cgroup rw,memory
25 23 0:22 / @/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
"""
V2 = "26 23 0:23 / @/unified rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_version_1_is_found_at_the_own_group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpu" / "job").mkdir(parents=True)
    found = hierarchy(monkeypatch, tmp_path, V1 + V2, "3:memory:/a\n2:cpu,cpuacct:/job\n0::/\n")
    assert found == module.Hierarchy(tmp_path / "cpu" / "job", 1)
    # A container sees its own group as the root and another path in its list.
    found = hierarchy(monkeypatch, tmp_path, V1, "2:cpu,cpuacct:/docker/1234\n")
    assert found == module.Hierarchy(tmp_path / "cpu", 1)
    group = tmp_path / "cpu" / own_name()
    group.mkdir()
    found.limit(group, 0.25)
    assert (group / "cpu.cfs_period_us").read_text() == "20000"
    assert (group / "cpu.cfs_quota_us").read_text() == "5000"


def test_version_2_needs_the_controller_handed_down(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = tmp_path / "unified"
    root.mkdir()
    (root / "cgroup.subtree_control").write_text("memory\n")
    (root / "cgroup.controllers").write_text("cpu memory\n")
    found = hierarchy(monkeypatch, tmp_path, V2, "0::/\n")
    assert found.endswith("write +cpu to its cgroup.subtree_control.")
    (root / "cgroup.subtree_control").write_text("cpu memory\n")
    found = hierarchy(monkeypatch, tmp_path, V2, "0::/\n")
    assert found == module.Hierarchy(root, 2)
    found.limit(root, 0.5)
    assert (root / "cpu.max").read_text() == "10000 20000"
    (root / "cgroup.subtree_control").write_text("\n")
    (root / "cgroup.controllers").write_text("memory\n")
    found = hierarchy(monkeypatch, tmp_path, V2, "0::/\n")
    assert "No control group with the controller cpu" in found
    with pytest.raises(PinError, match="No control group"), CpuQuota(0.5):
        raise AssertionError


def test_a_machine_without_control_groups_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "_MOUNTS", tmp_path / "none")
    assert quota_unavailable() == "CPU quotas need the control groups of Linux."
