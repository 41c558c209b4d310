"""Min-max bandwidth measured: against cvxpy with Clarabel on 200 random cells, and by size.

    OMP_NUM_THREADS=1 python benchmarks/minmax.py

Cells of 2 to 500 clients: carrier-to-noise-density ratios over four decades, payloads over two,
delays of 0 to 5 s in half of the cells, the band over two and a half decades. cvxpy is timed on its
first solve, problem construction included, as a simulator would meet it each round.
"""

import argparse
import math
import warnings
from functools import partial
from typing import Any

import numpy as np
from reporting import report, seconds

from airtune.allocation.bandwidth import Uploads, minmax_bandwidth
from airtune.allocation.solve import Status
from airtune.wireless.rate import ShannonLinks

SIZES = (2, 20, 100, 500)
LARGE = (10_000, 100_000, 1_000_000)


def random_cell(rng: np.random.Generator, clients: int) -> Uploads:
    """One cell as described above."""
    return Uploads(
        ShannonLinks(10 ** rng.uniform(5, 9, clients)),
        rng.uniform(1e5, 1e7, clients),
        rng.uniform(0, 5, clients) * rng.integers(0, 2),
        10 ** rng.uniform(5.5, 8),
    )


def exact_latency(cell: Uploads) -> tuple[float, float]:
    """Latency and gap of the exact solver."""
    solution = minmax_bandwidth(
        cell.links, cell.payload_bits, cell.fixed_delay_s, cell.bandwidth_hz
    )
    assert solution.status is Status.OPTIMAL
    assert solution.objective is not None
    assert solution.gap is not None
    return solution.objective, solution.gap


def convex_latency(cell: Uploads) -> float | None:
    """The same from cvxpy; None unless it reports optimal."""
    import cvxpy

    assert isinstance(cell.links, ShannonLinks)
    count = len(cell.links)
    hertz = cell.bandwidth_hz / count
    unit = float((cell.payload_bits / cell.links.rate(np.full(count, hertz))).max())
    share, deadline = cvxpy.Variable(count, nonneg=True), cvxpy.Variable()
    rate = -cvxpy.rel_entr(share, share + cell.links.cn0_hz / hertz) / math.log(2)
    wait = cvxpy.inv_pos(deadline - cell.fixed_delay_s / unit)
    program = cvxpy.Problem(
        cvxpy.Minimize(deadline),
        [
            cvxpy.multiply(cell.payload_bits / (hertz * unit), wait) <= rate,
            cvxpy.sum(share) <= count,
        ],
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program.solve(solver=cvxpy.CLARABEL)
    except cvxpy.SolverError:
        return None
    return float(program.value) * unit if program.status == cvxpy.OPTIMAL else None


def size_row(clients: int, cells: int = 5) -> dict[str, Any]:
    """Mean times over some cells of one size."""
    ours, theirs = [], []
    for seed in range(cells):
        cell = random_cell(np.random.default_rng([clients, seed]), clients)
        ours.append(seconds(partial(exact_latency, cell), repeat=3)[0])
        if clients <= SIZES[-1]:
            theirs.append(seconds(partial(convex_latency, cell), repeat=1)[0])
    row: dict[str, Any] = {"clients": clients, "exact_s": float(np.mean(ours))}
    if theirs:
        row |= {
            "cvxpy_s": float(np.mean(theirs)),
            "times_faster": float(np.mean(theirs) / np.mean(ours)),
        }
    return row


def agreement(cells: int) -> dict[str, Any]:
    """Largest gap of ours, and largest difference from cvxpy where that reports optimal."""
    differences, gaps = [], []
    for seed in range(cells):
        rng = np.random.default_rng(seed)
        cell = random_cell(rng, int(2 * 250.0 ** rng.uniform()))
        latency, gap = exact_latency(cell)
        gaps.append(gap)
        theirs = convex_latency(cell)
        if theirs is not None:
            differences.append(abs(theirs / latency - 1))
    return {
        "cells": cells,
        "largest_gap": max(gaps),
        "cvxpy_reports_optimal": len(differences),
        "largest_difference": max(differences),
        "median_difference": float(np.median(differences)),
    }


def main() -> None:
    """Measure both and write results/minmax.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=200)
    options = parser.parse_args()
    # The first solve of a process pays for imports and caches.
    convex_latency(random_cell(np.random.default_rng(0), 3))
    rows = [size_row(clients) for clients in SIZES]
    rows += [size_row(clients, cells=1) for clients in LARGE]
    report("minmax", rows, **agreement(options.cells))


if __name__ == "__main__":
    main()
