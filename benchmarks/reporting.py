"""The frame of the planning benchmarks: one clock, one record of the machine, JSON and a table."""

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("airtune", "numpy", "scipy", "cvxpy", "clarabel")


def seconds(action: Callable[[], Any], repeat: int = 1) -> tuple[float, Any]:
    """The least processor time of some runs, and the last result.

    Processor time, since a shared machine makes wall time a measure of its other users; with one
    thread (OMP_NUM_THREADS=1) and no waiting the two agree on an idle machine.
    """
    best, result = float("inf"), None
    for _ in range(repeat):
        start = time.process_time()
        result = action()
        best = min(best, time.process_time() - start)
    return best, result


def as_installed() -> dict[str, str]:
    """The variables of a command that keeps its byte code, as any installed package does: compiling
    all of it is no part of a command."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def environment() -> dict[str, Any]:
    """What the figures depend on: processor, versions, threads, load."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "unset"),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "date": time.strftime("%Y-%m-%d"),
    }


def report(name: str, rows: Sequence[dict[str, Any]], **facts: Any) -> None:
    """Print the rows and write them with the environment to `results/NAME.json`."""
    print_table(rows)
    for key, value in facts.items():
        print(f"{key}: {value}")
    RESULTS.mkdir(exist_ok=True)
    content = {"environment": environment(), **facts, "rows": list(rows)}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Columns as wide as their longest cell; numbers with four digits."""
    if not rows:
        return
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [keys, *([_cell(row.get(key)) for key in keys] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(keys))]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = {flag for line in lines if line.startswith("flags") for flag in line.split()}
    # Virtual machines name a family at most, while times depend on the width of the vectors.
    widest = next((flag for flag in ("avx512f", "avx2", "avx") if flag in flags), "no avx")
    return f"{names[0] if names else platform.machine()}, {widest}"
