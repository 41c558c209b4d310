"""How a client trains: one of the four parts of a method."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from airtune.round_plan import ClientPlan
from airtune.tuning.adapter import AdapterState
from airtune.tuning.local import LocalResult, TokenBatch, TrainingSettings, train_locally


@dataclass(frozen=True)
class TuningContext:
    """What a client has at hand; random draws come from (seed, purpose, round, client)."""

    model: Any
    batches: Sequence[TokenBatch]
    training: TrainingSettings
    seed: int
    round_index: int
    carried: Mapping[str, Tensor]


class Tuner(ABC):
    """How a client trains from the broadcast adapter."""

    @abstractmethod
    def tune(self, start: AdapterState, plan: ClientPlan, context: TuningContext) -> LocalResult:
        """Train as planned; the result's state has the start's names and shapes."""


@final
@dataclass(frozen=True)
class FullTuner(Tuner):
    """Every coordinate of the adapter is trained on the whole model."""

    def tune(self, start: AdapterState, plan: ClientPlan, context: TuningContext) -> LocalResult:
        return train_locally(
            context.model,
            start,
            context.batches,
            context.training,
            dropout_seed=(context.seed, context.round_index, plan.client),
            carried=dict(context.carried),
        )
