"""TSFA's offline step: the structural LoRA rank, from energies measured in a short proxy run.

    J(r) = a truncated(r) + b dropped(r) + c covariance(r)

All three are shares of ||dW||^2: what rank r cannot represent, what the channel forces the clients
to drop of it, and the covariance `sum w B_n A_n - (sum w B)(sum w A)` that averaging the factors
leaves out. A larger rank represents more, but its ranks cost more bits, so that more is dropped.
Source: Kim and Choi, arXiv 2505.00333, the offline problem, in our reading.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from airtune.allocation.bandwidth import concave, needed_bandwidth
from airtune.errors import InfeasibleError, InputError
from airtune.quantities import FloatArray, format_duration
from airtune.wireless.rate import Links


@dataclass(frozen=True)
class RankMeasurement:
    """What a proxy run measured at one structural rank.

    Attributes:
        rank: r.
        truncated: share of ||dW||^2 that no update of this rank holds, in [0, 1].
        rank_energy: share of ||dW||^2 in each of the ranks [rank].
        covariance: the covariance term as a share of ||dW||^2, >= 0.
        rank_payload_bits: what one rank of all matrices costs.
        compute_delay_s: of each client at this rank [client].
        fixed_payload_bits: sent whatever is kept.
    """

    rank: int
    truncated: float
    rank_energy: FloatArray
    covariance: float
    rank_payload_bits: float
    compute_delay_s: FloatArray
    fixed_payload_bits: float = 0.0

    def __post_init__(self) -> None:
        for name in ("truncated", "covariance", "rank_payload_bits", "fixed_payload_bits"):
            if not 0 <= getattr(self, name) < np.inf:
                where = f"{name} at rank {self.rank}"
                raise InputError(where, getattr(self, name), "a finite number >= 0")
        energy = np.asarray(self.rank_energy, dtype=np.float64)
        if energy.shape != (self.rank,) or not (np.isfinite(energy) & (energy >= 0)).all():
            allowed = f"{self.rank} finite numbers >= 0"
            raise InputError(f"rank_energy at rank {self.rank}", energy.tolist(), allowed)
        object.__setattr__(self, "rank_energy", energy)


@dataclass(frozen=True)
class RankScore:
    """J of one structural rank and its three terms, already weighted.

    `kept` ranks are what the mean channel leaves of them; `in_time` is False where even one is too
    much for the latency target.
    """

    rank: int
    kept: int
    truncated: float
    dropped: float
    covariance: float
    in_time: bool

    @property
    def total(self) -> float:
        """J(r)."""
        return self.truncated + self.dropped + self.covariance

    @property
    def sparsity(self) -> float:
        """Share of the ranks that is dropped."""
        return 1.0 - self.kept / self.rank


@dataclass(frozen=True)
class RankChoice:
    """The best rank, and the scores of all of them in ascending rank."""

    best: RankScore
    scores: tuple[RankScore, ...]


def choose_rank(
    measurements: Sequence[RankMeasurement],
    mean_links: Links,
    bandwidth_hz: float,
    latency_target_s: float,
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> RankChoice:
    """The structural rank of least J; the smaller one among equals.

    The mean channel forces the sparsity: all clients keep the same number of ranks, the largest
    with which all clients end by the target.

    Args:
        measurements: one for each candidate, usually ranks 1, 2, 4, 8, 16, 32.
        mean_links: links of the clients at the mean channel [client].
        weights: a, b, c of J.

    Raises:
        InputError: no measurement, or two of the same rank.
        InfeasibleError: not even one rank of any candidate arrives by the target.
    """
    ordered = sorted(measurements, key=lambda measured: measured.rank)
    if len({measured.rank for measured in ordered}) < max(len(ordered), 1):
        ranks = [measured.rank for measured in ordered]
        raise InputError("the measured ranks", ranks, "at least one, and each only once")
    links = concave(mean_links)
    scores = tuple(
        _score(measured, _kept(measured, links, bandwidth_hz, latency_target_s), weights)
        for measured in ordered
    )
    in_time = [score for score in scores if score.in_time]
    if not in_time:
        raise InfeasibleError(
            f"Not even one rank of any client arrives within {format_duration(latency_target_s)} "
            "over the mean channel: raise latency_target_s or bandwidth_hz."
        )
    return RankChoice(min(in_time, key=lambda score: score.total), scores)


def _kept(
    measured: RankMeasurement, links: Links, bandwidth_hz: float, latency_target_s: float
) -> int:
    """The most ranks that every client can send by the target; 0 if not even one."""
    time_s = np.broadcast_to(latency_target_s - measured.compute_delay_s, (len(links),))
    if (time_s <= 0).any():
        return 0
    low, high = 0, measured.rank
    while low < high:
        middle = (low + high + 1) // 2
        bits = measured.fixed_payload_bits + middle * measured.rank_payload_bits
        used = needed_bandwidth(links, np.full(len(links), bits), time_s)[0].sum()
        low, high = (middle, high) if used <= bandwidth_hz else (low, middle - 1)
    return low


def _score(measured: RankMeasurement, kept: int, weights: tuple[float, float, float]) -> RankScore:
    falling = np.sort(measured.rank_energy)[::-1]
    return RankScore(
        measured.rank,
        max(kept, 1),
        weights[0] * measured.truncated,
        weights[1] * float(falling[max(kept, 1) :].sum()),
        weights[2] * measured.covariance,
        kept > 0,
    )
