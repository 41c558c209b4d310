"""The published iteration for split training: block by block, until the total settles.

In the manner of SflLLM (arXiv 2504.14667, its iterative algorithm): subchannels by a greedy
heuristic, powers by a convex program, split point and rank by exhaustive search. The paper's code
and parameter tables are not public, so no figure reproduces theirs.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from airtune.allocation.solve import Solution, Status, Stopwatch
from airtune.allocation.split.joint import NoPlanError, finished, require_reachable, solve_joint
from airtune.allocation.split.problem import (
    LinkPlan,
    SplitCandidate,
    SplitPlan,
    SplitTraining,
    plan_delay_s,
)
from airtune.allocation.subchannels.assignment import even_density, even_owners, greedy_owners
from airtune.allocation.subchannels.power import Demand, Owners, Uplink, control_power

SETTLED = 1e-9
"""The iteration ends when a pass lowers the total by less than this share."""


def solve_greedy(
    training: SplitTraining, joint: Solution[SplitPlan] | None = None
) -> Solution[SplitPlan]:
    """The published iteration; a block is accepted only if the total does not rise.

    Blocks, in this order: greedy subchannels (with exact powers) of the main link and of the
    federated link, powers, split point, rank. The start is the first candidate, subchannels
    assigned round-robin, powers spread evenly. The trace holds the total after every block. The
    bound is that of the joint search, which is run for it unless its answer is given.
    """
    watch = Stopwatch()
    try:
        require_reachable(training)
    except NoPlanError as error:
        return Solution(Status.INFEASIBLE, str(error), "greedy", solve_time_s=watch.seconds)
    descent = _Descent(training)
    before = np.inf
    while before == np.inf or descent.total < before * (1 - SETTLED):
        before = descent.total
        descent.one_pass()
    seconds = watch.seconds
    bound = (joint or solve_joint(training)).lower_bound
    trace = tuple(total for total in descent.trace if np.isfinite(total))
    return finished(training, descent.plan, "greedy", seconds, bound, trace)


class _Descent:
    """The state of the iteration: a plan whose total never rises."""

    def __init__(self, training: SplitTraining) -> None:
        self._training = training
        demands = self._demands(training.candidates[0])
        main, federated = (even_owners(*demands[name]) for name in ("main", "federated"))
        self.plan = SplitPlan(
            0,
            LinkPlan(main, even_density(training.main, main)),
            LinkPlan(federated, even_density(training.federated, federated)),
        )
        self.total = plan_delay_s(training, self.plan)
        self.trace = [self.total]

    def one_pass(self) -> None:
        """Every block once."""
        demands = self._demands(self._training.candidates[self.plan.candidate])
        for name, (link, demand) in demands.items():
            self._allocate(name, link, greedy_owners(link, demand), demand)
        for name, (link, demand) in demands.items():
            self._allocate(name, link, getattr(self.plan, name).owner, demand)
        self._search(fixed="rank")
        self._search(fixed="split_point")

    def _demands(self, candidate: SplitCandidate) -> dict[str, tuple[Uplink, Demand]]:
        """A candidate's demand on each link, or the largest of all candidates where it has none.

        A link left without power would make the delay of every other candidate infinite.
        """
        training = self._training
        loudest = max(training.candidates, key=lambda one: float(np.max(one.activation_bits)))
        largest = max(training.candidates, key=lambda one: one.adapter_bits)
        sends = bool(np.any(training.main_demand(candidate).payload_bits > 0))
        main = training.main_demand(candidate if sends else loudest)
        federated = training.federated_demand(candidate if candidate.adapter_bits > 0 else largest)
        return {
            "main": (training.main, main),
            "federated": (training.federated, federated),
        }

    def _allocate(self, name: str, link: Uplink, owner: Owners, demand: Demand) -> None:
        """These owners with exact powers on one link."""
        psd = control_power(link, owner, demand).psd_w_per_hz
        change: dict[str, Any] = {name: LinkPlan(owner, psd)}
        self._try(replace(self.plan, **change))

    def _search(self, fixed: str) -> None:
        """Exhaustive search of one of split point and rank; the other and the links stay."""
        candidates = self._training.candidates
        now = getattr(candidates[self.plan.candidate], fixed)
        plans = [
            replace(self.plan, candidate=index)
            for index, candidate in enumerate(candidates)
            if getattr(candidate, fixed) == now
        ]
        self._try(min(plans, key=lambda plan: plan_delay_s(self._training, plan)))

    def _try(self, plan: SplitPlan) -> None:
        """Accept a plan if it is no slower."""
        total = plan_delay_s(self._training, plan)
        if total <= self.total:
            self.plan, self.total = plan, total
        self.trace.append(self.total)
