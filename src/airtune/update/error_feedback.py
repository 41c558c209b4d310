"""Error feedback: what a lossy codec left out is added to the client's next change.

`sent_t = decode(encode(change_t + residual_t))`, `residual_{t+1} = change_t + residual_t - sent_t`
(Seide et al., Interspeech 2014; Karimireddy et al., arXiv 1901.09847, algorithm 1). The residual
is added before anything is selected, so that what was left out long enough is sent at last.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import final

from torch import Tensor

from airtune.round_plan import ClientPlan
from airtune.tuning.adapter import AdapterState
from airtune.tuning.local import LocalResult
from airtune.tuning.tuner import Tuner, TuningContext, TuningJob
from airtune.update.codec import Codec, shapes_of
from airtune.workload.model_work import ModelWork
from airtune.workload.step import Step

_PREFIX = "residual/"


def add_residual(change: Mapping[str, Tensor], carried: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The change plus what this client carries over from its last round, if anything."""
    return {
        name: tensor + carried[_PREFIX + name] if _PREFIX + name in carried else tensor
        for name, tensor in change.items()
    }


def residual(wanted: Mapping[str, Tensor], sent: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the client carries over, under names that no other carried tensor has.

    `wanted` is the change after `add_residual`; `sent` is what the server decoded of it, all zero
    if nothing arrived.
    """
    return {_PREFIX + name: tensor - sent[name] for name, tensor in wanted.items()}


def holds_residual(carried: Mapping[str, Tensor]) -> bool:
    """Whether a client carries a residual among other things."""
    return any(name.startswith(_PREFIX) for name in carried)


def without_residual(carried: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a tuner carried over: everything but the residual."""
    return {name: tensor for name, tensor in carried.items() if not name.startswith(_PREFIX)}


def add_lost(carried: Mapping[str, Tensor], sent: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a client carries over after all when what it sent came too late: that as well."""
    return {
        name: tensor + sent[name.removeprefix(_PREFIX)] if name.startswith(_PREFIX) else tensor
        for name, tensor in carried.items()
    }


@final
class FeedbackTuner(Tuner):
    """Trains as `tuner` does, then adds to the change what `codec` left out of the last one.

    The client encodes its change once more than it sends it, to compute what the server will
    decode: with the codec that it sends with (`with_codec`), or the residual would be of another
    update. The residual is as large as the adapter and stays on the client (in a simulation: in the
    checkpoint).
    """

    adds_unsent = True

    def __init__(self, tuner: Tuner, codec: Codec) -> None:
        self.tuner, self.codec = tuner, codec
        self.freezes, self.on_factors = tuner.freezes, tuner.on_factors

    def flops(self, plan: ClientPlan, steps: Sequence[Step], work: ModelWork) -> float:
        return self.tuner.flops(plan, steps, work)

    def memory_bytes(self, plan: ClientPlan, step: Step, work: ModelWork) -> int:
        return self.tuner.memory_bytes(plan, step, work) + work.adapter_bytes()

    def replaced_by(self, tuner: Tuner) -> "FeedbackTuner":
        return FeedbackTuner(self.tuner.replaced_by(tuner), self.codec)

    def with_codec(self, codec: Codec) -> "FeedbackTuner":
        return FeedbackTuner(self.tuner.with_codec(codec), codec)

    def tune(self, start: AdapterState, plan: ClientPlan, context: TuningContext) -> LocalResult:
        result = self.tuner.tune(start, plan, _context_without_residual(context))
        return self._with_residual(result, start, plan, context)

    def stackable(self, plan: ClientPlan, context: TuningContext) -> Hashable | None:
        return self.tuner.stackable(plan, _context_without_residual(context))

    def tune_stack(self, jobs: Sequence[TuningJob]) -> list[LocalResult]:
        inner = [replace(job, context=_context_without_residual(job.context)) for job in jobs]
        return [
            self._with_residual(result, job.start, job.plan, job.context)
            for result, job in zip(self.tuner.tune_stack(inner), jobs, strict=True)
        ]

    def _with_residual(
        self, result: LocalResult, start: AdapterState, plan: ClientPlan, context: TuningContext
    ) -> LocalResult:
        change = {name: result.state[name] - value for name, value in start.items()}
        wanted = add_residual(change, context.carried)
        state = {name: value + wanted[name] for name, value in start.items()}
        codec = self.codec.in_round(start)
        # As the client side will see it: start + change, less start, is rounded once more.
        seen = {name: state[name] - value for name, value in start.items()}
        sent = codec.decode(codec.encode(seen, plan), shapes_of(start), plan)
        return replace(result, state=state, carried={**result.carried, **residual(wanted, sent)})


def _context_without_residual(context: TuningContext) -> TuningContext:
    return replace(context, carried=without_residual(context.carried))
