"""One round of TSFA: what is given, what is decided, and an independent check of the decision."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airtune.allocation.bandwidth import airtime_s, client_name, require_band, require_each
from airtune.allocation.solve import Check
from airtune.errors import InputError
from airtune.quantities import FloatArray
from airtune.wireless.rate import Links

OUTAGE_FACTOR = 5.0
"""Default of `outage_latency_s` over the latency target."""


@dataclass(frozen=True)
class SparsityProblem:
    """Which ranks each client sends this round, and the bandwidth that each one gets.

        min  v sum_n w_n (energy of the ranks that n drops) + Q tau
        tau = max_n (compute_delay_n + (fixed_n + bits of the kept ranks) / r_n(b_n)),  sum b <= B

    Every client keeps at least one rank unless it is in outage: one rank over the whole band
    would end later than `outage_latency_s`. Such a client is skipped, drops everything and does
    not count in tau. Source: the online problem of Kim and Choi, arXiv 2505.00333, in our reading;
    the outage rule is ours (without it the mean latency under Rayleigh fading is infinite).

    Args:
        links: rates [client].
        bandwidth_hz: the whole band B.
        compute_delay_s: before the upload starts [client], or one for all.
        rank_energy: energy of each rank [client, rank]; NaN at the end of a row marks ranks that a
            client does not have.
        rank_payload_bits: [client, rank]; [client] or one number where a client's ranks are equal.
        latency_target_s: long-term limit of the mean latency.
        v: objective per unit of energy.
        virtual_queue: Q, objective per second of latency.
        fixed_payload_bits: sent whatever is kept [client], or one for all.
        weight: of the clients [client], or one for all; divided by their sum here.
        outage_latency_s: 5 x the target by default (NaN); inf for no outage rule.
        names: of the clients, for messages.

    Raises:
        InputError: a value outside its range, named by client.
    """

    links: Links
    bandwidth_hz: float
    compute_delay_s: FloatArray
    rank_energy: FloatArray
    rank_payload_bits: FloatArray
    latency_target_s: float
    v: float = 1.0
    virtual_queue: float = 0.0
    fixed_payload_bits: FloatArray = field(default_factory=lambda: np.zeros(1))
    weight: FloatArray = field(default_factory=lambda: np.ones(1))
    outage_latency_s: float = np.nan
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        require_band(self.bandwidth_hz)
        if not 0 < self.latency_target_s < np.inf:
            raise InputError("latency_target_s", self.latency_target_s, "a finite number > 0")
        for name in ("v", "virtual_queue"):
            if not 0 <= getattr(self, name) < np.inf:
                raise InputError(name, getattr(self, name), "a finite number >= 0")
        if self.outage_latency_s <= 0:
            raise InputError("outage_latency_s", self.outage_latency_s, "a number > 0, or .inf")
        for name in ("compute_delay_s", "fixed_payload_bits", "weight"):
            self._settle(name, np.broadcast_to(_floats(getattr(self, name)), (len(self.links),)))
        if not self.weight.max() > 0:
            raise InputError("weight", "0 for every client", "> 0 for at least one client")
        # Dividing by the largest first: the sum of huge weights would overflow.
        weight = self.weight / self.weight.max()
        object.__setattr__(self, "weight", weight / weight.sum())
        self._settle_ranks()

    def _settle_ranks(self) -> None:
        energy, payload = _floats(self.rank_energy), _floats(self.rank_payload_bits)
        if payload.ndim < 2:
            payload = np.broadcast_to(payload, (len(self.links),))[:, None]
        expected = (len(self.links), energy.shape[-1])
        if energy.shape != expected or payload.shape not in {expected, (expected[0], 1)}:
            raise InputError(
                "rank_energy, rank_payload_bits",
                f"of shapes {energy.shape}, {payload.shape}",
                f"rows for {expected[0]} clients, a column for each rank",
            )
        owned = ~np.isnan(energy)
        gaps = ~owned[:, :1].all(axis=1) | (np.diff(owned.astype(np.int8)) > 0).any(axis=1)
        require_each("rank_energy", energy[:, 0], ~gaps, self.names, "at least one rank, no gaps")
        self._settle("rank_energy", energy, owned)
        self._settle("rank_payload_bits", payload, owned)

    def _settle(self, name: str, values: FloatArray, used: NDArray[np.bool_] | None = None) -> None:
        """Refuse values that are negative or not finite, and store the array."""
        given = values
        good = np.isfinite(values) & (values >= 0)
        if used is not None:
            good = good | ~used
            values = np.broadcast_to(values, good.shape)
        if not good.all():
            rows = good.reshape(len(good), -1)
            worst = values.reshape(rows.shape)[np.arange(len(rows)), np.argmin(rows, axis=1)]
            require_each(name, worst, rows.all(axis=1), self.names)
        object.__setattr__(self, name, given)

    def name(self, client: int) -> str:
        """What messages call a client."""
        return client_name(self.names, client)

    @property
    def least_bits(self) -> FloatArray:
        """What a client sends with its smallest rank alone [client]."""
        payload = self.rank_payload_bits
        if payload.shape[1] > 1:
            payload = np.where(np.isnan(self.rank_energy), np.inf, payload)
        bits: FloatArray = self.fixed_payload_bits + payload.min(axis=1)
        return bits

    @property
    def outage_limit_s(self) -> float:
        """The latency above which a client with one rank is in outage."""
        if np.isnan(self.outage_latency_s):
            return OUTAGE_FACTOR * self.latency_target_s
        return self.outage_latency_s

    def in_outage(self) -> NDArray[np.bool_]:
        """Clients that one rank over the whole band would keep beyond `outage_limit_s` [client]."""
        time_s = self.outage_limit_s - self.compute_delay_s
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = np.where(self.least_bits > 0, self.least_bits / time_s, 0.0)
        need = self.links.bandwidth_for(np.maximum(rate, 0.0))
        # A need at the very edge of the band is rounding, not outage.
        return np.logical_or(need > self.bandwidth_hz * (1.0 + 1e-12), time_s < 0)


@dataclass(frozen=True)
class SparsityPlan:
    """The ranks that each client sends, its bandwidth, and what follows from both.

    Attributes:
        kept: [client, rank]; a skipped client keeps none.
        bandwidth_hz: [client]; a skipped client gets none.
        latency_s: when the last of the clients that are not skipped has sent everything.
        virtual_queue_next: `max(Q + latency - target, 0)`; one per client [client] where every
            client has a queue of its own.
    """

    kept: NDArray[np.bool_]
    bandwidth_hz: FloatArray
    latency_s: float
    virtual_queue_next: float | FloatArray

    @property
    def skipped(self) -> NDArray[np.bool_]:
        """Clients in outage [client]."""
        return np.logical_not(self.kept.any(axis=1))

    def kept_ranks(self) -> list[list[int]]:
        """0-based indices of each client's kept ranks, ascending."""
        return [np.flatnonzero(row).tolist() for row in self.kept]


def dropped_energy(problem: SparsityProblem, kept: NDArray[np.bool_]) -> FloatArray:
    """Energy of the ranks that each client drops, unweighted [client]."""
    gone = ~kept & ~np.isnan(problem.rank_energy)
    dropped: FloatArray = np.sum(problem.rank_energy, axis=1, where=gone)
    return dropped


def upload_delay_s(problem: SparsityProblem, plan: SparsityPlan) -> FloatArray:
    """How long each client sends [client]; 0 for a skipped one."""
    ranks = np.where(plan.kept, problem.rank_payload_bits, 0.0).sum(axis=1)
    bits = np.where(plan.skipped, 0.0, problem.fixed_payload_bits + ranks)
    return airtime_s(bits, problem.links.rate(plan.bandwidth_hz))


def finish_s(problem: SparsityProblem, plan: SparsityPlan) -> FloatArray:
    """When each client has sent everything [client]; 0 for a skipped one."""
    finish = problem.compute_delay_s + upload_delay_s(problem, plan)
    return np.where(plan.skipped, 0.0, finish)


def check_plan(problem: SparsityProblem, plan: SparsityPlan, objective: float) -> Check:
    """Recompute everything that a plan states from its ranks and bandwidths alone."""
    lost = problem.v * float(problem.weight @ dropped_energy(problem, plan.kept))
    latency = float(finish_s(problem, plan).max())
    actual = lost + problem.virtual_queue * latency
    excess = constraint_excess(problem, plan)
    return Check({**excess, "objective": relative_excess(actual, objective)})


def constraint_excess(problem: SparsityProblem, plan: SparsityPlan) -> dict[str, float]:
    """By how much a plan breaks each constraint, relative to its limit."""
    outage = problem.in_outage()
    strangers = plan.kept & np.isnan(problem.rank_energy)
    return {
        "bandwidth": float(plan.bandwidth_hz.sum()) / problem.bandwidth_hz - 1.0,
        "bandwidth of each client": -float(plan.bandwidth_hz.min()) / problem.bandwidth_hz,
        "latency": relative_excess(float(finish_s(problem, plan).max()), plan.latency_s),
        "ranks that a client does not have": float(strangers.any()),
        "clients skipped without outage": float((plan.skipped & ~outage).any()),
        "clients in outage that are not skipped": float((outage & ~plan.skipped).any()),
    }


def relative_excess(actual: float, stated: float) -> float:
    """actual / stated - 1; 0 where both are 0."""
    if actual == stated:
        return 0.0
    return actual / stated - 1.0 if stated > 0 else np.inf


def _floats(values: ArrayLike) -> FloatArray:
    return np.asarray(values, dtype=np.float64)
