"""Clients that train a part of the adapter: B alone (FFA-LoRA), or the first ranks (HetLoRA)."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from airtune.round_plan import ClientPlan, Decision
from airtune.tuning.adapter import AdapterState, factor_pairs, load_state
from airtune.tuning.local import LocalResult, train_locally
from airtune.tuning.pruning.slice import Cut, Cuts
from airtune.tuning.pruning.tuner import low_rank_model, train_part
from airtune.tuning.tuner import FROZEN_A, FullTuner, Tuner, TuningContext, TuningJob
from airtune.workload.model_work import ModelWork
from airtune.workload.step import Step


@final
@dataclass(frozen=True)
class FrozenATuner(Tuner):
    """Trains B alone, so that the mean of products IS the product of the means.

    Sun et al., arXiv 2403.12313. A's gradients are neither computed nor charged.
    """

    freezes = frozenset({FROZEN_A})
    on_factors = True

    def flops(self, plan: ClientPlan, steps: Sequence[Step], work: ModelWork) -> float:
        return sum(work.step_flops(step, frozen_a=True) for step in steps)

    def memory_bytes(self, plan: ClientPlan, step: Step, work: ModelWork) -> int:
        return work.step_bytes(step, frozen_a=True)

    def tune(self, start: AdapterState, plan: ClientPlan, context: TuningContext) -> LocalResult:
        load_state(context.model, start)
        frozen = [p for name, p in context.model.named_parameters() if FROZEN_A in name]
        _set_trained(frozen, False)
        try:
            result = train_locally(
                context.model,
                {name: tensor for name, tensor in start.items() if FROZEN_A not in name},
                context.batches,
                context.training,
                dropout_seed=(context.seed, context.round_index, plan.client),
                carried=dict(context.carried),
            )
        finally:
            _set_trained(frozen, True)
        state = {name: result.state.get(name, tensor) for name, tensor in start.items()}
        return replace(result, state=state)


def _set_trained(parameters: list[Any], trained: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(trained)


def first_ranks(state: AdapterState, rank: int) -> AdapterState:
    """The adapter with every rank from `rank` on at zero, in A and in B."""
    cut = {name: tensor.clone() for name, tensor in state.items()}
    for pair in factor_pairs(state):
        cut[pair.lora_a][rank:] = 0.0
        cut[pair.lora_b][:, rank:] = 0.0
    return cut


def first_ranks_mask(shapes: dict[str, tuple[int, ...]], rank: int) -> dict[str, Tensor]:
    """True in the coordinates of the first ranks."""
    ones = {name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}
    return first_ranks(ones, rank)


@final
@dataclass(frozen=True)
class FirstRanksTuner(Tuner):
    """Trains the first `plan.rank` ranks; the others come back as they were.

    A client alone has an adapter of that rank. In a stack the whole adapter serves as the truncated
    one: ranks that are zero in A and in B have zero gradients and stay zero. The scale is that of
    the whole adapter, alpha / (its rank), for every client.
    """

    honours = frozenset({Decision.RANK})
    on_factors = True

    def flops(self, plan: ClientPlan, steps: Sequence[Step], work: ModelWork) -> float:
        return sum(work.step_flops(step, rank=plan.rank) for step in steps)

    def memory_bytes(self, plan: ClientPlan, step: Step, work: ModelWork) -> int:
        return work.step_bytes(step, rank=plan.rank)

    def tune(self, start: AdapterState, plan: ClientPlan, context: TuningContext) -> LocalResult:
        model = low_rank_model(context.model, plan.rank)
        return train_part(model, start, _rank_cuts(start, plan.rank), plan, context)

    def stackable(self, plan: ClientPlan, context: TuningContext) -> Hashable | None:
        return FullTuner().stackable(plan, context)

    def tune_stack(self, jobs: Sequence[TuningJob]) -> list[LocalResult]:
        """Clients of any ranks, each with zeros beyond its own."""
        cut = [replace(job, start=first_ranks(job.start, job.plan.rank)) for job in jobs]
        return [
            _with_other_ranks(result, job.start, job.plan)
            for result, job in zip(FullTuner().tune_stack(cut), jobs, strict=True)
        ]


def _rank_cuts(state: AdapterState, rank: int) -> Cuts:
    """True at the first ranks: rows of A, columns of B."""
    cuts: dict[str, Cut] = {}
    for pair in factor_pairs(state):
        kept = torch.arange(min(rank, len(state[pair.lora_a])))
        cuts[pair.lora_a], cuts[pair.lora_b] = Cut(rows=kept), Cut(columns=kept)
    return cuts


def _with_other_ranks(result: LocalResult, start: AdapterState, plan: ClientPlan) -> LocalResult:
    state = {name: tensor.clone() for name, tensor in start.items()}
    for pair in factor_pairs(start):
        state[pair.lora_a][: plan.rank] = result.state[pair.lora_a][: plan.rank]
        state[pair.lora_b][:, : plan.rank] = result.state[pair.lora_b][:, : plan.rank]
    return replace(result, state=state)
