"""How a client trains, or a cohort whose members cannot train one by one: one part of a method."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from airtune.errors import InputError
from airtune.round_plan import ClientPlan, Decision
from airtune.tuning.adapter import AdapterState
from airtune.tuning.local import LocalResult, Penalty, TokenBatch, TrainingSettings, train_locally
from airtune.tuning.split.model import StepBits
from airtune.tuning.stack import train_stacked
from airtune.workload.model_work import ModelWork
from airtune.workload.step import Step

FROZEN_A = ".lora_A."
"""What the names of the A factors contain."""


@dataclass(frozen=True)
class TuningContext:
    """What a client has at hand; random draws come from (seed, purpose, round, client)."""

    model: Any
    batches: Sequence[TokenBatch]
    training: TrainingSettings
    seed: int
    round_index: int
    carried: Mapping[str, Tensor]


@dataclass(frozen=True)
class TuningJob:
    """One client's share of a stack: the arguments of `Tuner.tune`."""

    start: AdapterState
    plan: ClientPlan
    context: TuningContext


class Tuner(ABC):
    """How a client trains from the broadcast adapter, and what of the device it takes.

    `honours`: decisions of a plan that it carries out; a plan that makes another one is refused.
    `freezes`: parts of tensor names that it never trains.
    `on_factors`: it works on LoRA's factors, not on any trained parameter. `adds_unsent`: what was
    not sent in one round is added to the change of the next. `finds_coefficients`: its results have
    `LocalResult.coefficients`.
    """

    honours: frozenset[Decision] = frozenset()
    requires: frozenset[Decision] = frozenset()
    freezes: frozenset[str] = frozenset()
    on_factors: bool = False
    adds_unsent: bool = False
    finds_coefficients: bool = False

    def flops(self, plan: ClientPlan, steps: Sequence[Step], work: ModelWork) -> float:
        """All that a client with this plan computes in a round of these steps [FLOP].

        By default forward and backward of the whole model with its whole adapter.
        """
        return sum(work.step_flops(step) for step in steps)

    def affine_flops(
        self, plan: ClientPlan, steps: Sequence[Step], work: ModelWork
    ) -> tuple[float, float]:
        """`fixed` and `prunable` with `fixed + (1 - pruning_rate) prunable` at most `flops`, and
        equal to it where nothing is pruned; a tuner that does not prune has only `fixed` [FLOP]."""
        return self.flops(plan, steps, work), 0.0

    def memory_bytes(self, plan: ClientPlan, step: Step, work: ModelWork) -> int:
        """Peak memory of a client with this plan whose largest step is this one."""
        return work.step_bytes(step)

    @abstractmethod
    def tune(self, start: AdapterState, plan: ClientPlan, context: TuningContext) -> LocalResult:
        """Train as planned; the result's state has the start's names and shapes."""

    def replaced_by(self, tuner: "Tuner") -> "Tuner":
        """What runs where an experiment names `tuner` in this one's place.

        A tuner that wraps another one answers itself around `tuner`. Raises InputError where what
        it does would be lost.
        """
        return tuner

    def with_codec(self, codec: Any) -> "Tuner":
        """This tuner beside the codec that runs, for tuners that encode themselves."""
        return self

    def stackable(self, plan: ClientPlan, context: TuningContext) -> Hashable | None:
        """Clients of a round with the same key may be trained as one stack; None: each for itself.

        Called only where the model allows it: plain LoRA on linear layers, no dropout. The engine
        sees to equal numbers of steps by itself.
        """
        return None

    def tune_stack(self, jobs: Sequence[TuningJob]) -> list[LocalResult]:
        """What `tune` answers for each of these clients of one key, up to rounding."""
        return [self.tune(job.start, job.plan, job.context) for job in jobs]


def tune_as_stack(jobs: Sequence[TuningJob], penalty: Penalty | None = None) -> list[LocalResult]:
    """Train whole adapters as one stack; the penalty's factors have a leading axis [client]."""
    context = jobs[0].context
    return train_stacked(
        context.model,
        [job.start for job in jobs],
        [job.context.batches for job in jobs],
        context.training,
        [job.context.carried for job in jobs],
        penalty,
    )


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

    def stackable(self, plan: ClientPlan, context: TuningContext) -> Hashable | None:
        return "whole model"

    def tune_stack(self, jobs: Sequence[TuningJob]) -> list[LocalResult]:
        return tune_as_stack(jobs)


@dataclass(frozen=True)
class Party:
    """One party of the round, a client or the main server: where it starts and what it has.

    `link` leads to a client that trains in another process.
    """

    start: AdapterState
    plan: ClientPlan
    context: TuningContext
    weight: float
    link: Any = None


@dataclass(frozen=True)
class PartyResult:
    """A party after the round; `cut` counts its messages in each local step, if it is a client.
    `payload` is its change where it was encoded in another process."""

    result: LocalResult
    cut: tuple[StepBits, ...] = ()
    payload: bytes | None = None


class CohortTuner(ABC):
    """How all parties of a round train together; attributes as for `Tuner`."""

    honours: frozenset[Decision] = frozenset()
    requires: frozenset[Decision] = frozenset()
    freezes: frozenset[str] = frozenset()
    on_factors: bool = False
    adds_unsent: bool = False

    @property
    def keeps_own(self) -> bool:
        """Whether clients go on with their own halves where a plan sends none down."""
        return False

    def crosses_as(self, split: Any) -> bool:
        """Whether its steps and messages are those that the servers of a method are charged with
        (`split`, a `federated.charging.split_costs.SplitSystem`)."""
        return True

    @abstractmethod
    def tune_together(self, parties: Sequence[Party]) -> Sequence[PartyResult | None]:
        """Train as planned; results in the order of the parties, each in its start's names.

        None for a client that was lost on the way.
        """

    def client_half(self, party: Party) -> AbstractContextManager[Any]:
        """One client's own part, for a client on another machine: a `split.client.ClientHalf`."""
        raise InputError(
            "tuner", type(self).__qualname__, "one whose clients can train on other machines"
        )

    def replaced_by(self, tuner: "CohortTuner") -> "CohortTuner":
        """What runs where an experiment names `tuner` in this one's place."""
        return tuner

    def with_codec(self, codec: Any) -> "CohortTuner":
        """This tuner beside the codec that runs, for tuners that encode themselves."""
        return self
