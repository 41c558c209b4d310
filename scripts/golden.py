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
    """The process that records one tree. It and its runs end with `close`."""

    def __init__(self, tree: Path, folder: Path, only: str, jobs: int) -> None:
        self._out = folder / "recording.json"
        work = folder / "work"
        work.mkdir(parents=True)
        self._log = (folder / "log").open("w")
        arguments = [str(tree), str(work), str(self._out), "--only", only, "--jobs", str(jobs)]
        self._process = subprocess.Popen(
            [sys.executable, str(RECORDER), *arguments],
            env=_environment(tree, folder), cwd=folder,
            stdout=self._log, stderr=subprocess.STDOUT, process_group=0,
        )  # fmt: skip

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def recording(self) -> dict[str, Any]:
        """Wait for the recording."""
        code = self._process.wait()
        if code:
            sys.exit(
                Path(self._log.name).read_text()[-4000:] + f"\nThe recorder ended with {code}."
            )
        recording: dict[str, Any] = json.loads(self._out.read_text())
        return recording


def _environment(tree: Path, folder: Path) -> dict[str, str]:
    """One thread, no network, nothing of this user's, and the tree's own source."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AIRTUNE_")}
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    own = {"PYTHONPATH": str(tree / "src"), "XDG_STATE_HOME": str(folder / "state"), **offline}
    return {**kept, **own, **dict.fromkeys(ONE_THREAD, "1"), "PYTHONHASHSEED": "0"}


def record_both(base: Path, folder: Path, only: str, jobs: int) -> list[dict[str, Any]]:
    """Both trees' recordings, side by side where there is more than one job."""
    recordings = []
    with ExitStack() as stack:

        def start(name: str, tree: Path) -> Recorder:
            recorder = Recorder(tree, folder / name, only, max(1, jobs // 2))
            stack.callback(recorder.close)
            return recorder

        first = start("base", base)
        if jobs == 1:
            recordings.append(first.recording())
        second = start("head", ROOT)
        recordings += [one.recording() for one in (first, second)[len(recordings) :]]
    return recordings


def show(name: str, base: Mapping[str, Any], head: Mapping[str, Any], compared: Compared) -> None:
    """One line of the table, and the first differences below it."""
    code = base["codes"][-1]
    word = f"differs in {len(compared.differences)}" if compared.differences else "same"
    if code and not compared.differences:
        word = f"same (exit code {code})"
    seconds = f"{base['seconds']:6.1f} s {head['seconds']:6.1f} s"
    print(f"{name:26} {compared.digests:8} {compared.values:8} {seconds}  {word}")
    for difference in compared.differences[:SHOWN]:
        print(f"    {difference}")
    if code != head["codes"][-1]:
        print(f"    BASE said: {base['stderr'].strip()[-300:]}")
        print(f"    HEAD said: {head['stderr'].strip()[-300:]}")


def report(recordings: Sequence[Mapping[str, Any]], folder: Path, began: float) -> int:
    """Print the table and the sums; answers how many cases differ."""
    base, head = recordings
    print(f"{'case':26} {'digests':>8} {'values':>8} {'BASE':>8} {'HEAD':>8}")
    results = {name: compare_case(name, base[name], head[name]) for name in base}
    for name, compared in results.items():
        show(name, base[name], head[name], compared)
    differences = [one for compared in results.values() for one in compared.differences]
    (folder / "differences.txt").write_text("".join(f"{one}\n" for one in differences))
    different = len({one.case for one in differences})
    print(
        f"{len(results)} cases, {sum(c.digests for c in results.values()):,} digests and "
        f"{sum(c.values for c in results.values()):,} values compared in "
        f"{time.perf_counter() - began:.0f} s: "
        + (
            f"{len(differences)} differences in {different} cases."
            if different
            else "all the same."
        )
    )
    return different


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("base", metavar="BASE", help="a git revision, or the folder of a tree")
    parser.add_argument("--only", default="*", help="cases by a pattern of their names")
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
    with tree_of(given.base) as base, tempfile.TemporaryDirectory() as temporary:
        folder = (given.keep or Path(temporary)).resolve()
        recordings = record_both(base, folder, given.only, max(1, given.jobs))
        different = report(recordings, folder, began)
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
