"""HetLoRA's client: a weaker device trains only the first ranks of the adapter."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import final

from torch import Tensor

from airtune.round_plan import ClientPlan
from airtune.tuning.adapter import AdapterState
from airtune.tuning.factors import factor_pairs
from airtune.tuning.local import LocalResult
from airtune.tuning.tuner import FullTuner, Tuner, TuningContext, TuningJob


def first_ranks(state: AdapterState, rank: int) -> AdapterState:
    """The adapter with every rank from `rank` on at zero, in A and in B."""
    cut = {name: tensor.clone() for name, tensor in state.items()}
    for pair in factor_pairs(state):
        cut[pair.lora_a][rank:] = 0.0
        cut[pair.lora_b][:, rank:] = 0.0
    return cut


def first_ranks_mask(shapes: dict[str, tuple[int, ...]], rank: int) -> dict[str, Tensor]:
    """True in the coordinates of the first ranks."""
    import torch

    ones = {name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}
    return first_ranks(ones, rank)


@final
@dataclass(frozen=True)
class FirstRanksTuner(Tuner):
    """Trains the first `plan.rank` ranks; the others come back as they were.

    Ranks that are zero in A and in B have zero gradients and stay zero, so the whole adapter serves
    as the truncated one. The scale is that of the whole adapter, alpha / (its rank), for everybody.
    """

    def tune(self, start: AdapterState, plan: ClientPlan, context: TuningContext) -> LocalResult:
        result = FullTuner().tune(first_ranks(start, plan.rank), plan, context)
        return _with_other_ranks(result, start, plan)

    def stackable(self, plan: ClientPlan, context: TuningContext) -> Hashable | None:
        return FullTuner().stackable(plan, context)

    def tune_stack(self, jobs: Sequence[TuningJob]) -> list[LocalResult]:
        """Clients of any ranks, each with zeros beyond its own."""
        cut = [replace(job, start=first_ranks(job.start, job.plan.rank)) for job in jobs]
        return [
            _with_other_ranks(result, job.start, job.plan)
            for result, job in zip(FullTuner().tune_stack(cut), jobs, strict=True)
        ]


def _with_other_ranks(result: LocalResult, start: AdapterState, plan: ClientPlan) -> LocalResult:
    state = {name: tensor.clone() for name, tensor in start.items()}
    for pair in factor_pairs(start):
        state[pair.lora_a][: plan.rank] = result.state[pair.lora_a][: plan.rank]
        state[pair.lora_b][:, : plan.rank] = result.state[pair.lora_b][:, : plan.rank]
    return replace(result, state=state)
