"""Error feedback around any tuner and any lossy codec."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import final

from airtune.round_plan import ClientPlan
from airtune.tuning.adapter import AdapterState
from airtune.tuning.local import LocalResult
from airtune.tuning.tuner import Tuner, TuningContext, TuningJob
from airtune.update.codec import Codec, shapes_of
from airtune.update.error_feedback import add_residual, residual, without_residual
from airtune.workload.model_work import ModelWork
from airtune.workload.step import Step


@final
class FeedbackTuner(Tuner):
    """Trains as `tuner` does, then adds to the change what `codec` left out of the last one.

    The client encodes its change once more than it sends it, to know what the server will read:
    with the codec that it sends with (`with_codec`), or the residual would be of another update.
    The residual is as large as the adapter and stays on the client (in a simulation: in the
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
        result = self.tuner.tune(start, plan, _without_residual(context))
        return self._with_residual(result, start, plan, context)

    def stackable(self, plan: ClientPlan, context: TuningContext) -> Hashable | None:
        return self.tuner.stackable(plan, _without_residual(context))

    def tune_stack(self, jobs: Sequence[TuningJob]) -> list[LocalResult]:
        inner = [replace(job, context=_without_residual(job.context)) for job in jobs]
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


def _without_residual(context: TuningContext) -> TuningContext:
    return replace(context, carried=without_residual(context.carried))
