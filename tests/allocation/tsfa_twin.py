"""TSFA in plain words, for tests: every subset of ranks, Lambert's W, bisection on the deadline."""

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import lambertw

from airtune.allocation.sparsity.problem import SparsityProblem
from airtune.quantities import FloatArray
from airtune.wireless.rate import FixedEfficiencyLinks, Links, MixedLinks, ShannonLinks

Inverse = Callable[[FloatArray], FloatArray]


def lambert_bandwidth(cn0_hz: FloatArray, rate_bps: FloatArray) -> FloatArray:
    """`-R ln2 / (W_-1(-th e^-th) + th)` with th = R ln2 / cn0; inf where th >= 1."""
    theta = np.minimum(rate_bps * np.log(2.0) / cn0_hz, 1.0)
    branch = lambertw(-theta * np.exp(-theta), k=-1).real
    with np.errstate(divide="ignore"):
        return np.where(theta < 1.0 - 1e-12, -rate_bps * np.log(2.0) / (branch + theta), np.inf)


def needed(problem: SparsityProblem, client: int, rate_bps: FloatArray) -> FloatArray:
    """Bandwidth of one client, by its own formula."""
    links: Links = problem.links
    if isinstance(links, MixedLinks):
        links = links.fixed if links.is_fixed[client] else links.shannon
    if isinstance(links, ShannonLinks):
        return lambert_bandwidth(links.cn0_hz[client], rate_bps)
    assert isinstance(links, FixedEfficiencyLinks)
    bandwidth_hz: FloatArray = rate_bps / links.spectral_efficiency_bps_hz[client]
    return bandwidth_hz


def latencies(problem: SparsityProblem, clients: list[int], bits: FloatArray) -> FloatArray:
    """The least common deadline of each row of payloads [plan, client], by bisection."""
    delay = problem.compute_delay_s[clients]
    low = np.full(len(bits), delay.max())
    high = low + 1.0

    def fits(deadline: FloatArray) -> NDArray[np.bool_]:
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = np.where(bits > 0, bits / (deadline[:, None] - delay), 0.0)
        used = np.zeros(len(bits))
        for column, client in enumerate(clients):
            busy = bits[:, column] > 0
            used[busy] += needed(problem, client, rate[busy, column])
        return used <= problem.bandwidth_hz

    while not (good := fits(high)).all():
        high = np.where(good, high, low + 2.0 * (high - low))
    for _ in range(52):
        middle = 0.5 * (low + high)
        good = fits(middle)
        low, high = np.where(good, low, middle), np.where(good, middle, high)
    return high


def outage(problem: SparsityProblem, client: int) -> bool:
    """One rank over the whole band, with the rate written out."""
    energy = problem.rank_energy[client]
    count = int(np.sum(~np.isnan(energy)))
    payload = np.broadcast_to(problem.rank_payload_bits[client], energy.shape)[:count]
    bits = problem.fixed_payload_bits[client] + payload.min()
    rate = float(problem.links.rate(np.full(len(problem.links), problem.bandwidth_hz))[client])
    time_s = bits / rate if bits > 0 and rate > 0 else (np.inf if bits > 0 else 0.0)
    return bool(problem.compute_delay_s[client] + time_s > 5.0 * problem.latency_target_s)


def subsets(problem: SparsityProblem, client: int) -> list[tuple[float, float]]:
    """(bits, weighted dropped energy) of every non-empty set of ranks."""
    energy = problem.rank_energy[client]
    payload = np.broadcast_to(problem.rank_payload_bits[client], energy.shape)[~np.isnan(energy)]
    energy = energy[~np.isnan(energy)]
    found = []
    for flags in itertools.product([0, 1], repeat=len(energy)):
        kept = np.array(flags, dtype=bool)
        if kept.any():
            bits = problem.fixed_payload_bits[client] + payload[kept].sum()
            found.append((float(bits), float(problem.weight[client] * energy[~kept].sum())))
    return found


def undominated(options: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Without the sets that another one beats in bits and in energy."""
    kept: list[tuple[float, float]] = []
    for bits, dropped in sorted(options):
        if not kept or dropped < kept[-1][1]:
            kept.append((bits, dropped))
    return kept


def brute_force(problem: SparsityProblem, below: float = np.inf) -> float:
    """The least objective over all plans.

    Plans whose latency alone in the band, a lower bound, already costs `below` are not looked at.
    """
    active = [n for n in range(len(problem.links)) if not outage(problem, n)]
    base = sum(
        problem.weight[n] * np.nansum(problem.rank_energy[n])
        for n in range(len(problem.links))
        if n not in active
    )
    rate = problem.links.rate(np.full(len(problem.links), problem.bandwidth_hz))[active]
    lists = [undominated(subsets(problem, n)) for n in active]
    plans = np.array(list(itertools.product(*lists)))
    bits, loss = plans[..., 0], problem.v * (base + plans[..., 1].sum(axis=1))
    alone = (problem.compute_delay_s[active] + bits / rate).max(axis=1)
    hopeful = loss + problem.virtual_queue * alone <= below * (1.0 + 1e-9)
    latency = latencies(problem, active, bits[hopeful])
    return float((loss[hopeful] + problem.virtual_queue * latency).min())
