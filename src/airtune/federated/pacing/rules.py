"""When the server makes a step, and what an update counts that began at an older adapter.

A server step is the asynchronous counterpart of a round. It merges updates n that started from
version v_n of the adapter into version V:

    x <- x + sum_n share_n change_n,   share_n = mixing_rate s(V - v_n) w_n / sum_present w

In the manner of FedAsync (Xie et al., arXiv 1903.03934) for one update a step, of FedBuff (Nguyen
et al., arXiv 2106.06639) for several. The rules `s` are FedAsync's; that changes and not models are
mixed, and the division of weights among those present, are ours.

On a quadratic of curvature L, steps of size eta on gradients that are d steps old are stable below
`eta L = 2 sin(pi / (2 (2 d + 1)))`: 2, 1, 0.618, 0.445 for d = 0, 1, 2, 3. That is why the share of
a stale update must fall about as 1 / d where the local steps are as large as a synchronous round
can take.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import final

from airtune.update.server import Update
from airtune.update.weighting import Occasion, Weighting


class Kind(StrEnum):
    """What a server step waits for."""

    BUFFERED = "buffered"
    ASYNCHRONOUS = "asynchronous"
    SEMI = "semi"


@final
@dataclass(frozen=True)
class Staleness:
    """The factor s of an update that is a server steps old; s(0) = 1 under every rule.

    polynomial   (1 + a)^-exponent
    hinge        1 up to `threshold`, then 1 / (1 + slope (a - threshold))
    constant     1
    """

    kind: str = "polynomial"
    exponent: float = 0.5
    threshold: int = 4
    slope: float = 0.5

    def factor(self, age: int) -> float:
        """s(age)."""
        if self.kind == "polynomial":
            return float((1.0 + age) ** -self.exponent)
        if self.kind == "hinge":
            return 1.0 / (1.0 + self.slope * max(age - self.threshold, 0))
        return 1.0


@final
@dataclass(frozen=True)
class Pacing:
    """How server steps follow each other; a run without one is synchronous.

    Attributes:
        kind: a step after `buffer` updates, after each (`asynchronous`), or every `period_s`.
        buffer: updates of a buffered step.
        period_s: of semi-asynchronous steps [s].
        staleness: what an older update counts.
        mixing_rate: factor of every share, in (0, 1].
        most_staleness: an older update is dropped; None: never.
        processor_sharing: the band is divided equally among those that send at a moment; else a
            client keeps its share from its broadcast until its update has arrived.
    """

    kind: Kind
    buffer: int = 1
    period_s: float = math.inf
    staleness: Staleness = field(default_factory=Staleness)
    mixing_rate: float = 1.0
    most_staleness: int | None = None
    processor_sharing: bool = False

    @property
    def updates(self) -> float:
        """After how many updates a step is made; no number of them ends a period."""
        return {Kind.BUFFERED: self.buffer, Kind.ASYNCHRONOUS: 1, Kind.SEMI: math.inf}[self.kind]

    def period_end_s(self, time_s: float) -> float:
        """The first end of a period at or after this time [s]; itself without periods."""
        if self.kind != Kind.SEMI:
            return time_s
        return self.period_s * math.ceil(time_s / self.period_s)

    def too_old(self, age: int) -> bool:
        """Whether an update is dropped."""
        return self.most_staleness is not None and age > self.most_staleness


@final
@dataclass(frozen=True)
class StaleWeighting(Weighting):
    """The module's shares."""

    pacing: Pacing

    def shares(self, updates: Sequence[Update], occasion: Occasion) -> Sequence[float] | None:
        """None where nothing is old and the mixing rate is 1: then they are as without."""
        rate, rule = self.pacing.mixing_rate, self.pacing.staleness
        factors = [
            rate * rule.factor(occasion.staleness.get(update.client, 0)) for update in updates
        ]
        if all(factor == 1.0 for factor in factors):
            return None
        total = sum(update.weight for update in updates)
        return [
            factor * (update.weight / total)
            for factor, update in zip(factors, updates, strict=True)
        ]
