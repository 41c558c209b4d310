"""How a cohort trains that cannot train one by one: the other kind of tuner of a method."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from airtune.round_plan import ClientPlan, Decision
from airtune.tuning.adapter import AdapterState
from airtune.tuning.local import LocalResult
from airtune.tuning.split.cut_link import StepBits
from airtune.tuning.tuner import TuningContext


@dataclass(frozen=True)
class Party:
    """One party of the round, a client or the main server: where it starts and what it has."""

    start: AdapterState
    plan: ClientPlan
    context: TuningContext
    weight: float


@dataclass(frozen=True)
class PartyResult:
    """A party after the round; `cut` counts its messages in each local step, if it is a client."""

    result: LocalResult
    cut: tuple[StepBits, ...] = ()


class CohortTuner(ABC):
    """How all parties of a round train together; attributes as for `Tuner`."""

    honours: frozenset[Decision] = frozenset()
    requires: frozenset[Decision] = frozenset()
    freezes: frozenset[str] = frozenset()
    on_factors: bool = False
    adds_unsent: bool = False

    @abstractmethod
    def tune_together(self, parties: Sequence[Party]) -> list[PartyResult]:
        """Train as planned; results in the order of the parties, each in its start's names."""

    def replaced_by(self, tuner: "CohortTuner") -> "CohortTuner":
        """What runs where an experiment names `tuner` in this one's place."""
        return tuner

    def with_codec(self, codec: Any) -> "CohortTuner":
        """This tuner beside the codec that runs, for tuners that encode themselves."""
        return self
