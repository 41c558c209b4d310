"""What a round is given: what stays the same over rounds, the cohort, what is settled first."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from airtune.cost.device import DeviceProfile
from airtune.errors import InputError
from airtune.federated.backends.backend import Backend
from airtune.federated.charging.costs import CostModel, RoundCosts
from airtune.federated.method import Method
from airtune.federated.pacing.rules import Pacing
from airtune.federated.records.stopwatch import Stopwatch
from airtune.quantities import FloatArray
from airtune.round_plan import Plan
from airtune.seeds import generator
from airtune.tuning.evaluate import Evaluation
from airtune.update.codec import Shapes
from airtune.wireless.channel import Channel, ChannelState


@dataclass(frozen=True)
class CohortSettings:
    """`size` clients drawn uniformly without replacement (None: all); `dropout` of them fail.

    `members` are the clients of a step that are known already, and not drawn.
    """

    size: int | None = None
    dropout: float = 0.0
    members: tuple[int, ...] | None = None

    def check(self, clients: int) -> None:
        """Raises InputError for a cohort that these clients cannot fill."""
        if self.size is not None and not 1 <= self.size <= clients:
            raise InputError(
                "cohort.size",
                self.size,
                f"between 1 and the {clients} clients there are",
                "choose fewer, or raise clients.count",
            )
        if not 0.0 <= self.dropout < 1.0:
            raise InputError("cohort.dropout", self.dropout, "at least 0 and below 1")


def draw_cohort(
    settings: CohortSettings, clients: int, seed: int, round_index: int
) -> NDArray[np.int64]:
    """The clients scheduled in this round, ascending."""
    if settings.members is not None:
        return np.array(settings.members, dtype=np.int64)
    if settings.size is None:
        return np.arange(clients, dtype=np.int64)
    draws = generator(seed, "cohort", round_index)
    return np.sort(draws.choice(clients, size=settings.size, replace=False)).astype(np.int64)


def draw_dropouts(
    settings: CohortSettings, cohort: NDArray[np.int64], seed: int, round_index: int
) -> frozenset[int]:
    """Clients of the cohort that fall silent after the broadcast, each with the same probability.

    Drawn per client, so that who else is scheduled does not change who fails.
    """
    if settings.dropout == 0.0:
        return frozenset()
    return frozenset(
        int(client)
        for client in cohort
        if generator(seed, "dropout of clients", round_index, int(client)).random()
        < settings.dropout
    )


EvaluateOwn: TypeAlias = Callable[
    [Mapping[str, Tensor], Mapping[int, Mapping[str, Tensor]]], Evaluation
]
"""Test loss of an adapter with what clients carry of their own, by client."""


@dataclass(frozen=True)
class RoundContext:
    """What stays the same from round to round. Arrays have the axis [client], all registered.

    `sample_interval_s` lies between the channels of two rounds, which a round without clients lasts
    where nothing else limits it. `pacing` says when the server makes a step where rounds are not
    synchronous; `kept_hz` is the part of the uplink's band that tasks under way then keep.
    `evaluate_own` evaluates in the place of `evaluate` where clients keep a part of the adapter of
    their own. `learning_rate` answers that of a round (from 0), for its record.
    """

    method: Method
    backend: Backend
    channel: Channel
    costs: CostModel
    devices: Sequence[DeviceProfile]
    names: tuple[str, ...]
    weights: FloatArray
    tx_power_w: FloatArray
    bandwidth_hz: float
    cohort: CohortSettings
    rank: int
    shapes: Shapes
    deadline_s: float | None
    seed: int
    evaluate: Callable[[Mapping[str, Tensor]], Evaluation]
    watch: Stopwatch = field(default_factory=Stopwatch)
    sample_interval_s: float = 10.0
    pacing: Pacing | None = None
    kept_hz: float = 0.0
    evaluate_own: EvaluateOwn | None = None
    learning_rate: Callable[[int], float] | None = None

    @property
    def free_hz(self) -> float:
        """The part of the uplink's band that a planner divides."""
        return max(self.bandwidth_hz - self.kept_hz, 0.0) if self.kept_hz else self.bandwidth_hz


@dataclass(frozen=True)
class RoundStart:
    """What is settled before training; a plan without clients waits for `idle_s`.

    `inclusion` has the probability of each client of the cohort, where a sampler drew it.
    """

    cohort: NDArray[np.int64]
    silent: frozenset[int]
    truth: ChannelState
    costs: RoundCosts
    plan: Plan
    idle_s: float = 0.0
    inclusion: Mapping[int, float] = field(default_factory=dict)
