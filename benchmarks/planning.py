"""JCPBA planning measured: every solver against the optimum, and many channel draws.

    OMP_NUM_THREADS=1 python benchmarks/planning.py quality   # 500 problems, 1 to 200 clients
    OMP_NUM_THREADS=1 python benchmarks/planning.py draws     # many channel draws of a cell

Cells: clients uniform in a disc of 500 m (not closer than 20 m), path loss 128.1 + 37.6 log10(d/km)
dB with 8 dB shadowing and Rayleigh fading, 23 dBm, noise -174 dBm/Hz, 0.5 MHz of band a client;
clients that could not send 1.4 Mbit/s with all the spectrum there is are out of coverage (5 %);
GPT-2 small's rank-8 adapter (9.4 Mbit, three quarters of it prunable), 1 to 12 s of computing.
For `quality` times, bits and bandwidth are also shifted and scaled at random. `convex_latency` is
what `planning_scale.py` times beside the exact solver.
"""

import argparse
import math
import warnings
from functools import partial

import numpy as np
from reporting import report, seconds

from airtune.allocation.pruning.exact import exact_pruning
from airtune.allocation.pruning.problem import PruningProblem, best_pruning
from airtune.methods.jcpba.problem import SOLVERS
from airtune.quantities import dbm_to_watts
from airtune.wireless.rate import ShannonLinks

COVERAGE_HZ = 1e6


def cn0_hz(rng: np.random.Generator, clients: int) -> np.ndarray:
    """Carrier-to-noise-density ratios of the clients in coverage."""
    cn0 = np.zeros(clients)
    while (lost := cn0 < COVERAGE_HZ).any():
        count = int(np.count_nonzero(lost))
        distance_km = np.sqrt(rng.uniform(0.02**2, 0.5**2, count))
        loss_db = 128.1 + 37.6 * np.log10(distance_km) + rng.normal(0, 8, count)
        received_w = dbm_to_watts(23.0 - loss_db) * rng.exponential(1.0, count)
        cn0[lost] = received_w / dbm_to_watts(-174.0)
    return cn0


def cell(rng: np.random.Generator, clients: int) -> PruningProblem:
    """A planning problem in a drawn cell."""
    return PruningProblem(
        links=ShannonLinks(cn0_hz(rng, clients)),
        bandwidth_hz=5e5 * clients,
        pruning_budget=0.3,
        pruning_rate_max=0.9,
        weight=rng.uniform(0.5, 1.5, clients),
        fixed_delay_s=np.zeros(clients),
        fixed_compute_s=rng.uniform(0.05, 0.3, clients),
        prunable_compute_s=rng.uniform(1, 12, clients),
        fixed_bits=np.full(clients, 2.4e6),
        prunable_bits=np.full(clients, 7.0e6),
        pruning_rate_min=np.zeros(clients),
    )


def scaled_cell(rng: np.random.Generator, clients: int) -> PruningProblem:
    """A cell with its times shifted and its times, bits and hertz scaled."""
    plain = cell(rng, clients)
    time, bits = 10.0 ** rng.uniform(-3, 3, 2)
    hertz = bits / time * 10.0 ** rng.uniform(-1, 1)
    assert isinstance(plain.links, ShannonLinks)
    return PruningProblem(
        links=ShannonLinks(hertz * plain.links.cn0_hz),
        bandwidth_hz=hertz * plain.bandwidth_hz,
        pruning_budget=float(rng.uniform(0, 0.6)),
        pruning_rate_max=float(rng.uniform(0.6, 1.0)),
        weight=plain.weight,
        fixed_delay_s=time * rng.uniform(0, 3, clients) * rng.integers(0, 2),
        fixed_compute_s=time * plain.fixed_compute_s,
        prunable_compute_s=time * plain.prunable_compute_s,
        fixed_bits=bits * plain.fixed_bits * rng.integers(0, 2),
        prunable_bits=bits * plain.prunable_bits,
        pruning_rate_min=plain.pruning_rate_min,
    )


def measure_quality(count: int) -> None:
    """Latency of every solver over the optimum's."""
    ratios: dict[str, list[float]] = {name: [] for name in SOLVERS}
    gaps, steps = [], []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        problem = scaled_cell(rng, int(rng.integers(1, 201)))
        best = exact_pruning(problem)
        assert best.objective is not None
        assert best.gap is not None
        gaps.append(best.gap)
        steps.append(best.iterations)
        for name, solve in SOLVERS.items():
            found = solve(problem).objective
            assert found is not None
            ratios[name].append(found / best.objective)
    rows = []
    for name, values in ratios.items():
        low, median, high = np.quantile(values, (0.05, 0.5, 0.95))
        rows.append(
            {
                "solver": name,
                "least": min(values),
                "5 %": float(low),
                "median": float(median),
                "mean": float(np.mean(values)),
                "95 %": float(high),
                "most": max(values),
                "within 1e-6": f"{np.mean(np.array(values) < 1 + 1e-6):.1%}",
            }
        )
    report(
        "planning_quality",
        rows,
        problems=count,
        largest_gap=max(gaps),
        mean_iterations=float(np.mean(steps)),
    )


def convex_latency(problem: PruningProblem, accuracy: float = 1e-4) -> tuple[float, int]:
    """Bisection over the deadline, one convex program each; latency, and how many programs."""
    count, band = len(problem), problem.bandwidth_hz
    low, _ = best_pruning(problem, problem.links.rate(np.full(count, band)))
    high, _ = best_pruning(problem, problem.links.rate(np.full(count, band / count)))
    solves = 0
    while high - low > accuracy * high:
        middle = 0.5 * (low + high)
        solves += 1
        fits = convex_least_pruning(problem, middle) <= problem.pruning_budget
        low, high = (low, middle) if fits else (middle, high)
    return high, solves


def convex_least_pruning(problem: PruningProblem, deadline: float) -> float:
    """The least weighted pruning at a deadline, in cvxpy with Clarabel; inf if there is none."""
    import cvxpy

    assert isinstance(problem.links, ShannonLinks)
    count = len(problem)
    share_hz = problem.bandwidth_hz / count
    cn0 = problem.links.cn0_hz / share_hz
    kept, share = cvxpy.Variable(count), cvxpy.Variable(count, nonneg=True)
    rate = -cvxpy.rel_entr(share, share + cn0) / math.log(2.0)
    unit = share_hz * deadline
    left = 1.0 - problem.earliest_start_s / deadline
    compute = problem.prunable_compute_s / deadline
    s0, s1 = problem.fixed_bits / unit, problem.prunable_bits / unit
    spare = cvxpy.inv_pos(left - cvxpy.multiply(compute, kept))
    needed = cvxpy.multiply(s0 + s1 * left / compute, spare) - s1 / compute
    program = cvxpy.Problem(
        cvxpy.Minimize(problem.weight @ (1 - kept)),
        [
            needed <= rate,
            cvxpy.sum(share) <= count,
            kept <= 1,
            kept >= 1 - problem.pruning_rate_max,
        ],
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program.solve(solver=cvxpy.CLARABEL)
    except cvxpy.SolverError:
        return math.inf
    return float(program.value) if program.value is not None else math.inf


def measure_draws(draws: int) -> None:
    """Many channel draws of one cell through `plan` on arrays, as a simulator asks for them."""
    from airtune.methods.plan import plan

    rows = []
    for clients in (10, 30, 100):
        rng = np.random.default_rng(clients)
        problem = {
            "method": "jcpba",
            "bandwidth_hz": 5e5 * clients,
            "noise_psd_dbm_hz": -174,
            "pruning_rate_max": 0.9,
            "pruning_budget": 0.3,
            "clients": {
                "tx_power_dbm": 23,
                "gain": cn0_hz(rng, clients)
                * dbm_to_watts(-174.0)
                / dbm_to_watts(23.0)
                * rng.exponential(1.0, (draws, clients)),
                "compute_delay_s": {"fixed": 0.1, "prunable": rng.uniform(1, 12, clients)},
                "payload_bits": {"fixed": 2.4e6, "prunable": 7.0e6},
            },
        }
        spent, planned = seconds(partial(plan, problem))
        assert isinstance(planned, list)
        latencies = [each.solution.objective for each in planned]
        rows.append(
            {
                "clients": clients,
                "draws": draws,
                "ms_per_draw": 1e3 * spent / draws,
                "median_latency_s": float(np.median(latencies)),
            }
        )
    report("planning_draws", rows)


def main() -> None:
    """Run the named measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("quality", "draws"))
    parser.add_argument("--count", type=int, default=500, help="problems, or draws")
    options = parser.parse_args()
    if options.what == "quality":
        measure_quality(options.count)
    else:
        measure_draws(options.count)


if __name__ == "__main__":
    main()
