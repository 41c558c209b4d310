"""JCPBA's client: fine-tunes LoRA on a copy of the model that is really smaller.

In the manner of Pang et al., arXiv 2602.01024: less computing and less upload at once. Which units
stay follows from the pruning rate, the base and the broadcast adapter, so no mask travels.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor

from airtune.errors import DivergedError
from airtune.round_plan import ClientPlan, Decision
from airtune.tuning.adapter import AdapterState, read_state
from airtune.tuning.local import LocalResult, train_locally
from airtune.tuning.pruning.importance import Importance, fingerprint
from airtune.tuning.pruning.slice import (
    BlockScores,
    Cuts,
    Slice,
    adapter_cuts,
    choose_slice,
    fixed_coordinates,
    gather,
    kept_coordinates,
    masks,
    scatter,
    take,
    whole_slice,
)
from airtune.tuning.pruning.sliced_model import sliced_model
from airtune.tuning.stack.batched import train_stacked
from airtune.tuning.tuner import Tuner, TuningContext, TuningJob
from airtune.workload.architecture import Architecture
from airtune.workload.model_work import ModelWork
from airtune.workload.step import Step


@final
@dataclass(frozen=True, eq=False)
class Slicer:
    """Derives the slice from the broadcast adapter and a rate; client and server each have one.

    The scores of the latest adapter are kept, so a round computes them once for all its clients.
    """

    model: Any
    importance: Importance
    _latest: dict[str, tuple[BlockScores, ...]] = field(default_factory=dict, repr=False)

    @cached_property
    def architecture(self) -> Architecture:
        """The whole model's architecture."""
        return Architecture.from_config(self.model.get_base_model().config.to_dict())

    def slice(self, broadcast: Mapping[str, Tensor], pruning_rate: float) -> Slice:
        """The units that a client with this rate keeps in the round of this broadcast.

        Rate 0 keeps everything, so it asks no importance.
        """
        if pruning_rate == 0:
            return whole_slice(self.architecture)
        return choose_slice(self.architecture, self.scores(broadcast), pruning_rate)

    def scores(self, broadcast: Mapping[str, Tensor]) -> tuple[BlockScores, ...]:
        """Importance of every unit with this adapter."""
        state = dict(broadcast)
        key = fingerprint(state)
        if key not in self._latest:
            scores = self.importance.scores(self.model, self.architecture, state)
            for block in scores:
                if not bool(block.attention.isfinite().all() and block.neurons.isfinite().all()):
                    raise DivergedError(
                        "the importance of the units to prune is not finite: lower "
                        "training.learning_rate."
                    )
            self._latest.clear()
            self._latest[key] = scores
        return self._latest[key]

    def kept(self, broadcast: Mapping[str, Tensor], pruning_rate: float) -> dict[str, Tensor]:
        """True where an adapter coordinate is trained and sent, in whole shapes."""
        cuts = adapter_cuts(self.slice(broadcast, pruning_rate), broadcast)
        return masks({name: tuple(x.shape) for name, x in broadcast.items()}, cuts)

    def kept_coordinates(self, shapes: Mapping[str, tuple[int, ...]], pruning_rate: float) -> int:
        """How many of them there are, known before round 1."""
        return kept_coordinates(self.architecture, shapes, pruning_rate)

    def fixed_coordinates(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """How many no pruning rate removes."""
        return fixed_coordinates(self.architecture, shapes)

    def of_model(self, architecture: Architecture) -> "CountedSlices":
        """The slices of a model that is charged for, not trained."""
        return CountedSlices(architecture)


@final
@dataclass(frozen=True)
class CountedSlices:
    """Slices of a model known by its config alone: their sizes, not which units they keep."""

    architecture: Architecture

    def kept(self, broadcast: Mapping[str, Tensor], pruning_rate: float) -> dict[str, Tensor]:
        """Nobody knows: there are no weights."""
        raise NotImplementedError("slices of a model without weights can only be counted")

    def kept_coordinates(self, shapes: Mapping[str, tuple[int, ...]], pruning_rate: float) -> int:
        """How many adapter coordinates are trained and sent."""
        return kept_coordinates(self.architecture, shapes, pruning_rate)

    def fixed_coordinates(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """How many no pruning rate removes."""
        return fixed_coordinates(self.architecture, shapes)

    def of_model(self, architecture: Architecture) -> "CountedSlices":
        """The slices of yet another model."""
        return CountedSlices(architecture)


@final
@dataclass(frozen=True)
class PrunedTuner(Tuner):
    """Trains the planned slice; coordinates outside it come back exactly as they started."""

    honours = frozenset({Decision.PRUNING})
    on_factors = True
    slicer: Slicer

    def flops(self, plan: ClientPlan, steps: Sequence[Step], work: ModelWork) -> float:
        rate = plan.pruning_rate
        trained = sum(work.step_flops(step, rate) for step in steps)
        # A client that prunes ranks the whole model's units first, once a round.
        ranking = self.slicer.importance.flops(work) if rate else 0.0
        return trained + ranking

    def affine_flops(
        self, plan: ClientPlan, steps: Sequence[Step], work: ModelWork
    ) -> tuple[float, float]:
        lines = [work.affine_flops(step) for step in steps]
        return sum(fixed for fixed, _ in lines), sum(prunable for _, prunable in lines)

    def memory_bytes(self, plan: ClientPlan, step: Step, work: ModelWork) -> int:
        training = work.step_bytes(step, plan.pruning_rate)
        ranking = self.slicer.importance.memory_bytes(work) if plan.pruning_rate else 0
        return max(training, ranking)

    def tune(self, start: AdapterState, plan: ClientPlan, context: TuningContext) -> LocalResult:
        """Train as planned; the result's state has the start's names and shapes."""
        part = self.slicer.slice(start, plan.pruning_rate)
        cuts = adapter_cuts(part, start)
        model = sliced_model(context.model, part)
        return train_part(model, start, cuts, plan, context)

    def stackable(self, plan: ClientPlan, context: TuningContext) -> Hashable | None:
        return plan.pruning_rate

    def tune_stack(self, jobs: Sequence[TuningJob]) -> list[LocalResult]:
        """Clients with the same slice share one sliced model.

        Clients of one rate have the same slice where they received the same adapter.
        """
        parts = [self.slicer.slice(job.start, job.plan.pruning_rate) for job in jobs]
        if any(part != parts[0] for part in parts):
            return [self.tune(job.start, job.plan, job.context) for job in jobs]
        model = sliced_model(jobs[0].context.model, parts[0])
        names = list(read_state(model))
        cuts = adapter_cuts(parts[0], jobs[0].start)
        ordered = [{name: job.start[name] for name in names} for job in jobs]
        results = train_stacked(
            model,
            [gather(job.start, cuts) for job in jobs],
            [job.context.batches for job in jobs],
            jobs[0].context.training,
            [
                _cut_moments(job.context.carried, start, cuts)
                for job, start in zip(jobs, ordered, strict=True)
            ],
        )
        return [
            _whole_result(result, job.start, job.context.carried, start, cuts)
            for result, job, start in zip(results, jobs, ordered, strict=True)
        ]


def train_part(
    model: Any, start: AdapterState, cuts: Cuts, plan: ClientPlan, context: TuningContext
) -> LocalResult:
    """Train the part of the adapter that `cuts` keep, on a model of that part; the result has whole
    shapes, and what was cut away comes back as it started."""
    # Moments are numbered in the model's order, which need not be that of `start`.
    in_order = {name: start[name] for name in read_state(model)}
    result = train_locally(
        model,
        gather(start, cuts),
        context.batches,
        context.training,
        dropout_seed=(context.seed, context.round_index, plan.client),
        carried=_cut_moments(context.carried, in_order, cuts),
    )
    return _whole_result(result, start, context.carried, in_order, cuts)


def _whole_result(
    result: LocalResult,
    start: AdapterState,
    carried: Mapping[str, Tensor],
    in_order: AdapterState,
    cuts: Cuts,
) -> LocalResult:
    """A slice's result in whole shapes."""
    return replace(
        result,
        state=scatter(start, cuts, result.state),
        carried=_whole_moments(carried, result.carried, in_order, cuts),
    )


def _cut_moments(
    carried: Mapping[str, Tensor], start: AdapterState, cuts: Cuts
) -> dict[str, Tensor]:
    """The kept part of optimiser moments, named `<index of the adapter tensor>.<entry>`."""
    names = list(start)
    return {
        key: value if value.dim() == 0 else take(value, cuts[names[_index(key)]])
        for key, value in carried.items()
    }


def _whole_moments(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], start: AdapterState, cuts: Cuts
) -> dict[str, Tensor]:
    """Moments in whole shapes: a coordinate outside the slice keeps what it had, at first 0.

    Adam's step count is one for a whole tensor, so a coordinate that sat out counts those steps.
    """
    names = list(start)
    merged: dict[str, Tensor] = {}
    for key, value in after.items():
        name = names[_index(key)]
        old = before.get(key, torch.zeros_like(start[name]))
        merged[key] = value if value.dim() == 0 else scatter({name: old}, cuts, {name: value})[name]
    return merged


def _index(key: str) -> int:
    return int(key.partition(".")[0])
