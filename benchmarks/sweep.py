"""A sweep against single commands: the same runs, one after another or as forks of a warm process.

    python benchmarks/sweep.py [--runs 60] [--rounds 3] [--jobs 2] [--set KEY=VALUE ...]

The built-in experiment with as many seeds as runs. Wall time is that of the commands as a user
types them, from start to exit; processor time is that of all their processes. Records and adapters
of both are compared byte for byte. On a busy machine take fewer runs, such as 10: both sides grow
in proportion, but for the seconds in which the warm process imports.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from reporting import as_installed, report

SAME = ("rounds.jsonl", "adapter/adapter_model.safetensors", "report.html", "summary.json")


def airtune(arguments: Sequence[str]) -> tuple[float, float]:
    """Wall and processor seconds of one command."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "airtune", *arguments, "--quiet"]
    subprocess.run(command, check=True, env={**as_installed(), "HF_HUB_OFFLINE": "1"})
    after, wall_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
    spent = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    return wall_s, spent


def single_commands(settings: Sequence[str], runs: int, folder: Path) -> tuple[float, float]:
    """One `airtune run` after another."""
    pairs = [
        airtune(["run", *settings, "--set", f"seed={seed}", "--out", str(folder / f"{seed}")])
        for seed in range(runs)
    ]
    return sum(wall for wall, _ in pairs), sum(spent for _, spent in pairs)


def one_sweep(settings: Sequence[str], runs: int, jobs: int, folder: Path) -> tuple[float, float]:
    """The same runs as one `airtune sweep`."""
    seeds = ",".join(map(str, range(runs)))
    return airtune(["sweep", f"seed={seeds}", *settings, "-j", str(jobs), "--out", str(folder)])


def different(singles: Path, sweep: Path) -> list[str]:
    """Files that differ between the two."""
    found = []
    for alone in sorted(singles.iterdir()):
        (swept,) = sweep.glob(f"points/*-seed={alone.name}/seed-{alone.name}")
        found += [
            f"{alone.name}/{name}"
            for name in SAME
            if (alone / name).read_bytes() != (swept / name).read_bytes()
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], help="key=value of every run")
    parser.add_argument("--name", default="sweep", help="of the file of results")
    options = parser.parse_args()
    settings = [f"rounds={options.rounds}", *options.set]
    sets = [part for setting in settings for part in ("--set", setting)]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        swept = one_sweep(sets, options.runs, options.jobs, folder / "sweep")
        alone = single_commands(sets, options.runs, folder / "single")
        differing = different(folder / "single", folder / "sweep")
    rows: list[dict[str, Any]] = [
        {"how": how, "runs": options.runs, "wall_s": wall_s, "processor_s": spent_s}
        for how, (wall_s, spent_s) in (("single commands", alone), ("one sweep", swept))
    ]
    facts = {
        "settings": settings,
        "jobs": options.jobs,
        "wall_ratio": swept[0] / alone[0],
        "processor_ratio": swept[1] / alone[1],
        "differing_files": differing,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "plotly")},
    }
    report(options.name, rows, **facts)


if __name__ == "__main__":
    main()
