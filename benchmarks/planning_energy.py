"""Planning of latency and energy: time against the number of clients, cvxpy + Clarabel beside it.

    OMP_NUM_THREADS=1 python benchmarks/planning_energy.py                # everything, some minutes
    OMP_NUM_THREADS=1 python benchmarks/planning_energy.py --largest 1000
    OMP_NUM_THREADS=1 python benchmarks/planning_energy.py --quality      # other solvers

One core, processor time, start-up of both excluded (one solve before). The cells of planning.py:
9.4 Mbit and 1 to 12 s of computing a client, 0.5 MHz of band each, idle power 0.5 to 2 W, full
power 3 to 9 W, 0.57 W while sending at full power. `weight`: half a second of latency is worth a
joule of the average client; `budget`: half of what full speed and power spend beyond the least
energy.

The convex form for cvxpy is ours, since none is published: with u = S ln2 / (b t) the energy of
sending is G S ln2 (e^u - 1) / u, which is the mean of e^(u s) over s in [0, 1]; by Gauss-Legendre
quadrature it is a sum of exponentials (as many nodes as its error of 1e-8 needs, `nodes`), the
relation of u, b and t is two power cones, and full power is a linear limit on the energy. It is
the best of several that were tried: units in which every variable is about 1, exponentials around
each client's own u, and `CLARABEL` below, without which Clarabel gives up on most cells. Both are
held to 1e-6; ours proves 1e-9 or less. `cvxpy_s` contains cvxpy's compilation, `clarabel_s` is the
solver alone; a cell that Clarabel gives up on (`cvxpy_fails`) is in neither.
"""

import argparse
import json
import math
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from planning import cn0_hz
from reporting import RESULTS, report, seconds

from airtune.allocation.energy.exact import exact_energy
from airtune.allocation.energy.problem import EnergyProblem, least_energies
from airtune.methods.latency_energy.problem import SOLVERS
from airtune.wireless.rate import ShannonLinks

IMAGE = Path(__file__).parents[1] / "docs" / "images" / "planning_energy.svg"
SIZES = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
CONVEX_LIMIT = 1000
FITTED_FROM = 1000
TOLERANCE = 1e-6
CLARABEL: dict[str, Any] = {
    "tol_gap_rel": TOLERANCE,
    "tol_gap_abs": TOLERANCE,
    "tol_feas": TOLERANCE,
    "equilibrate_enable": False,
    "static_regularization_constant": 1e-10,
    "iterative_refinement_max_iter": 50,
    "iterative_refinement_reltol": 1e-15,
    "iterative_refinement_abstol": 1e-15,
    "max_step_fraction": 0.9,
}


def cell(clients: int, seed: int) -> EnergyProblem:
    """A problem as described above, weighted."""
    rng = np.random.default_rng([clients, seed])
    return EnergyProblem(
        links=ShannonLinks(cn0_hz(rng, clients)),
        bandwidth_hz=5e5 * clients,
        fixed_delay_s=np.full(clients, 0.2),
        compute_s=rng.uniform(1, 12, clients),
        payload_bits=np.full(clients, 9.4e6),
        idle_power_w=rng.uniform(0.5, 2, clients),
        full_power_w=rng.uniform(3, 9, clients),
        sending_power_w=np.full(clients, 0.57),
        energy_weight=0.5 / clients,
    )


def with_budget(problem: EnergyProblem) -> EnergyProblem:
    """The same with an energy budget in place of the weight."""
    soonest = exact_energy(replace(problem, energy_weight=0.0))
    assert soonest.plan is not None
    least, spent = least_energies(problem).sum(), soonest.plan.energy_j.sum()
    return replace(problem, energy_weight=0.0, budget_j=0.5 * (least + spent))


def quadrature(most: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1] with which (e^u - 1) / u errs by 1e-8 at most up to `most`."""
    nodes, weights = np.zeros(0), np.zeros(0)
    for count in range(3, 30):
        nodes, weights = np.polynomial.legendre.leggauss(count)
        nodes, weights = 0.5 * (nodes + 1.0), 0.5 * weights
        u = np.linspace(1e-3, most, 200)[:, None]
        error = (np.exp(u * nodes) @ weights) / (np.expm1(u[:, 0]) / u[:, 0]) - 1.0
        if np.abs(error).max() < 1e-8:
            break
    return nodes, weights


def convex_cost(problem: EnergyProblem, most_nats: float) -> tuple[float, float, int]:
    """The optimum by cvxpy with Clarabel: cost, seconds of the solver alone, quadrature nodes."""
    import cvxpy

    count, budget, nats = len(problem), problem.budget_j, problem.payload_bits * math.log(2)
    nodes = quadrature(1.2 * most_nats)
    # Every variable is about 1 at the optimum.
    unit = float((problem.fixed_delay_s + problem.compute_s).max())
    band_hz, send_s, compute_s = problem.bandwidth_hz / count, 0.2 * unit, 1.3 * problem.compute_s
    band, send, compute, root = (cvxpy.Variable(count) for _ in range(4))
    u, spent, squared, deadline = *(cvxpy.Variable(count) for _ in range(3)), cvxpy.Variable()
    swing, half, third = problem.full_power_w - problem.idle_power_w, *_exponents(count)
    # Each client's exponentials around its own nats at full power.
    around = np.log1p(problem.cn0_hz / band_hz)
    gain = nats / (problem.cn0_hz * send_s)
    sending = sum(
        cvxpy.multiply(gain * w * np.exp(around * s), cvxpy.exp(s * (u - around)))
        for s, w in zip(*nodes, strict=True)
    )
    limits = [
        problem.fixed_delay_s / unit
        + cvxpy.multiply(compute_s / unit, compute)
        + (send_s / unit) * send
        <= deadline,
        cvxpy.sum(band) <= count,
        compute >= problem.compute_s / compute_s,
        cvxpy.PowCone3D(squared, compute, np.ones(count), third),
        sending <= spent,
        # Full power at most.
        spent <= send,
        cvxpy.PowCone3D(band, send, root, half),
        cvxpy.PowCone3D(u, root, np.cbrt(nats / (band_hz * send_s)), third),
    ]
    energy = cvxpy.sum(
        cvxpy.multiply(problem.idle_power_w * compute_s, compute)
        + cvxpy.multiply(swing * problem.compute_s**3 / compute_s**2, squared)
        + cvxpy.multiply(problem.sending_power_w * send_s, spent)
    )
    if budget < math.inf:
        limits.append(energy / budget <= 1.0)
    cost = unit * deadline + problem.energy_weight * energy
    scale = math.sqrt(count) / unit
    program = cvxpy.Problem(cvxpy.Minimize(scale * cost), limits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program.solve(solver=cvxpy.CLARABEL, **CLARABEL)
        except cvxpy.SolverError:
            return math.nan, math.nan, len(nodes[0])
    if program.status not in (cvxpy.OPTIMAL, cvxpy.OPTIMAL_INACCURATE):
        return math.nan, math.nan, len(nodes[0])
    return float(program.value) / scale, float(program.solver_stats.solve_time), len(nodes[0])


def _exponents(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full(count, 1.0 / 2.0), np.full(count, 1.0 / 3.0)


def one(kind: str, clients: int, seed: int) -> dict[str, Any]:
    """Times of one cell."""
    problem = cell(clients, seed)
    if kind == "budget":
        problem = with_budget(problem)
    ours, best = seconds(partial(exact_energy, problem), repeat=5 if clients <= 1000 else 1)
    assert best.plan is not None
    row: dict[str, Any] = {"exact_s": ours, "gap": best.gap, "deadlines": best.iterations}
    if clients <= CONVEX_LIMIT:
        plan = best.plan
        upload_s = plan.latency_s - problem.fixed_delay_s - problem.compute_s / plan.speed
        nats = problem.payload_bits * math.log(2) / (plan.bandwidth_hz * upload_s)
        spent, found = seconds(partial(convex_cost, problem, float(nats.max())))
        # How long it took to give up is no time of a solution.
        spent = spent if math.isfinite(found[0]) else math.nan
        row |= {
            "cvxpy_s": spent,
            "clarabel_s": found[1],
            "nodes": found[2],
            "cvxpy_over_exact": found[0] / best.objective,
        }
    return row


def measure(kind: str, largest: int) -> dict[str, Any]:
    """Means over a few cells of each size, and the fitted growth."""
    one(kind, 5, 0)
    rows = []
    for clients in SIZES:
        if clients > largest:
            break
        cells = [one(kind, clients, seed) for seed in range(3 if clients <= 3000 else 1)]
        row: dict[str, Any] = {"kind": kind, "clients": clients}
        for key in dict.fromkeys(key for cell in cells for key in cell):
            values = [cell[key] for cell in cells if key in cell and not math.isnan(cell[key])]
            row[key] = float(np.mean(values)) if values else None
        if clients <= CONVEX_LIMIT:
            row["cvxpy_fails"] = sum(math.isnan(cell["cvxpy_over_exact"]) for cell in cells)
            row["times_faster"] = (row["cvxpy_s"] or math.nan) / row["exact_s"]
            row["times_faster_than_clarabel"] = (row["clarabel_s"] or math.nan) / row["exact_s"]
        rows.append(row)
        print(row, flush=True)
    large = [row for row in rows if row["clients"] >= FITTED_FROM]
    if len(large) < 2:
        return {"rows": rows}
    counts, times = ([math.log(row[key]) for row in large] for key in ("clients", "exact_s"))
    slope, offset = np.polyfit(counts, times, 1)
    return {"rows": rows, "exponent": float(slope), "seconds_at_one_client": float(np.exp(offset))}


def quality(cells: int = 12, clients: int = 10) -> None:
    """Cost of every solver over the optimum's, at three weights."""
    rows = []
    for factor in (0.05, 1.0, 20.0):
        ratios: dict[str, list[float]] = {name: [] for name in SOLVERS}
        for seed in range(cells):
            problem = cell(clients, 1000 + seed)
            problem = replace(problem, energy_weight=factor * problem.energy_weight)
            best = float(exact_energy(problem).objective or math.nan)
            for name, solve in SOLVERS.items():
                ratios[name].append(float(solve(problem).objective or math.nan) / best)
        for name, values in ratios.items():
            low, median, high = np.quantile(values, (0.05, 0.5, 0.95))
            rows.append(
                {
                    "weight_s_per_j": factor * 0.5 / clients,
                    "solver": name,
                    "least": min(values),
                    "5 %": float(low),
                    "median": float(median),
                    "95 %": float(high),
                    "most": max(values),
                }
            )
    report("planning_energy_quality", rows, cells=cells, clients=clients)


def draw(kinds: dict[str, Any]) -> None:
    """Time against clients on logarithmic axes, with the fitted powers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for index, (kind, found) in enumerate(kinds.items()):
        color, rows = f"C{index}", found["rows"]
        clients = [row["clients"] for row in rows]
        label = f"{kind}, grows as n^{found['exponent']:.2f}"
        axes.loglog(clients, [row["exact_s"] for row in rows], "o-", color=color, label=label)
        for key, style, words in (
            ("cvxpy_s", "x--", "cvxpy with Clarabel"),
            ("clarabel_s", "+:", "Clarabel alone"),
        ):
            convex = [(row["clients"], row[key]) for row in rows if row.get(key)]
            axes.loglog(*zip(*convex, strict=True), style, color=color, label=f"{kind}, {words}")
        large = np.array([n for n in clients if n >= FITTED_FROM], dtype=float)
        fit = found["seconds_at_one_client"] * large ** found["exponent"]
        axes.loglog(large, fit, ":", color="black", linewidth=1)
    axes.set(xlabel="clients", ylabel="processor time (s)", title="Energy planning on one core")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(fontsize="small")
    IMAGE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGE, metadata={"Date": None})


def main() -> None:
    """Measure, merge with what other runs found, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=["weight", "budget"], help="weight, budget")
    parser.add_argument("--largest", type=int, default=10**9, help="clients")
    parser.add_argument("--quality", action="store_true", help="other solvers, and no times")
    options = parser.parse_args()
    if options.quality:
        quality()
        return
    path = RESULTS / "planning_energy.json"
    known = json.loads(path.read_text())["growth"] if path.exists() else {}
    growth = known | {kind: measure(kind, options.largest) for kind in options.kinds}
    rows = [row for found in growth.values() for row in found["rows"]]
    report("planning_energy", rows, growth=growth)
    if all("exponent" in found for found in growth.values()):
        draw(growth)


if __name__ == "__main__":
    main()
