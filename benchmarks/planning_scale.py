"""Planning time of all three methods against the number of clients, cvxpy + Clarabel beside it.

    OMP_NUM_THREADS=1 python benchmarks/planning_scale.py           # everything, about two minutes
    OMP_NUM_THREADS=1 python benchmarks/planning_scale.py tsfa      # one method; draws all again

One core, processor time. What cvxpy solves differs by method, since none of the three is one convex
program:
  jcpba   the whole problem, by bisection over programs of fixed deadline to 1e-4
  tsfa    the relaxation (shares of ranks) at ONE deadline, the one that `exact` found
  sflllm  the powers of ONE assignment for ONE candidate of the 60

jcpba: the cells of planning.py. tsfa: the same cells, 64 ranks of 0.15 Mbit whose energies fall as
k^-1.5 with exponential scatter, 0.1 to 0.6 s of computing, v 10, virtual queue 0.4, gap 9e-5 at
every size. sflllm: the cells of planning_sflllm.py with four subchannels a client to each server
and a Rayleigh gain of its own on each.
"""

import argparse
import json
import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from planning import cell, cn0_hz, convex_latency
from planning_sflllm import convex_deadline, random_cell
from reporting import RESULTS, report, seconds

from airtune.allocation.pruning.exact import exact_pruning
from airtune.allocation.sparsity.problem import SparsityProblem
from airtune.allocation.sparsity.solvers import exact
from airtune.allocation.split.joint import solve_joint
from airtune.allocation.subchannels.power import control_power
from airtune.wireless.rate import ShannonLinks

IMAGE = Path(__file__).parents[1] / "docs" / "images" / "planning_growth.svg"
TSFA_GAP = 9e-5
RANKS = 64
SIZES = {
    "jcpba": (10, 30, 100, 300, 1000, 10_000, 100_000, 1_000_000),
    "tsfa": (10, 30, 100, 300, 1000, 10_000, 100_000),
    "sflllm": (5, 10, 20, 50, 100, 200),
}
CONVEX_LIMIT = {"jcpba": 1000, "tsfa": 1000, "sflllm": 100}
FITTED_FROM = {"jcpba": 1000, "tsfa": 1000, "sflllm": 20}
CONVEX_PART = {"jcpba": "the whole problem", "tsfa": "one deadline", "sflllm": "one assignment"}


def jcpba_row(clients: int, seed: int, convex: bool) -> dict[str, Any]:
    """Exact solver; cvxpy for the whole problem."""
    problem = cell(np.random.default_rng([clients, seed]), clients)
    ours, best = seconds(partial(exact_pruning, problem), repeat=5 if clients <= 1000 else 1)
    row = {"exact_s": ours, "gap": best.gap}
    if convex:
        spent, (latency, programs) = seconds(partial(convex_latency, problem))
        row |= {
            "cvxpy_s": spent,
            "programs": programs,
            "cvxpy_over_exact": latency / best.objective,
        }
    return row


def tsfa_problem(rng: np.random.Generator, clients: int) -> SparsityProblem:
    """One round."""
    energy = np.arange(1, RANKS + 1) ** -1.5 * rng.exponential(1, (clients, RANKS))
    energy = -np.sort(-energy / energy.sum(axis=1, keepdims=True), axis=1)
    return SparsityProblem(
        ShannonLinks(cn0_hz(rng, clients)),
        bandwidth_hz=5e5 * clients,
        compute_delay_s=rng.uniform(0.1, 0.6, clients),
        rank_energy=energy,
        rank_payload_bits=np.full((clients, 1), 9.4e6 / RANKS),
        latency_target_s=1.6,
        v=10.0,
        virtual_queue=0.4,
    )


def tsfa_row(clients: int, seed: int, convex: bool) -> dict[str, Any]:
    """Exact solver to the gap of many clients; cvxpy for the relaxation at its deadline."""
    problem = tsfa_problem(np.random.default_rng([clients, seed]), clients)
    repeat = 3 if clients <= 10_000 else 2
    ours, best = seconds(partial(exact, problem, TSFA_GAP), repeat=repeat)
    row = {"exact_s": ours, "gap": float(best.gap)}
    if convex:
        spent, objective = seconds(partial(convex_relaxation, problem, best.plan.latency_s))
        row |= {"cvxpy_s": spent, "programs": 1, "cvxpy_over_exact": objective / best.objective}
    return row


def convex_relaxation(problem: SparsityProblem, deadline_s: float) -> float:
    """The least objective at one deadline if shares of a rank could be sent; all in coverage."""
    import cvxpy

    assert isinstance(problem.links, ShannonLinks)
    clients = len(problem.links)
    share_hz = problem.bandwidth_hz / clients
    count = cvxpy.Variable(clients)
    lost = cvxpy.Variable(clients, nonneg=True)
    share = cvxpy.Variable(clients, nonneg=True)
    unit = problem.rank_payload_bits[:, 0] / (share_hz * (deadline_s - problem.compute_delay_s))
    rate = -cvxpy.rel_entr(share, share + problem.links.cn0_hz / share_hz) / math.log(2.0)
    # Clarabel fails on most cells with a variable for each rank, and on some like this. Energies
    # fall along the ranks, so that what is lost is above every line through two counts.
    energy = clients * problem.weight[:, None] * problem.rank_energy
    tail = np.cumsum(energy[:, ::-1], axis=1)[:, ::-1]
    lines = tail + energy * np.arange(RANKS)
    program = cvxpy.Problem(
        cvxpy.Minimize(cvxpy.sum(lost)),
        [
            lost[:, None] + cvxpy.multiply(energy, count[:, None]) >= lines,
            count <= cvxpy.multiply(1 / unit, rate),
            cvxpy.sum(share) <= clients,
            count >= 1,
            count <= RANKS,
        ],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program.solve(solver=cvxpy.CLARABEL)
        except cvxpy.SolverError:
            return math.nan
    return float(program.value) * problem.v / clients + problem.virtual_queue * deadline_s


def sflllm_row(clients: int, seed: int, convex: bool) -> dict[str, Any]:
    """`joint` over 60 candidates; cvxpy for the powers of its assignment on the main link."""
    wide = 4 * clients
    training = random_cell(seed, True, clients, wide, candidates=60)
    ours, best = seconds(partial(solve_joint, training), repeat=2)
    row = {"exact_s": ours, "gap": best.gap}
    if seed == 0:
        flat = random_cell(seed, False, clients, wide, candidates=60)
        row["flat_gains_s"] = seconds(partial(solve_joint, flat), repeat=2)[0]
    if convex:
        demand = training.main_demand(training.candidates[best.plan.candidate])
        owner = best.plan.main.owner
        control = control_power(training.main, owner, demand)
        spent, deadline = seconds(partial(convex_deadline, training.main, owner, demand))
        row |= {"cvxpy_s": spent, "programs": 1, "cvxpy_over_exact": deadline / control.deadline_s}
    return row


ROWS: dict[str, Callable[[int, int, bool], dict[str, Any]]] = {
    "jcpba": jcpba_row,
    "tsfa": tsfa_row,
    "sflllm": sflllm_row,
}


def measure(method: str, largest: int) -> dict[str, Any]:
    """Means over a few cells of each size, and the fitted growth."""
    # The first solve of a process pays for imports and caches.
    ROWS[method](5, 0, True)
    rows = []
    for clients in SIZES[method]:
        if clients > largest:
            break
        convex = clients <= CONVEX_LIMIT[method]
        cells = [ROWS[method](clients, seed, convex) for seed in range(3 if clients <= 1000 else 1)]
        row: dict[str, Any] = {"method": method, "clients": clients}
        for key in dict.fromkeys(key for one in cells for key in one):
            values = [one[key] for one in cells if key in one and not math.isnan(one[key])]
            row[key] = float(np.mean(values)) if values else None
        if convex:
            row["cvxpy_fails"] = sum(math.isnan(one["cvxpy_over_exact"]) for one in cells)
            row["times_faster"] = row["cvxpy_s"] / row["exact_s"]
        rows.append(row)
        print(row, flush=True)
    large = [row for row in rows if row["clients"] >= FITTED_FROM[method]]
    if len(large) < 2:
        return {"rows": rows}
    counts, times = ([math.log(row[key]) for row in large] for key in ("clients", "exact_s"))
    slope, offset = np.polyfit(counts, times, 1)
    return {"rows": rows, "exponent": float(slope), "seconds_at_one_client": float(np.exp(offset))}


def draw(methods: dict[str, Any]) -> None:
    """Time against clients on logarithmic axes, with the fitted powers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for index, (method, found) in enumerate(methods.items()):
        color = f"C{index}"
        rows = found["rows"]
        clients = [row["clients"] for row in rows]
        label = f"{method}, grows as n^{found['exponent']:.2f}"
        axes.loglog(clients, [row["exact_s"] for row in rows], "o-", color=color, label=label)
        convex = [(row["clients"], row["cvxpy_s"]) for row in rows if "cvxpy_s" in row]
        part = f"cvxpy, {CONVEX_PART[method]}"
        axes.loglog(*zip(*convex, strict=True), "x--", color=color, label=part)
        large = np.array([n for n in clients if n >= FITTED_FROM[method]], dtype=float)
        fit = found["seconds_at_one_client"] * large ** found["exponent"]
        axes.loglog(large, fit, ":", color="black", linewidth=1)
    axes.set(xlabel="clients", ylabel="processor time (s)", title="Planning time on one core")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(fontsize="small")
    IMAGE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGE)


def main() -> None:
    """Measure, merge with what other methods' runs found, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", default=list(ROWS), help="jcpba, tsfa, sflllm")
    parser.add_argument("--largest", type=int, default=10**9, help="clients")
    options = parser.parse_args()
    path = RESULTS / "planning_scale.json"
    known = json.loads(path.read_text())["growth"] if path.exists() else {}
    growth = known | {method: measure(method, options.largest) for method in options.methods}
    growth = {method: growth[method] for method in ROWS if method in growth}
    rows = [row for found in growth.values() for row in found["rows"]]
    report("planning_scale", rows, growth=growth)
    if all("exponent" in found for found in growth.values()):
        draw(growth)


if __name__ == "__main__":
    main()
