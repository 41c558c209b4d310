"""Other solvers of split training, to compare with the joint search: an iteration, and baselines.

The published iteration goes block by block, until the total settles. In the manner of SflLLM (arXiv
2504.14667, its iterative algorithm): subchannels by a greedy heuristic, powers by a convex program,
split point and rank by exhaustive search. The paper's code and parameter tables are not public, so
no figure reproduces theirs.

The baselines make every decision at random, or one, and any mixture of blocks; the paper compares
with random subchannels, powers, split points and ranks. Every baseline uses the clients' whole
power: unused power would make it weaker than any plan.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from airtune.allocation.solve import Solution, SolveTimer, Status
from airtune.allocation.split.joint import NoPlanError, finished, require_reachable, solve_joint
from airtune.allocation.split.problem import (
    LinkPlan,
    SplitCandidate,
    SplitPlan,
    SplitTraining,
    plan_delay_s,
)
from airtune.allocation.subchannels.assignment import (
    even_density,
    even_owners,
    greedy_owners,
    random_owners,
    spread_power,
)
from airtune.allocation.subchannels.link import LinkSolver
from airtune.allocation.subchannels.power import Demand, Owners, Uplink, control_power
from airtune.errors import InputError
from airtune.quantities import FloatArray
from airtune.seeds import generator

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
    watch = SolveTimer()
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


@dataclass(frozen=True)
class Blocks:
    """How each block of the decision is made.

    Attributes:
        subchannels: `joint` (together with the power), `greedy` or `random`.
        power: `exact`, or `random`: every client's power, spread at random over its subchannels.
        split_point: `search` over all, or `random`.
        rank: `search` over all, or `random`.
    """

    subchannels: str = "joint"
    power: str = "exact"
    split_point: str = "search"
    rank: str = "search"

    def __post_init__(self) -> None:
        for block, ways in WAYS.items():
            if getattr(self, block) not in ways:
                raise InputError(
                    f"blocks.{block}", getattr(self, block), f"one of {', '.join(ways)}"
                )


WAYS = {
    "subchannels": ("joint", "greedy", "random"),
    "power": ("exact", "random"),
    "split_point": ("search", "random"),
    "rank": ("search", "random"),
}
BASELINES = {
    "random": Blocks("random", "random", "random", "random"),
    "random-subchannels": Blocks(subchannels="random"),
    "random-power": Blocks(power="random"),
    "random-split-point": Blocks(split_point="random"),
    "random-rank": Blocks(rank="random"),
}
"""The published baselines: everything at random, or one decision at random and the others best."""


def solve_blocks(
    training: SplitTraining,
    blocks: Blocks,
    seed: int,
    solver: str,
    joint: Solution[SplitPlan] | None = None,
    purpose: str = "split",
) -> Solution[SplitPlan]:
    """A plan with each block decided in the chosen way.

    The bound is that of the joint search, which is run for it unless its answer is given. Random
    choices are drawn from `seed` for this `purpose`.
    """
    joint = joint or solve_joint(training)
    if joint.plan is None:
        return replace(joint, solver=solver)
    watch = SolveTimer()
    kept = _candidates(training, blocks, seed, purpose)
    part = replace(training, candidates=tuple(training.candidates[index] for index in kept))
    if blocks.subchannels == "joint" and blocks.power == "exact":
        best = solve_joint(part).plan
        assert best is not None
    else:
        best = _best_plan(part, blocks, seed, purpose)
    plan = replace(best, candidate=kept[best.candidate])
    return finished(training, plan, solver, watch.seconds, joint.lower_bound)


def _candidates(training: SplitTraining, blocks: Blocks, seed: int, purpose: str) -> list[int]:
    """Indices of the candidates that random choices of split point and rank leave."""
    kept = list(range(len(training.candidates)))
    for block in ("split_point", "rank"):
        values = [getattr(training.candidates[index], block) for index in kept]
        if getattr(blocks, block) == "random":
            chosen = generator(seed, f"{purpose} {block}").choice(sorted(set(values)))
            kept = [index for index, value in zip(kept, values, strict=True) if value == chosen]
    return kept


def _best_plan(training: SplitTraining, blocks: Blocks, seed: int, purpose: str) -> SplitPlan:
    """The best candidate when subchannels or powers are not chosen jointly."""
    main = _LinkChooser(training.main, blocks, seed, f"{purpose} main")
    federated = _LinkChooser(training.federated, blocks, seed, f"{purpose} federated")
    plans = [
        SplitPlan(
            index,
            main.choose(training.main_demand(candidate)),
            federated.choose(training.federated_demand(candidate)),
        )
        for index, candidate in enumerate(training.candidates)
    ]
    return min(plans, key=lambda plan: plan_delay_s(training, plan))


class _LinkChooser:
    """Owners and densities of one link in the ways that the blocks name; `name` is of its draws."""

    def __init__(self, link: Uplink, blocks: Blocks, seed: int, name: str) -> None:
        self._link, self._blocks, self._seed, self._name = link, blocks, seed, name
        self._solver = LinkSolver(link)

    def choose(self, demand: Demand) -> LinkPlan:
        owner = self._owner(demand)
        if self._blocks.power == "exact":
            return LinkPlan(owner, control_power(self._link, owner, demand).psd_w_per_hz)
        return LinkPlan(owner, self._random_density(owner))

    def _owner(self, demand: Demand) -> Owners:
        if self._blocks.subchannels == "greedy":
            return greedy_owners(self._link, demand)
        if self._blocks.subchannels == "random":
            draw = generator(self._seed, f"{self._name} subchannels")
            return random_owners(self._link, demand, draw)
        answer = self._solver.solve(demand)
        assert answer is not None, "without a cutoff a reachable link is always solved"
        return answer.owner

    def _random_density(self, owner: Owners) -> FloatArray:
        """Each client's whole power, in random shares."""
        share = generator(self._seed, f"{self._name} power").exponential(size=len(owner))
        return spread_power(self._link, owner, share)
