"""SflLLM planning measured: joint against the published iteration and the random baselines.

    OMP_NUM_THREADS=1 python benchmarks/planning_sflllm.py cells   # 200 cells in its manner
    OMP_NUM_THREADS=1 python benchmarks/planning_sflllm.py small   # 60 instances by brute force

The cells: 5 clients in a disc of 200 m, 20 + 20 subchannels of 0.5 MHz, path loss
128.1 + 37.6 log10(d / km) dB with 8 dB shadowing to each server, 41.8 dBm per client and 47 dBm in
all per link, clients of 1 to 1.6 TFLOP/s, a server of 10 TFLOP/s, batch 16, 12 local steps, GPT-2
small on 512 tokens in 32-bit floats. Rounds to the target per rank are assumed: 30 (1 + 2 / rank).
"""

import argparse
import itertools
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
from reporting import report, seconds

from airtune.allocation.solve import Solution, Status
from airtune.allocation.split.alternatives import BASELINES, solve_blocks, solve_greedy
from airtune.allocation.split.joint import solve_joint
from airtune.allocation.split.problem import SplitCandidate, SplitPlan, SplitTraining
from airtune.allocation.subchannels.power import (
    Demand,
    Owners,
    Uplink,
    WaterFilling,
    least_window,
)
from airtune.quantities import FloatArray, db_to_linear, dbm_to_watts

TOKENS, WIDTH, BLOCKS, VOCABULARY = 512, 768, 12, 50257
BATCH, LOCAL_STEPS, FLOAT_BITS = 16, 12, 32
SERVER_FLOP_RATE = 1e13
RANKS = (1, 2, 4, 8, 16, 32)
SINGLE_CELLS = 10
"""Of the cells, on so many each single decision is drawn at random as well."""
NOISE_W_HZ = float(dbm_to_watts(-174.0))


def gpt2_small(
    client_flop_rate: FloatArray, split_points: range = range(1, BLOCKS)
) -> tuple[SplitCandidate, ...]:
    """Costs of a local step from GPT-2 small's shape, LoRA on all linear layers of the blocks.

    A matrix product of s tokens with an (m x n) matrix is 2 s m n FLOPs. A block has 12 d^2 weights
    and two s x s products over d; the LM head d V weights, on the server. The base is frozen, so
    backward costs as much as forward, and an adapter's twice its forward.
    """
    block = 2 * TOKENS * 12 * WIDTH**2 + 4 * TOKENS**2 * WIDTH
    head = 2 * TOKENS * WIDTH * VOCABULARY
    # in + out of c_attn, attn.c_proj, c_fc and mlp.c_proj
    adapter_per_rank = (1 + 3) * WIDTH + 2 * WIDTH + (1 + 4) * WIDTH + (4 + 1) * WIDTH
    candidates = []
    for split_point, rank in itertools.product(split_points, RANKS):
        adapter = rank * adapter_per_rank
        low_rank = 2 * TOKENS * adapter
        server_flops = (BLOCKS - split_point) * (2 * block + 3 * low_rank) + 2 * head
        candidates.append(
            SplitCandidate(
                split_point=split_point,
                rank=rank,
                rounds=30 * (1 + 2 / rank),
                client_forward_s=BATCH * split_point * (block + low_rank) / client_flop_rate,
                client_backward_s=BATCH * split_point * (block + 2 * low_rank) / client_flop_rate,
                server_s=len(client_flop_rate) * BATCH * server_flops / SERVER_FLOP_RATE,
                activation_bits=BATCH * TOKENS * WIDTH * FLOAT_BITS,
                gradient_bits=0,
                adapter_bits=split_point * adapter * FLOAT_BITS,
            )
        )
    return tuple(candidates)


def random_cell(
    seed: int, fading: bool, clients: int = 5, subchannels: int = 20, candidates: int = 66
) -> SplitTraining:
    """One cell; with fading every subchannel has its own Rayleigh gain, without it none has."""
    rng = np.random.default_rng(seed)
    distance_km = np.maximum(0.2 * np.sqrt(rng.random(clients)), 0.01)

    def uplink() -> Uplink:
        loss_db = 128.1 + 37.6 * np.log10(distance_km) + rng.normal(0, 8, clients)
        gain = db_to_linear(-loss_db)[:, None] * np.ones(subchannels)
        gain = gain * rng.exponential(1, gain.shape) if fading else gain
        caps = np.full(clients, float(dbm_to_watts(41.8)))
        width = np.full(subchannels, 5e5)
        return Uplink(width, NOISE_W_HZ / gain, caps, float(dbm_to_watts(47.0)))

    client_flop_rate = rng.uniform(1.0, 1.6, clients) * 1e12
    return SplitTraining(
        local_steps=LOCAL_STEPS,
        main=uplink(),
        federated=uplink(),
        candidates=gpt2_small(client_flop_rate)[:candidates],
    )


def measure_cells(count: int) -> None:
    """`joint` against every other solver: how much of the total delay it saves."""
    rows = []
    for fading in (False, True):
        saved: dict[str, list[float]] = {"greedy": [], **{name: [] for name in BASELINES}}
        gaps, times = [], []
        for seed in range(count):
            training = random_cell(seed, fading)
            spent, joint = seconds(partial(solve_joint, training))
            answers = {"greedy": solve_greedy(training, joint)}
            for name, blocks in BASELINES.items():
                if name != "random" and seed >= SINGLE_CELLS:
                    continue
                answers[name] = solve_blocks(training, blocks, seed, name, joint)
            for name, answer in answers.items():
                saved[name].append(100 * (1 - joint.objective / answer.objective))
            gaps.append(100 * joint.gap)
            times.append(spent)
        gains = "Rayleigh gain per subchannel" if fading else "flat gains"
        rows.append({"gains": gains, "quantity": "proven gap of joint, %", **spread(gaps)})
        rows.append({"gains": gains, "quantity": "solve time of joint, s", **spread(times)})
        rows += [
            {
                "gains": gains,
                "quantity": f"joint takes less than {name} by, %",
                "cells": len(values),
                **spread(values),
            }
            for name, values in saved.items()
        ]
    report("planning_sflllm_cells", rows, cells=count)


def measure_small(count: int) -> None:
    """`joint` and `greedy` over the optimum by brute force: 2-4 clients, up to 6 subchannels."""
    rows = []
    for fading in (False, True):
        over: dict[str, list[float]] = {name: [] for name in SMALL_SOLVERS}
        proven = 0
        for seed in range(count):
            rng = np.random.default_rng(seed)
            clients = int(rng.integers(2, 5))
            training = random_cell(seed, fading, clients, int(rng.integers(clients, 7)), 12)
            optimum = brute_force(training)
            for name, solve in SMALL_SOLVERS.items():
                answer = solve(training)
                assert answer.objective is not None
                over[name].append(100 * (answer.objective / optimum - 1))
                proven += name == "joint" and answer.status is Status.OPTIMAL
        gains = "Rayleigh gain per subchannel" if fading else "flat gains"
        rows += [
            {"gains": gains, "quantity": f"{name} above the optimum, %", **spread(excess)}
            for name, excess in over.items()
        ]
        rows.append(
            {"gains": gains, "quantity": "joint proves its optimum", "mean": proven / count}
        )
    report("planning_sflllm_small", rows, instances=count)


SMALL_SOLVERS: dict[str, Callable[[SplitTraining], Solution[SplitPlan]]] = {
    "joint": solve_joint,
    "greedy": solve_greedy,
}


def brute_force(training: SplitTraining) -> float:
    """All candidates, all assignments of both links, exact power control."""
    best = np.inf
    for candidate in training.candidates:
        main, federated = training.main_demand(candidate), training.federated_demand(candidate)
        step = main.deadline(_shortest(training.main, main))
        upload = federated.deadline(_shortest(training.federated, federated))
        best = min(best, training.total_s(candidate, step, upload))
    return best


def _shortest(link: Uplink, demand: Demand) -> float:
    owners = np.array(list(itertools.product(range(link.clients), repeat=link.subchannels)))
    mine = owners[:, None, :] == np.arange(link.clients)[:, None]
    width = np.where(mine, link.bandwidth_hz, 0.0)
    noise = np.where(mine, link.noise_to_gain, np.inf)
    return float(np.min(least_window(WaterFilling.of_slots(width, noise), link, demand)))


def convex_deadline(link: Uplink, owner: Owners, demand: Demand) -> float:
    """Power control of a fixed assignment as a convex program; NaN where Clarabel fails."""
    import cvxpy

    # Units in which every coefficient is of order one; Clarabel fails or errs without them.
    window = float(least_window(WaterFilling.of_owners(link, owner), link, demand))
    rate_unit = demand.rates_within(np.asarray(window))
    unit_s = demand.deadline(window)
    noise = link.noise_to_gain[owner, np.arange(link.subchannels)]
    mine = (owner == np.arange(link.clients)[:, None]).astype(float)
    level = np.exp(WaterFilling.of_owners(link, owner).level(rate_unit))[owner]
    snr = cvxpy.Variable(link.subchannels, nonneg=True)
    deadline = cvxpy.Variable()
    rate = (mine * link.bandwidth_hz / rate_unit[:, None]) @ cvxpy.log1p(cvxpy.multiply(level, snr))
    power = (mine * link.bandwidth_hz * noise * level) @ snr
    wait = cvxpy.inv_pos(deadline - demand.fixed_delay_s / unit_s)
    bits = demand.payload_bits / rate_unit / unit_s
    program = cvxpy.Problem(
        cvxpy.Minimize(deadline),
        [
            rate / np.log(2) >= cvxpy.multiply(bits, wait),
            cvxpy.multiply(1 / link.power_max_w, power) <= 1,
            cvxpy.sum(power) / link.power_total_w <= 1,
        ],
    )
    with warnings.catch_warnings():
        # Clarabel calls its own answer inaccurate; how inaccurate, the report says.
        warnings.simplefilter("ignore")
        try:
            program.solve(solver=cvxpy.CLARABEL)
        except cvxpy.SolverError:
            return float("nan")
    return float(deadline.value) * unit_s


def spread(values: list[float]) -> dict[str, float]:
    """Mean, quantiles and the largest."""
    low, median, high = np.quantile(values, (0.05, 0.5, 0.95))
    return {
        "mean": float(np.mean(values)),
        "p05": float(low),
        "median": float(median),
        "p95": float(high),
        "max": float(np.max(values)),
    }


def main() -> None:
    """Run the named measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("cells", "small"))
    parser.add_argument("--count", type=int, help="cells or instances (200 and 60)")
    options = parser.parse_args()
    if options.what == "cells":
        measure_cells(options.count or 200)
    else:
        measure_small(options.count or 60)


if __name__ == "__main__":
    main()
