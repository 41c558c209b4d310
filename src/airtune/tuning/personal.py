"""Parts of the adapter that stay at each client: trained there, kept there, never sent.

In the manner of federated learning with partial personalisation (Liu et al., arXiv 2309.01816, for
wireless networks). What a personal tensor was before round 1 is known to all; server and codecs
work with that, and the client puts its own in its place before it trains.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, final

from torch import Tensor

from airtune.round_plan import ClientPlan
from airtune.tuning.adapter import AdapterState, initial_state
from airtune.tuning.kept import OWN, kept_part, own_part
from airtune.tuning.local import LocalResult
from airtune.tuning.tuner import Tuner, TuningContext, TuningJob
from airtune.workload.model_work import ModelWork
from airtune.workload.step import Step


def personal_names(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The tensors that one of the patterns names, `*` for anything."""
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def personal_start(model: Any, seed: int, patterns: Sequence[str]) -> AdapterState:
    """The personal tensors before round 1, which every client and the server know."""
    if not patterns:
        return {}
    state = initial_state(model, seed)
    return {name: state[name] for name in personal_names(state, patterns)}


@final
@dataclass(frozen=True)
class PersonalTuner(Tuner):
    """Trains as `tuner` does, from the shared part of the broadcast and the client's own part."""

    tuner: Tuner
    patterns: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("honours", "requires", "freezes", "on_factors", "adds_unsent"):
            object.__setattr__(self, name, getattr(self.tuner, name))

    def flops(self, plan: ClientPlan, steps: Sequence[Step], work: ModelWork) -> float:
        return self.tuner.flops(plan, steps, work)

    def affine_flops(
        self, plan: ClientPlan, steps: Sequence[Step], work: ModelWork
    ) -> tuple[float, float]:
        return self.tuner.affine_flops(plan, steps, work)

    def memory_bytes(self, plan: ClientPlan, step: Step, work: ModelWork) -> int:
        return self.tuner.memory_bytes(plan, step, work)

    def tune(self, start: AdapterState, plan: ClientPlan, context: TuningContext) -> LocalResult:
        job = self._inner(TuningJob(start, plan, context))
        return self._kept(self.tuner.tune(job.start, job.plan, job.context), start)

    def stackable(self, plan: ClientPlan, context: TuningContext) -> Hashable | None:
        return self.tuner.stackable(plan, _without_own(context))

    def tune_stack(self, jobs: Sequence[TuningJob]) -> list[LocalResult]:
        results = self.tuner.tune_stack([self._inner(job) for job in jobs])
        return [self._kept(result, job.start) for result, job in zip(results, jobs, strict=True)]

    def _inner(self, job: TuningJob) -> TuningJob:
        """The job with the client's own part in the place of the one before round 1."""
        own = own_part(job.context.carried)
        start = {name: own.get(name, value) for name, value in job.start.items()}
        return replace(job, start=start, context=_without_own(job.context))

    def _kept(self, result: LocalResult, start: AdapterState) -> LocalResult:
        """The result with the personal part kept and unchanged in what is sent."""
        names = personal_names(start, self.patterns)
        own = {name: result.state[name] for name in names}
        state = {**result.state, **{name: start[name] for name in names}}
        return replace(result, state=state, carried={**result.carried, **kept_part(own, {})})


def _without_own(context: TuningContext) -> TuningContext:
    carried: Mapping[str, Tensor] = {
        name: value for name, value in context.carried.items() if not name.startswith(OWN)
    }
    return replace(context, carried=carried)
