"""FFA-LoRA's client: A stays as it was drawn, only B is trained."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from airtune.round_plan import ClientPlan
from airtune.tuning.adapter import AdapterState, load_state
from airtune.tuning.local import LocalResult, train_locally
from airtune.tuning.tuner import FROZEN_A, Tuner, TuningContext
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
