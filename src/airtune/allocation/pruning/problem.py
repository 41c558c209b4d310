"""Joint pruning and bandwidth: the problem, its plan, and the check of a plan.

    min over rho, b of tau   s.t., for every client n,
        f_n + a0_n + (1 - rho_n) a1_n + (s0_n + (1 - rho_n) s1_n) / r_n(b_n) <= tau,
        sum_n b_n <= B,   rho_min,n <= rho_n <= rho_max,   sum_n w_n rho_n <= Gamma

in the manner of JCPBA (Pang et al., arXiv 2602.01024): a pruned client computes less and sends
less; Gamma bounds the pruning error of the convergence analysis. Left out: downlink, energy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from airtune.allocation.bandwidth import airtime_s, client_name, require_band, require_each
from airtune.allocation.solve import (
    OPTIMALITY,
    Bracket,
    Check,
    Solution,
    Status,
    checked,
)
from airtune.errors import InputError
from airtune.quantities import FloatArray, format_duration
from airtune.wireless.cqi import CqiLinks
from airtune.wireless.rate import ConcaveLinks, Index, Links


@dataclass(frozen=True)
class PruningPlan:
    """What every client removes and sends with, and when the round ends.

    Attributes:
        pruning_rate: share removed [client].
        bandwidth_hz: [client].
        latency_s: when the last upload ends.
        price_hz: at the optimum, how much bandwidth one unit of weighted pruning is worth; 0
            where the budget is not short, inf where no bandwidth helps, NaN from heuristics. From
            it the certificate of the lower bound can be recomputed.
    """

    pruning_rate: FloatArray
    bandwidth_hz: FloatArray
    latency_s: float
    price_hz: float = math.nan


_COLUMNS = (
    "weight",
    "fixed_delay_s",
    "fixed_compute_s",
    "prunable_compute_s",
    "fixed_bits",
    "prunable_bits",
)


@dataclass(frozen=True)
class PruningProblem:
    """What JCPBA decides on.

    Args:
        links: concave rates [client].
        bandwidth_hz: the whole band B, > 0.
        pruning_budget: Gamma, >= 0.
        pruning_rate_max: rho_max, in [0, 1].
        weight: w [client], >= 0; divided by their sum here.
        fixed_delay_s: f, before computing [client], >= 0.
        fixed_compute_s, prunable_compute_s: a0 and a1, computing [client], >= 0.
        fixed_bits, prunable_bits: s0 and s1 [client], >= 0.
        pruning_rate_min: memory floors rho_min [client], in [0, rho_max].
        names: of the clients, for messages.
        teeth: the rates as they are, where `links` is the concave envelope of a table's. Solvers
            search on the envelope, so their bounds hold for it; plans send at these rates.

    Raises:
        InputError: a value outside these ranges, named by client.
    """

    links: ConcaveLinks
    bandwidth_hz: float
    pruning_budget: float
    pruning_rate_max: float
    weight: FloatArray
    fixed_delay_s: FloatArray
    fixed_compute_s: FloatArray
    prunable_compute_s: FloatArray
    fixed_bits: FloatArray
    prunable_bits: FloatArray
    pruning_rate_min: FloatArray
    names: Sequence[str] = ()
    teeth: CqiLinks | None = None

    def __post_init__(self) -> None:
        require_band(self.bandwidth_hz)
        if not self.pruning_budget >= 0:
            raise InputError("pruning_budget", self.pruning_budget, "a number >= 0")
        if not 0 <= self.pruning_rate_max <= 1:
            raise InputError("pruning_rate_max", self.pruning_rate_max, "a number from 0 to 1")
        for name in _COLUMNS:
            values = self._column(name)
            require_each(name, values, np.isfinite(values) & (values >= 0), self.names)
        floor = self._column("pruning_rate_min")
        fits = (floor >= 0) & (floor <= self.pruning_rate_max)
        allowed = f"a number from 0 to pruning_rate_max ({self.pruning_rate_max:g})"
        require_each("pruning_rate_min", floor, fits, self.names, allowed)
        total = float(self.weight.sum())
        if not 0 < total < np.inf:
            raise InputError("weight", total, "finite and > 0 in sum")
        object.__setattr__(self, "weight", self.weight / total)

    def _column(self, name: str) -> FloatArray:
        values = np.broadcast_to(
            np.asarray(getattr(self, name), dtype=np.float64), (len(self.links),)
        )
        object.__setattr__(self, name, values)
        return values

    def __len__(self) -> int:
        return len(self.links)

    def name(self, client: int) -> str:
        """What messages call a client."""
        return client_name(self.names, client)

    @property
    def sending(self) -> Links:
        """The rates at which the clients send."""
        return self.links if self.teeth is None else self.teeth

    def payload_bits(self, pruning_rate: FloatArray) -> FloatArray:
        """`s0 + (1 - rho) s1` [client]."""
        return self.fixed_bits + (1.0 - pruning_rate) * self.prunable_bits

    @property
    def earliest_start_s(self) -> FloatArray:
        """When an upload would start if all prunable computing were gone, `f + a0` [client]."""
        return self.fixed_delay_s + self.fixed_compute_s

    def start_s(self, pruning_rate: FloatArray) -> FloatArray:
        """When each upload starts, `f + a0 + (1 - rho) a1` [client]."""
        return self.earliest_start_s + (1.0 - pruning_rate) * self.prunable_compute_s

    def finish_s(self, pruning_rate: FloatArray, bandwidth_hz: FloatArray) -> FloatArray:
        """When each upload ends [client]; inf where it never does."""
        bits = self.payload_bits(pruning_rate)
        return self.start_s(pruning_rate) + airtime_s(bits, self.sending.rate(bandwidth_hz))

    def pruned(self, pruning_rate: FloatArray) -> float:
        """`sum w rho`, what the budget limits."""
        return float(np.dot(self.weight, pruning_rate))

    def select(self, index: Index) -> "PruningProblem":
        """Some of the clients with their share of the band, at the same pruning budget."""
        chosen = {name: getattr(self, name)[index] for name in _COLUMNS}
        links = self.links.select(index)
        return replace(
            self,
            links=links,
            bandwidth_hz=self.bandwidth_hz * len(links) / len(self),
            pruning_rate_min=self.pruning_rate_min[index],
            names=(),
            teeth=None if self.teeth is None else self.teeth.select(index),
            **chosen,
        )

    @property
    def kept_least(self) -> float:
        """The least share that a client may keep, `1 - rho_max`."""
        return 1.0 - self.pruning_rate_max

    @property
    def kept_most(self) -> FloatArray:
        """The largest share that each client may keep, `1 - rho_min` [client]."""
        return 1.0 - self.pruning_rate_min

    def lacking(self, kept: FloatArray) -> float:
        """`(1 - Gamma) - sum w k`, what the kept shares [client] lack to hold the budget.

        The same as `sum w rho - Gamma`, with the digits of small kept shares.
        """
        return 1.0 - self.pruning_budget - float(np.dot(self.weight, kept))

    def keeps_budget(self, kept: FloatArray) -> bool:
        """Whether the kept shares [client] hold the budget, but for the rounding of a sum."""
        gamma = self.pruning_budget
        rounding = 1e-12 * min(gamma, abs(1.0 - gamma)) + 4e-16 * float(self.weight @ kept)
        return self.lacking(kept) <= rounding

    def rate_that_keeps(self, kept: FloatArray) -> FloatArray:
        """The pruning rates that keep these shares, or at most 1.2e-16 less [client].

        A rate rounded down would keep more than was planned, which near 1 is much of what is
        kept, and the upload would be late; so rates are rounded up.
        """
        rate = 1.0 - kept
        rate = np.where(1.0 - rate > kept, np.nextafter(rate, 2.0), rate)
        return np.clip(rate, self.pruning_rate_min, self.pruning_rate_max)


def check_pruning(problem: PruningProblem, plan: PruningPlan) -> Check:
    """Recompute every constraint from the definition; nothing of a solver is used."""
    rho, share = plan.pruning_rate, plan.bandwidth_hz
    finish = problem.finish_s(rho, share)
    latest = float(np.max(finish))
    late = latest - plan.latency_s
    return Check(
        {
            "bandwidth": float(np.sum(share)) / problem.bandwidth_hz - 1.0,
            "bandwidth of each client": float(np.max(-share)) / problem.bandwidth_hz,
            "pruning budget": float(np.sum(problem.weight * rho)) - problem.pruning_budget,
            "pruning_rate_max": float(np.max(rho)) - problem.pruning_rate_max,
            "pruning_rate_min": float(np.max(problem.pruning_rate_min - rho)),
            "latency": 0.0 if late <= 0 else late / latest,
        }
    )


def conclude(
    problem: PruningProblem,
    solver: str,
    pruning_rate: FloatArray,
    bandwidth_hz: FloatArray,
    bracket: Bracket,
    seconds: float,
    price_hz: float = math.nan,
) -> Solution[PruningPlan]:
    """A solver's decisions as a checked solution; `bracket.low` is the proven bound."""
    latency = float(problem.finish_s(pruning_rate, bandwidth_hz).max())
    bound = min(bracket.low, latency)
    optimal = latency - bound <= OPTIMALITY * latency
    plan = PruningPlan(pruning_rate, bandwidth_hz, latency, price_hz)
    solution = Solution(
        status=Status.OPTIMAL if optimal else Status.FEASIBLE,
        message=_message(problem, plan, "Optimal" if optimal else "Feasible"),
        solver=solver,
        plan=plan,
        objective=latency,
        lower_bound=bound,
        iterations=bracket.iterations,
        solve_time_s=seconds,
        trace=bracket.trace,
    )
    return checked(solution, lambda found: check_pruning(problem, found))


def _message(problem: PruningProblem, plan: PruningPlan, claim: str) -> str:
    """One sentence: who ends last, and which constraints bind."""
    finish = problem.finish_s(plan.pruning_rate, plan.bandwidth_hz)
    together = int(np.count_nonzero(finish >= plan.latency_s * (1.0 - 1e-9)))
    last = int(np.argmax(finish))
    who = (
        f"{together} of {len(problem)} clients end together"
        if together > 1
        else f"{problem.name(last)} ends last"
    )
    sends = problem.payload_bits(plan.pruning_rate)[last] > 0
    pruned = problem.pruned(plan.pruning_rate)
    budget_is_used = pruned >= problem.pruning_budget * (1.0 - 1e-6)
    most_pruned = plan.pruning_rate[last] >= problem.pruning_rate_max * (1.0 - 1e-9)
    limits = [
        *(["the band"] if sends else []),
        *(["the pruning budget"] if budget_is_used else []),
        *(["pruning_rate_max"] if most_pruned and not budget_is_used else []),
    ]
    binds = " and ".join(limits) or f"the delay of {problem.name(last)}"
    verb = "bind" if len(limits) > 1 else "binds"
    hull = "" if problem.teeth is None else "; the bound is that of the rates' concave envelope"
    return f"{claim}: {who}, after {format_duration(plan.latency_s)}; {binds} {verb}{hull}."


def refuse_impossible(problem: PruningProblem, solver: str) -> Solution[Any] | None:
    """The answer where no deadline helps, or None: a dead link, or floors above the budget."""
    stuck = deaf(problem) & ((problem.fixed_bits > 0) | (problem.pruning_rate_max < 1.0))
    if stuck.any():
        name = problem.name(int(np.argmax(stuck)))
        message = f"{name} has a payload but no signal: its link carries nothing at any bandwidth."
        return Solution(Status.INFEASIBLE, message, solver)
    if problem.keeps_budget(1.0 - least_pruning_rate(problem)):
        return None
    least = problem.pruned(least_pruning_rate(problem))
    floors_fit = problem.keeps_budget(problem.kept_most)
    cause = "clients without a signal" if floors_fit else "pruning_rate_min"
    message = (
        f"The pruning budget of {problem.pruning_budget:.4g} cannot be kept: {cause} alone "
        f"uses {least:.4g} of it (sum of weight x pruning rate)."
    )
    return Solution(Status.INFEASIBLE, message, solver)


def deaf(problem: PruningProblem) -> Any:
    """Clients with something to send over a link that carries nothing, bool [client]."""
    bits = problem.fixed_bits + problem.prunable_bits
    return (problem.links.limit_bps() <= 0) & (bits > 0)


def least_pruning_rate(problem: PruningProblem) -> FloatArray:
    """What every client must be pruned at any deadline: its floor; all of it without a signal."""
    return np.where(deaf(problem), 1.0, problem.pruning_rate_min)


def best_pruning(problem: PruningProblem, rate_bps: FloatArray) -> tuple[float, FloatArray]:
    """The smallest deadline at fixed rates, and the least pruning that keeps it.

    At rate r client n that keeps the share k finishes at `F_n + k G_n` with `F = f + a0 + s0/r`
    and `G = a1 + s1/r`, so `sum w k(tau)` is a concave rising polygon: Newton's iteration from
    its left end reaches the budget in finitely many steps. A client without a rate must be pruned
    to nothing; call `refuse_impossible` first.

    Args:
        rate_bps: [client], bit/s.

    Returns:
        The deadline [s], and pruning rates [client].
    """
    silent = (rate_bps <= 0) & (problem.fixed_bits + problem.prunable_bits > 0)
    bare = problem.earliest_start_s + airtime_s(problem.fixed_bits, rate_bps)
    gain = problem.prunable_compute_s + airtime_s(problem.prunable_bits, rate_bps)
    bare, gain = np.where(silent, problem.earliest_start_s, bare), np.where(silent, 0.0, gain)
    most = np.where(silent, 0.0, problem.kept_most)
    least = np.minimum(most, problem.kept_least)

    def shares(deadline_s: float) -> FloatArray:
        with np.errstate(divide="ignore", invalid="ignore"):
            # 0 / 0 is a client that pruning does not help: fmin passes over the NaN.
            return np.maximum(np.fmin((deadline_s - bare) / gain, most), least)

    deadline = float(np.max(bare + least * gain))
    for _ in range(_MAX_CORNERS):
        kept = shares(deadline)
        rising = (kept < most) & (problem.weight > 0)
        if problem.keeps_budget(kept) or not rising.any():
            break
        step = problem.lacking(kept) / float(np.sum(problem.weight[rising] / gain[rising]))
        deadline = max(deadline + step, float(np.nextafter(deadline, np.inf)))
    return deadline, problem.rate_that_keeps(shares(deadline))


_MAX_CORNERS = 10_000
# Newton passes each corner of the polygon at most once, and in practice about ten in all.
