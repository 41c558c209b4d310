"""Golden runs: does this tree compute what an older one computed?

    python scripts/golden.py BASE                      # BASE: a git revision, or a folder of one
    python scripts/golden.py main --only 'soft_tsfa*' --keep golden-runs

Runs every case of `golden_cases.py` in BASE and in the tree of this script, on this machine and on
one thread each, and compares: digests of every client's payload, of the adapter and of what server
and clients remember after each round; records, summaries, plans and tables, integers and texts
exactly, other numbers to 1e-9. Wording, key order, real seconds, reports and the resolved
experiment are not compared. A case that BASE refuses must be refused here. Exits with 1 if
anything differs.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from golden_cases import chosen
from golden_compare import Compared, compare_case

ROOT = Path(__file__).resolve().parents[1]
RECORDER = Path(__file__).resolve().with_name("golden_record.py")
SHOWN = 8
"""Differences of a case that are printed; `differences.txt` in the folder of --keep has all."""
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@contextmanager
def tree_of(base: str) -> Iterator[Path]:
    """BASE's tree: a folder as it is, a revision as a worktree that is removed again."""
    if Path(base).is_dir():
        yield Path(base).resolve()
        return
    with tempfile.TemporaryDirectory(prefix="airtune-base-") as folder:
        git = ["git", "-C", str(ROOT), "worktree"]
        try:
            subprocess.run([*git, "add", "--quiet", "--detach", folder, base], check=True)
        except subprocess.CalledProcessError:
            sys.exit(f"{base} is neither a folder nor a revision of this repository.")
        try:
            yield Path(folder).resolve()
        finally:
            subprocess.run([*git, "remove", "--force", folder], check=True)


class Recorder:
    """The process that records one tree, from a copy: the tree may be edited meanwhile.

    It and its runs end with `close`.
    """

    def __init__(self, tree: Path, folder: Path, only: str, jobs: int) -> None:
        self._work, self._log = folder / "work", folder / "log"
        self._work.mkdir(parents=True)
        shutil.copytree(tree / "src", folder / "src")
        options = ["--only", only, "--jobs", str(jobs)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(RECORDER), str(folder / "src"), str(self._work), *options],
                env=_environment(folder),
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def recording(self, case: str) -> dict[str, Any]:
        """Wait for the recording of a case."""
        path = self._work / f"{case}.json"
        while not path.exists():
            if self._process.poll() is not None and not path.exists():
                sys.exit(f"{self._log.read_text()[-4000:]}\n{case} was not recorded.")
            time.sleep(0.1)
        recording: dict[str, Any] = json.loads(path.read_text())
        return recording

    def wait(self) -> None:
        """Wait until every case is recorded."""
        self._process.wait()

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _environment(folder: Path) -> dict[str, str]:
    """One thread, no network, nothing of this user's, and the copied source."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AIRTUNE_")}
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    own = {"PYTHONPATH": str(folder / "src"), "XDG_STATE_HOME": str(folder / "state"), **offline}
    return {**kept, **own, **dict.fromkeys(ONE_THREAD, "1"), "PYTHONHASHSEED": "0"}


@contextmanager
def recorders(base: Path, folder: Path, only: str, jobs: int) -> Iterator[list[Recorder]]:
    """BASE's and this tree's, at once where there is more than one job."""
    with ExitStack() as stack:
        started = []
        for name, tree in (("base", base), ("head", ROOT)):
            started.append(Recorder(tree, folder / name, only, max(1, jobs // 2)))
            stack.callback(started[-1].close)
            if jobs == 1:
                started[-1].wait()
        yield started


def show(name: str, base: Mapping[str, Any], head: Mapping[str, Any], compared: Compared) -> None:
    """One line of the table, and the first differences below it."""
    codes = [recording["codes"][-1] for recording in (base, head)]
    word = f"{len(compared.differences)} differences" if compared.differences else "same"
    if any(codes):
        word += f" (exit codes {codes[0]}, {codes[1]})"
    seconds = f"{base['seconds']:6.1f} s {head['seconds']:6.1f} s"
    print(f"{name:26} {compared.digests:8} {compared.values:8} {seconds}  {word}", flush=True)
    for difference in compared.differences[:SHOWN]:
        print(f"    {difference}")
    if codes[0] != codes[1]:
        print(f"    BASE: {base['stderr'].strip()[-300:]}")
        print(f"    HEAD: {head['stderr'].strip()[-300:]}")


def compare_all(cases: Sequence[str], both: Sequence[Recorder]) -> list[Compared]:
    """Compare each case as soon as it is recorded, and print the table and its sums."""
    print(f"{'case':26} {'digests':>8} {'values':>8} {'BASE':>8} {'HEAD':>8}")
    results = []
    for case in cases:
        base, head = (recorder.recording(case) for recorder in both)
        results.append(compare_case(case, base, head))
        show(case, base, head, results[-1])
    return results


def summary(results: Sequence[Compared], seconds: float) -> str:
    """The last line of the table."""
    different = sum(bool(compared.differences) for compared in results)
    return (
        f"{len(results)} cases, {sum(one.digests for one in results):,} digests and "
        f"{sum(one.values for one in results):,} values compared in {seconds:.0f} s: "
        + (f"{different} cases differ." if different else "all the same.")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("base", metavar="BASE", help="a git revision, or the folder of a tree")
    parser.add_argument("--only", default="*", help="patterns of cases, as jcpba-*,plan-*")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once (2: one a tree)")
    parser.add_argument("--keep", type=Path, help="a new folder for runs, recordings, differences")
    given = parser.parse_args()
    if given.keep is not None and given.keep.exists():
        sys.exit(f"{given.keep} exists: --keep names a new folder.")
    if not chosen(given.only):
        sys.exit(f"No case is named {given.only}.")
    # A worktree of BASE is removed, and runs are ended, however this ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    began = time.perf_counter()
    names = [case.name for case in chosen(given.only)]
    with tree_of(given.base) as base, tempfile.TemporaryDirectory() as temporary:
        folder = (given.keep or Path(temporary)).resolve()
        with recorders(base, folder, given.only, given.jobs) as both:
            results = compare_all(names, both)
        differences = [str(one) for compared in results for one in compared.differences]
        (folder / "differences.txt").write_text("".join(f"{one}\n" for one in differences))
    print(summary(results, time.perf_counter() - began))
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
