"""Solvers of one round of TSFA: exact with a proven gap, a fixed sparsity, and dense.

Given the ranks that each client keeps, the best bandwidths are those of the min-max problem; so a
plan is a choice of ranks, and its latency follows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airtune.allocation.bandwidth import airtime_s, common_headroom, concave, needed_bandwidth
from airtune.allocation.solve import Solution, SolveTimer, Status, checked
from airtune.allocation.sparsity.deadline_cells import RankTrade
from airtune.allocation.sparsity.deadline_search import SAMPLE_FROM, search_deadlines
from airtune.allocation.sparsity.options import IntArray, RankOptions, rank_options
from airtune.allocation.sparsity.problem import (
    SparsityPlan,
    SparsityProblem,
    check_plan,
    dropped_energy,
    upload_delay_s,
)
from airtune.errors import InputError
from airtune.quantities import FloatArray, format_duration
from airtune.wireless.rate import FixedEfficiencyLinks, MixedLinks, ShannonLinks

PROVEN_GAP = 1e-6
"""A plan is called optimal below this gap between its objective and the proven lower bound."""
GAP = 1e-9
"""Where the search stops by default."""
GAP_OF_MANY = 9e-5
"""Where it stops by default with so many clients that it starts from a sample of them."""


def exact(problem: SparsityProblem, gap: float | None = None) -> Solution[SparsityPlan]:
    """The best ranks and bandwidths of a round, with a lower bound that holds for every plan.

    A search over intervals of the deadline, see `deadline_search`. Payloads that differ by rank
    are taken by energy per bit once there are too many subsets to list; then, and for rates from a
    table (whose bound refers to their concave envelope), the gap is what the bound leaves open.

    Args:
        gap: stop at this relative gap; by default `GAP`, and `GAP_OF_MANY` from 8,000 clients on.
    """
    watch = SolveTimer()
    active = np.flatnonzero(~problem.in_outage())
    reason = why_no_plan(problem, active)
    if reason:
        return Solution(Status.INFEASIBLE, reason, "exact")
    options = rank_options(
        problem.rank_energy[active],
        problem.rank_payload_bits[active],
        problem.fixed_payload_bits[active],
    )
    gain = problem.v * problem.weight[active]
    # Skipped clients drop everything in every plan.
    skipped = np.setdiff1d(np.arange(len(problem.links)), active)
    base = float(problem.weight[skipped] @ np.nansum(problem.rank_energy[skipped], axis=1))
    if problem.virtual_queue == 0:
        # Latency is free; of all plans that lose nothing, the one with the least latency.
        option = np.argmax(gain[:, None] * options.dropped == 0, axis=1)
        work = _Work(problem.v * base, 1)
    else:
        gap = gap if gap is not None else GAP if len(active) < SAMPLE_FROM else GAP_OF_MANY
        found = search_deadlines(_trade(problem, active, options, gain), gap)
        option = found.option
        work = _Work(problem.v * base + found.bound, found.examined, found.trace)
    plan = _with_bandwidth(problem, active, options.kept(option))
    return _solution(problem, plan, "exact", watch.seconds, work)


def fixed_sparsity(
    problem: SparsityProblem, sparsity: float = 0.5, prove: bool = True
) -> Solution[SparsityPlan]:
    """Every client drops the same share of its ranks, the weakest ones, but never all of them.

    The bandwidths are optimal for that. The lower bound is that of `exact`.

    Args:
        sparsity: share of the ranks removed, in [0, 1]; `R - round(sparsity R)` are kept of R.
        prove: whether to compute the lower bound, which takes longer than the plan.
    """
    if not 0 <= sparsity <= 1:
        raise InputError("sparsity", sparsity, "a share from 0 to 1")
    return _same_share(problem, sparsity, "fixed-sparsity", prove)


def dense(problem: SparsityProblem, prove: bool = True) -> Solution[SparsityPlan]:
    """Every client keeps all its ranks, with the best bandwidths; the bound is that of `exact`."""
    return _same_share(problem, 0.0, "dense", prove)


def why_no_plan(problem: SparsityProblem, active: IntArray) -> str:
    """The reason why a round cannot be held; empty if it can."""
    if not len(active):
        limit = format_duration(problem.outage_limit_s)
        if len(problem.links) == 1:
            return (
                f"{problem.name(0)} is in outage: with one rank and the whole band it would end "
                f"later than outage_latency_s = {limit}."
            )
        return (
            f"All {len(problem.links)} clients are in outage: with one rank and the whole band "
            f"each would end later than outage_latency_s = {limit}."
        )
    silent = (problem.links.limit_bps()[active] == 0) & (problem.least_bits[active] > 0)
    if silent.any():
        client = problem.name(int(active[np.argmax(silent)]))
        return (
            f"{client} has ranks to send but no signal, and without a finite outage_latency_s "
            "no client may be skipped."
        )
    return ""


@dataclass(frozen=True)
class _Work:
    """A lower bound on the objective of every plan, and what it took."""

    bound: float | None
    iterations: int
    trace: tuple[float, ...] = ()


def _trade(
    problem: SparsityProblem, active: IntArray, options: RankOptions, gain: FloatArray
) -> RankTrade:
    links = concave(problem.links.select(active))
    delay = problem.compute_delay_s[active]
    start = float(delay.max())
    smooth = isinstance(links, ShannonLinks | FixedEfficiencyLinks | MixedLinks)
    return RankTrade(
        links,
        options,
        gain,
        problem.virtual_queue,
        start - delay,
        start,
        problem.bandwidth_hz,
        smooth,
    )


def _same_share(
    problem: SparsityProblem, sparsity: float, solver: str, prove: bool
) -> Solution[SparsityPlan]:
    watch = SolveTimer()
    active = np.flatnonzero(~problem.in_outage())
    reason = why_no_plan(problem, active)
    if reason:
        return Solution(Status.INFEASIBLE, reason, solver)
    energy = problem.rank_energy[active]
    owned = ~np.isnan(energy)
    ranks = owned.sum(axis=1)
    count = np.maximum(ranks - np.round(sparsity * ranks).astype(int), 1)
    order = np.argsort(-energy, axis=1, kind="stable")
    kept = np.zeros(energy.shape, dtype=bool)
    np.put_along_axis(kept, order, np.arange(energy.shape[1]) < count[:, None], axis=1)
    plan = _with_bandwidth(problem, active, kept)
    seconds = watch.seconds
    bound = exact(problem).lower_bound if prove else None
    return _solution(problem, plan, solver, seconds, _Work(bound, 1))


def _with_bandwidth(
    problem: SparsityProblem, active: IntArray, kept_active: NDArray[np.bool_]
) -> SparsityPlan:
    """The plan with these ranks of the active clients and the best bandwidths for them."""
    kept = np.zeros(problem.rank_energy.shape, dtype=bool)
    kept[active] = kept_active
    bandwidth = np.zeros(len(problem.links))
    each = np.broadcast_to(problem.rank_payload_bits, kept.shape)[active]
    bits = problem.fixed_payload_bits[active] + np.sum(each, axis=1, where=kept_active)
    bandwidth[active], latency = fastest_split(problem, active, bits)
    queue = problem.virtual_queue + latency - problem.latency_target_s
    return SparsityPlan(kept, bandwidth, latency, max(queue, 0.0))


def fastest_split(
    problem: SparsityProblem, active: IntArray, bits: FloatArray
) -> tuple[FloatArray, float]:
    """The bandwidths [active] with which these payloads [active] arrive first, and when [s]."""
    links, delay = problem.links.select(active), problem.compute_delay_s[active]
    slack = delay.max() - delay
    headroom = common_headroom(links, bits, slack, problem.bandwidth_hz)
    bandwidth, _ = needed_bandwidth(links, bits, headroom + slack)
    bandwidth = bandwidth * min(problem.bandwidth_hz / max(float(bandwidth.sum()), 1e-300), 1.0)
    return bandwidth, float((delay + airtime_s(bits, links.rate(bandwidth))).max())


def _solution(
    problem: SparsityProblem, plan: SparsityPlan, solver: str, seconds: float, work: _Work
) -> Solution[SparsityPlan]:
    """The plan with what it costs, what is proven about that, and the independent check."""
    dropped = float(problem.weight @ dropped_energy(problem, plan.kept))
    objective = problem.v * dropped + problem.virtual_queue * plan.latency_s
    bound = None if work.bound is None else min(work.bound, objective)
    proven = bound is not None and objective - bound <= PROVEN_GAP * bound
    solution = Solution(
        Status.OPTIMAL if proven else Status.FEASIBLE,
        _message(problem, plan, dropped, objective, bound),
        solver,
        plan,
        objective,
        bound,
        work.iterations,
        seconds,
        work.trace,
    )
    return checked(solution, lambda found: check_plan(problem, found, objective))


def _message(
    problem: SparsityProblem,
    plan: SparsityPlan,
    dropped: float,
    objective: float,
    bound: float | None,
) -> str:
    """One sentence: how much is sent, how long it takes, who is left out, how good that is."""
    energy = float(problem.weight @ np.nansum(problem.rank_energy, axis=1))
    share = dropped / energy if energy else 0.0
    skipped = int(plan.skipped.sum())
    out = f", {skipped} of {len(plan.kept)} clients in outage" if skipped else ""
    claim, above = "Feasible", "; no bound is proven"
    if bound is not None:
        gap = objective / bound - 1.0 if bound > 0 else 0.0
        claim, above = (
            ("Optimal", "")
            if gap <= PROVEN_GAP
            else ("Feasible", f"; at most {gap:.1e} above the optimum")
        )
    ranks = int(plan.kept.sum())
    return (
        f"{claim}: {ranks} ranks sent in {format_duration(plan.latency_s)}, "
        f"{share:.1%} of the energy dropped{out}; {_what_binds(problem, plan)}{above}."
    )


def _what_binds(problem: SparsityProblem, plan: SparsityPlan) -> str:
    """Who ends last, and whether more band would help."""
    upload = upload_delay_s(problem, plan)
    finish = np.where(plan.skipped, 0.0, problem.compute_delay_s + upload)
    last = int(np.argmax(finish))
    if not upload[last] > 0:
        return f"the delay of {problem.name(last)} binds"
    together = int(np.count_nonzero(finish >= plan.latency_s * (1.0 - 1e-9)))
    who = f"{together} clients end together" if together > 1 else f"{problem.name(last)} ends last"
    return f"{who} and the band binds"
