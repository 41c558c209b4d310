"""What a round is given: what stays the same from round to round, and what is settled first."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from airtune.cost.device import DeviceProfile
from airtune.federated.backends.backend import Backend
from airtune.federated.charging.costs import CostModel, RoundCosts
from airtune.federated.cohort import CohortSettings
from airtune.federated.method import Method
from airtune.federated.records.stopwatch import Stopwatch
from airtune.quantities import FloatArray
from airtune.round_plan import Plan
from airtune.tuning.evaluate import Evaluation
from airtune.update.codec import Shapes
from airtune.wireless.channel import Channel, ChannelState


@dataclass(frozen=True)
class RoundContext:
    """What stays the same from round to round. Arrays have the axis [client], all registered.

    `sample_interval_s` lies between the channels of two rounds, which a round without clients lasts
    where nothing else limits it.
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


@dataclass(frozen=True)
class RoundStart:
    """What is settled before anybody trains; a plan without clients waits for `idle_s`."""

    cohort: NDArray[np.int64]
    silent: frozenset[int]
    truth: ChannelState
    costs: RoundCosts
    plan: Plan
    idle_s: float = 0.0
