"""TSFA over many rounds: does the virtual queue hold the mean latency at its target?

    OMP_NUM_THREADS=1 python benchmarks/planning_tsfa.py             # 5,000 rounds each
    OMP_NUM_THREADS=1 python benchmarks/planning_tsfa.py --rounds 200

6 clients of 6 ranks whose energies sum to 1, mean carrier-to-noise-density ratios of 65 to 75 dBHz,
independent Rayleigh fading each round, 0.6 MHz, 0.1 Mbit a rank, 0 to 0.2 s of computing, outage on
(5 x the target). Times are in units of the target, so that V means the same at every target. The
targets are multiples of the least one that any planner could hold on these draws.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from reporting import RESULTS, report, seconds

from airtune.allocation.solve import Solution
from airtune.allocation.sparsity.lyapunov import (
    ChannelSource,
    Rounds,
    least_mean_latency_s,
    least_reachable_target_s,
    run_rounds,
)
from airtune.allocation.sparsity.problem import SparsityPlan, SparsityProblem
from airtune.allocation.sparsity.solvers import dense, exact
from airtune.wireless.attenuation import BlockFading
from airtune.wireless.rate import ShannonLinks

CLIENTS, RANKS = 6, 6
V = (1.0, 10.0, 100.0)
OVER_LEAST = (1.05, 1.5)
OUT_OF_REACH = 0.8
RESULT = "planning_tsfa_rounds"

Solver = Callable[[SparsityProblem], Solution[SparsityPlan]]


def rayleigh(seed: int) -> ChannelSource:
    """Links of each round."""
    mean = 10 ** np.random.default_rng(seed).uniform(6.5, 7.5, CLIENTS)
    fading = BlockFading(seed, CLIENTS, correlation=0.0)
    return lambda index: ShannonLinks(mean * fading.power_gain(index))


def job(channel: ChannelSource, target_s: float, v: float) -> SparsityProblem:
    """The problem of the rounds; `v x energy` is compared with seconds x seconds."""
    draw = np.random.default_rng(1)
    energy = draw.random((CLIENTS, RANKS)) * 0.6 ** np.arange(RANKS)
    return SparsityProblem(
        channel(0),
        bandwidth_hz=6e5,
        compute_delay_s=draw.random(CLIENTS) * 0.2,
        rank_energy=energy / energy.sum(axis=1, keepdims=True),
        rank_payload_bits=np.full(CLIENTS, 1e5),
        latency_target_s=target_s,
        v=v * target_s**2,
    )


def smallest_target(channel: ChannelSource, rounds: int) -> float:
    """The least target that a planner can hold, the outage limit following it."""
    start = least_mean_latency_s(job(channel, 1.0, 1.0), rounds, channel)
    low = job(channel, OUT_OF_REACH * start, 1.0)
    least = least_mean_latency_s(low, rounds, channel)
    reachable = least_reachable_target_s(low, rounds, channel, least)
    assert reachable is not None, "every client has a signal in these draws"
    return reachable


def quick(problem: SparsityProblem) -> Solution[SparsityPlan]:
    """As `airtune plan --rounds` solves a round."""
    return exact(problem, gap=1e-3)


def row(name: str, v: float, table: Rounds, spent: float) -> dict[str, Any]:
    """What a run of rounds showed, in units of its target."""
    target = table.latency_target_s
    return {
        "target": name,
        "v": v,
        "mean latency / target": table.mean_latency_s / target,
        "1 + Q_T / (T target)": 1.0 + table.overshoot_limit_s / target,
        "energy dropped": float(table.dropped_energy.mean()),
        "outage": table.outage_share,
        "ms a round": 1e3 * spent / len(table),
    }


def measure(rounds: int, seed: int, over: tuple[float, ...]) -> None:
    """These targets with every V; rows of other targets in the result file are kept."""
    channel = rayleigh(seed)
    least = smallest_target(channel, rounds)
    rows = []
    for factor in over:
        for v in V:
            problem = job(channel, factor * least, v)
            spent, table = seconds(partial(run_rounds, problem, rounds, channel, quick))
            rows.append(row(f"{factor:g} x the least", v, table, spent))
            print(rows[-1], flush=True)
    known = [old for old in known_rows(rounds) if old["target"] not in {r["target"] for r in rows}]
    rows = sorted([*known, *rows], key=lambda each: each["target"])
    report(RESULT, rows, rounds=rounds, least_reachable_target_s=least, **out_of_reach(channel))


def known_rows(rounds: int) -> list[dict[str, Any]]:
    """What the result file holds for as many rounds."""
    path = RESULTS / f"{RESULT}.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    return list(content.get("rows", [])) if content.get("rounds") == rounds else []


def out_of_reach(channel: ChannelSource, rounds: int = 1000) -> dict[str, Any]:
    """What is reported of a target below the least, and what sending everything takes."""
    target = OUT_OF_REACH * smallest_target(channel, rounds)
    problem = job(channel, target, 10.0)
    table = run_rounds(problem, rounds, channel, quick)
    least = least_mean_latency_s(problem, rounds, channel)
    reported = least_reachable_target_s(problem, rounds, channel, least)
    everything = run_rounds(problem, rounds, channel, lambda one: dense(one, prove=False))
    return {
        "unreachable_target": {
            "rounds": rounds,
            "target_s": target,
            "mean_latency_s": table.mean_latency_s,
            "least_mean_latency_s": least,
            "reported_least_reachable_target_s": reported,
            "mean_latency_of_dense_s": everything.mean_latency_s,
        }
    }


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--over", type=float, nargs="+", default=OVER_LEAST, help="targets")
    options = parser.parse_args()
    measure(options.rounds, options.seed, tuple(options.over))


if __name__ == "__main__":
    main()
