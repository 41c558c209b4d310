"""Client selection: time against the number of clients, and the choices of other solvers.

    OMP_NUM_THREADS=1 python benchmarks/planning_selection.py

One core, processor time. Cells as in planning.py: 1 to 12 s of computing, 9.4 Mbit and 0.2 MHz of
band a client; weights alike, or from 0.2 to 5. `deadline`: the most weight within 9 s; `share`: the
least deadline for 70 %.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from planning import cn0_hz
from reporting import report, seconds

from airtune.allocation.selection.problem import SelectionProblem
from airtune.methods.client_selection.problem import SOLVERS
from airtune.wireless.rate import ShannonLinks

SIZES = (10, 100, 1000, 10_000, 100_000)


def cell(clients: int, seed: int, equal: bool, share: bool) -> SelectionProblem:
    """A problem as described above."""
    rng = np.random.default_rng([clients, seed])
    problem = SelectionProblem(
        ShannonLinks(cn0_hz(rng, clients)),
        2e5 * clients,
        0.2 + rng.uniform(1, 12, clients),
        np.full(clients, 9.4e6),
        np.ones(clients) if equal else rng.uniform(0.2, 5, clients),
        deadline_s=9.0,
    )
    return replace(problem, deadline_s=None, weight_share=0.7) if share else problem


def main() -> None:
    """Times of the exact solver, and what the others reach."""
    rows: list[dict[str, Any]] = []
    for clients in SIZES:
        for equal in (True, False):
            for share in (False, True):
                problem = cell(clients, 0, equal, share)
                spent, best = seconds(partial(SOLVERS["exact"], problem))
                assert best.plan is not None
                sought = "time" if share else "weight"
                row: dict[str, Any] = {"clients": clients, "equal": equal, "sought": sought}
                row |= {"exact_s": spent, "status": str(best.status), "gap": best.gap}
                for name in ("greedy", "random"):
                    other = SOLVERS[name](problem).plan
                    assert other is not None
                    row[name] = (
                        other.latency_s / best.plan.latency_s
                        if share
                        else other.weight_share / best.plan.weight_share
                    )
                rows.append(row)
                print(row, flush=True)
    report("planning_selection", rows)


if __name__ == "__main__":
    main()
