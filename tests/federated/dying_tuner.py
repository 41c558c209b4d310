"""A tuner whose process is killed in the middle of the second round, once."""

import os
import signal
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from airtune.round_plan import ClientPlan
from airtune.tuning.adapter import AdapterState
from airtune.tuning.local import LocalResult
from airtune.tuning.tuner import FullTuner, Tuner, TuningContext, TuningJob


@dataclass(frozen=True)
class Dying(Tuner):
    """Trains as `FullTuner` does; the file `died` says that it has died."""

    died: str

    def tune(self, start: AdapterState, plan: ClientPlan, context: TuningContext) -> LocalResult:
        return FullTuner().tune(start, plan, context)

    def stackable(self, plan: ClientPlan, context: TuningContext) -> Hashable | None:
        return FullTuner().stackable(plan, context)

    def tune_stack(self, jobs: Sequence[TuningJob]) -> list[LocalResult]:
        died = Path(self.died)
        if jobs[0].context.round_index == 1 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return FullTuner().tune_stack(jobs)
