"""The seam to the world: one method, "run this cohort".

`InProcess` trains here and now; `Scripted` answers what a test tells it to.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor

from airtune.federated.method import Method
from airtune.round_plan import ClientPlan
from airtune.tuning.local import TokenBatch, TrainingSettings
from airtune.tuning.tuner import TuningContext
from airtune.update.codec import Shapes


@dataclass(frozen=True)
class ClientTask:
    """One client's work in one round; `broadcast` is the adapter as it came over the air."""

    round_index: int
    client: int
    plan: ClientPlan
    broadcast: bytes
    carried: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class ClientReport:
    """What comes back: the payload as sent, what was learned on the way, what is kept for later."""

    client: int
    payload: bytes
    train_loss: float
    label_tokens: int
    carried: Mapping[str, Tensor] = field(default_factory=dict)


class Backend(ABC):
    """Runs a cohort. Reports may come in any order; each task is answered exactly once."""

    @abstractmethod
    def run(self, tasks: Sequence[ClientTask]) -> Iterator[ClientReport]:
        """Answer every task."""

    def close(self) -> None:  # noqa: B027 (most backends hold nothing)
        """Let go of processes and connections."""


@final
@dataclass(frozen=True)
class ClientSide:
    """Everything a client needs to answer a task: decode, tune, encode, in this order.

    `batches(client, round)` is deterministic, so that whoever runs the client sees the same rows.
    """

    method: Method
    model: Any
    shapes: Shapes
    batches: Callable[[int, int], Sequence[TokenBatch]]
    training: TrainingSettings
    seed: int

    def answer(self, task: ClientTask) -> ClientReport:
        """Do the client's part of the round."""
        start = self.method.downlink.decode(task.broadcast, self.shapes, task.plan)
        context = TuningContext(
            model=self.model,
            batches=self.batches(task.client, task.round_index),
            training=self.training.in_round(task.round_index),
            seed=self.seed,
            round_index=task.round_index,
            carried=task.carried,
        )
        result = self.method.tuner.tune(start, task.plan, context)
        change = {name: result.state[name] - value for name, value in start.items()}
        payload = self.method.codec.in_round(start).encode(change, task.plan)
        return ClientReport(
            task.client, payload, result.mean_loss, result.label_tokens, result.carried
        )


@final
@dataclass(frozen=True)
class InProcess(Backend):
    """One client after another on one shared model."""

    side: ClientSide

    def run(self, tasks: Sequence[ClientTask]) -> Iterator[ClientReport]:
        for task in tasks:
            yield self.side.answer(task)


@final
@dataclass(frozen=True)
class Scripted(Backend):
    """A test double that ships: answers by a function and remembers what it was asked."""

    script: Callable[[ClientTask], ClientReport]
    asked: list[ClientTask] = field(default_factory=list)

    def run(self, tasks: Sequence[ClientTask]) -> Iterator[ClientReport]:
        for task in tasks:
            self.asked.append(task)
            yield self.script(task)
