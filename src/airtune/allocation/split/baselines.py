"""Baselines for split training: every decision at random, or one, and any mixture of blocks.

In the manner of SflLLM (arXiv 2504.14667), which compares with random subchannels, powers, split
points and ranks. Every baseline uses the clients' whole power: unused power would make it
weaker than any plan.
"""

from dataclasses import dataclass, replace

from airtune.allocation.solve import Solution, Stopwatch
from airtune.allocation.split.joint import finished, solve_joint
from airtune.allocation.split.problem import (
    LinkPlan,
    SplitPlan,
    SplitTraining,
    plan_delay_s,
)
from airtune.allocation.subchannels.assignment import greedy_owners, random_owners, spread_power
from airtune.allocation.subchannels.link import LinkSolver
from airtune.allocation.subchannels.power import Demand, Owners, Uplink, control_power
from airtune.errors import InputError
from airtune.quantities import FloatArray
from airtune.seeds import generator


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
) -> Solution[SplitPlan]:
    """A plan with each block decided in the chosen way.

    The bound is that of the joint search, which is run for it unless its answer is given.
    """
    joint = joint or solve_joint(training)
    if joint.plan is None:
        return replace(joint, solver=solver)
    watch = Stopwatch()
    kept = _candidates(training, blocks, seed)
    part = replace(training, candidates=tuple(training.candidates[index] for index in kept))
    if blocks.subchannels == "joint" and blocks.power == "exact":
        best = solve_joint(part).plan
        assert best is not None
    else:
        best = _best_plan(part, blocks, seed)
    plan = replace(best, candidate=kept[best.candidate])
    return finished(training, plan, solver, watch.seconds, joint.lower_bound)


def _candidates(training: SplitTraining, blocks: Blocks, seed: int) -> list[int]:
    """Indices of the candidates that random choices of split point and rank leave."""
    kept = list(range(len(training.candidates)))
    for block in ("split_point", "rank"):
        values = [getattr(training.candidates[index], block) for index in kept]
        if getattr(blocks, block) == "random":
            chosen = generator(seed, f"sflllm {block}").choice(sorted(set(values)))
            kept = [index for index, value in zip(kept, values, strict=True) if value == chosen]
    return kept


def _best_plan(training: SplitTraining, blocks: Blocks, seed: int) -> SplitPlan:
    """The best candidate when subchannels or powers are not chosen jointly."""
    main = _LinkChooser(training.main, blocks, seed, "main")
    federated = _LinkChooser(training.federated, blocks, seed, "federated")
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
    """Owners and densities of one link in the ways that the blocks name."""

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
            draw = generator(self._seed, f"sflllm {self._name} subchannels")
            return random_owners(self._link, demand, draw)
        answer = self._solver.solve(demand)
        assert answer is not None, "without a cutoff a reachable link is always solved"
        return answer.owner

    def _random_density(self, owner: Owners) -> FloatArray:
        """Each client's whole power, in random shares."""
        share = generator(self._seed, f"sflllm {self._name} power").exponential(size=len(owner))
        return spread_power(self._link, owner, share)
