"""Planning time of independent sampling by the number of clients, cvxpy + Clarabel beside it.

    OMP_NUM_THREADS=1 python benchmarks/planning_sampling.py

One core, processor time, start-up excluded. The joint problem has no form that cvxpy accepts: q b
is a product, and log b is convex in log tau by a rule that it does not know. The best form known to
us is nested: at one deadline the probabilities are a second-order cone program with parameters,
canonicalised once, outside of the clock; around it the bounded search of scipy on log tau, in which
the problem is convex, until the deadline stands to 1e-4 (the objective then to 1e-8), with Clarabel
at 1e-6. Bandwidths of a deadline are computed by airtune for both.

Clients: carrier-to-noise-density ratios over three decades, 0.5 to 3 Mbit, 0.1 to 1.5 s of delay,
values over a decade, 60 kHz a client on average. `ranks_s` is the time with four numbers of ranks.
"""

import argparse
import math
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from reporting import report, seconds

from airtune.allocation.sampling.problem import SamplingProblem
from airtune.allocation.sampling.solvers import planned
from airtune.allocation.solve import Solution
from airtune.wireless.rate import ShannonLinks

IMAGE = Path(__file__).parents[1] / "docs" / "images" / "planning_sampling.svg"
SIZES = (10, 30, 100, 300, 1000, 10_000, 100_000)
CONVEX_LIMIT = 1000
FITTED_FROM = 1000
RANKS = (8, 4, 2, 1)


def cell(clients: int, seed: int, options: int = 1) -> SamplingProblem:
    """One round."""
    rng = np.random.default_rng([clients, seed])
    parts = np.array(RANKS[:options]) / RANKS[0]
    values = 10 ** rng.uniform(-1, 0, clients)
    return SamplingProblem(
        ShannonLinks(10 ** rng.uniform(5.5, 8.5, clients)),
        6e4 * clients,
        rng.uniform(0.5e6, 3e6, clients)[:, None] * parts,
        np.repeat(rng.uniform(0.1, 1.5, clients)[:, None], options, axis=1),
        (values / values.sum())[:, None] / parts,
        0.3,
        ranks=RANKS[:options],
    )


def convex_time(problem: SamplingProblem) -> tuple[float, float, int]:
    """Least expected time, processor seconds after start-up, and programs solved."""
    import cvxpy
    from scipy.optimize import minimize_scalar

    count = len(problem)
    share, band = cvxpy.Variable(count), cvxpy.Parameter(count, nonneg=True)
    worth = problem.variance[:, 0] * count
    program = cvxpy.Problem(
        cvxpy.Minimize(worth @ cvxpy.inv_pos(share)), [band @ share <= 1.0, share <= 1.0]
    )
    solved = 0

    def expected(log_s: float) -> float:
        nonlocal solved
        tau = math.exp(log_s)
        needed = problem.needs(tau)[0][:, 0]
        if not np.isfinite(needed).all():
            return math.inf
        band.value = needed / problem.bandwidth_hz
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program.solve(solver=cvxpy.CLARABEL, tol_gap_rel=1e-6, tol_gap_abs=1e-6, tol_feas=1e-6)
        solved += 1
        return float(tau * (problem.floor + program.value / count))

    low = math.log(float(problem.alone_s().max()))
    high = low + 2.0
    expected(high)  # start-up: canonicalised once
    solved, began = 0, time.process_time()
    found = minimize_scalar(
        expected, bounds=(low + 1e-9, high), method="bounded", options={"xatol": 1e-4}
    )
    return float(found.fun), time.process_time() - began, solved


def row(clients: int, seed: int) -> dict[str, Any]:
    """Both on one cell."""
    problem = cell(clients, seed)
    found: Solution[Any]
    ours, found = seconds(partial(planned, problem), repeat=5 if clients <= 1000 else 1)
    assert found.objective is not None
    assert found.plan is not None
    made = {
        "exact_s": ours,
        "gap": found.gap,
        "expected_clients": float(found.plan.inclusion.sum()),
    }
    several, sketched = seconds(partial(planned, cell(clients, seed, len(RANKS))), repeat=1)
    made |= {"ranks_s": several, "ranks_gap": sketched.gap}
    if clients <= CONVEX_LIMIT:
        best, spent, programs = convex_time(problem)
        made |= {
            "cvxpy_s": spent,
            "programs": programs,
            "cvxpy_over_exact": best / found.objective,
        }
    return made


def draw(rows: list[dict[str, Any]], fit: tuple[float, float]) -> None:
    """Time against clients on logarithmic axes, with the fitted power."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for key, style, label in (
        ("exact_s", "o-", f"planned, grows as n^{fit[0]:.2f}"),
        ("ranks_s", "s-", "planned, four numbers of ranks"),
        ("cvxpy_s", "x--", "cvxpy + Clarabel, nested"),
    ):
        known = [(one["clients"], one[key]) for one in rows if key in one]
        axes.loglog(*zip(*known, strict=True), style, label=label)
    axes.set(xlabel="clients", ylabel="processor time (s)", title="Planning time on one core")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(IMAGE)


def main() -> None:
    """Measure, fit and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=10**9, help="clients")
    options = parser.parse_args()
    row(5, 0)
    rows = []
    for clients in (size for size in SIZES if size <= options.largest):
        cells = [row(clients, seed) for seed in range(3 if clients <= 1000 else 1)]
        mean = {key: float(np.mean([one[key] for one in cells])) for key in cells[0]}
        mean["largest_gap"] = max(one["gap"] for one in cells)
        if "cvxpy_s" in mean:
            mean["times_faster"] = mean["cvxpy_s"] / mean["exact_s"]
        rows.append({"clients": clients, **mean})
        print(rows[-1], flush=True)
    large = [one for one in rows if one["clients"] >= FITTED_FROM]
    slope, offset = np.polyfit(
        [math.log(one["clients"]) for one in large], [math.log(one["exact_s"]) for one in large], 1
    )
    report(
        "planning_sampling",
        rows,
        exponent=float(slope),
        seconds_at_one_client=float(np.exp(offset)),
    )
    draw(rows, (float(slope), float(offset)))


if __name__ == "__main__":
    main()
