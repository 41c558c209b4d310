"""The learning rate's factor from round to round: constant, or falling towards zero."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from airtune.errors import InputError

DECAYS: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}
"""Factor at a share of the rounds after warm-up, 0 (the first of them) to below 1."""


@dataclass(frozen=True)
class Schedule:
    """A factor that depends on the round and on the number of rounds planned, and on nothing else.

    With w warm-up rounds of R planned, round r (from 0) trains at

        (r + 1) / (w + 1)          for r < w
        decay((r - w) / (R - w))   after

    of the learning rate, the same for all steps of the round; the round after the last would be at
    zero. So a decay ends with R: where R is raised later, rounds to come follow the longer schedule
    from where they stand in it, and rounds already made stay as they were.
    """

    kind: str = "constant"
    rounds: int = 1
    warmup_rounds: int = 0

    def __post_init__(self) -> None:
        if self.kind not in DECAYS:
            raise InputError("training.schedule", self.kind, f"one of {', '.join(DECAYS)}")
        if not 0 <= self.warmup_rounds < self.rounds:
            raise InputError(
                "training.warmup_rounds",
                self.warmup_rounds,
                f"at least 0 and below the number of rounds, {self.rounds}",
            )

    def factor(self, round_index: int) -> float:
        """What the learning rate is multiplied by in this round (from 0)."""
        if round_index < self.warmup_rounds:
            return (round_index + 1) / (self.warmup_rounds + 1)
        after = round_index - self.warmup_rounds
        return DECAYS[self.kind](after / (self.rounds - self.warmup_rounds))
