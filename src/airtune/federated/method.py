"""A learning method is a composition of four parts; each paper is one composition.

    planner     who does what with which radio resources
    tuner       how a client trains
    codec       what a client sends, as bytes
    aggregator  how the server merges

Client steps run in this order, server steps in reverse. A part of your own subclasses one of the
four bases and is named by import path in the experiment file: `planner: my_package.module:Mine`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from airtune.federated.split_costs import SplitRoundCosts, SplitSystem
from airtune.quantities import FloatArray
from airtune.round_plan import ClientPlan, Plan
from airtune.tuning.adapter import AdapterState, initial_state
from airtune.tuning.cohort_tuner import CohortTuner
from airtune.tuning.tuner import Tuner
from airtune.update.aggregate import Aggregator, Update
from airtune.update.codec import Codec, TensorMap
from airtune.update.server_step import ServerOptimizer, TakeMerged
from airtune.wireless.rate import Links

PlannerState = Mapping[str, Any]
"""What a planner remembers from round to round; JSON, since it lives in the checkpoint."""


class CohortCosts(Protocol):
    """What a decision would cost; the batches of the coming round are known before training."""

    @property
    def split(self) -> SplitRoundCosts | None:
        """What a split costs; None for a method that does not split."""
        ...

    def compute_s(self, plan: ClientPlan) -> float:
        """Computing delay of the whole round [s]."""
        ...

    def payload_bits(self, plan: ClientPlan) -> int:
        """Length of the update [bit]."""
        ...

    def downlink_bits(self, plan: ClientPlan) -> int:
        """Length of the broadcast [bit]."""
        ...

    def affine_compute_s(self, plan: ClientPlan) -> tuple[float, float]:
        """`fixed` and `prunable` of the computing delay, fixed + (1 - rate) prunable [s]."""
        ...

    def affine_payload_bits(self, dtype: str) -> tuple[float, float]:
        """`fixed` and `prunable` of a dense update [bit]."""
        ...

    def realisable_rates(self) -> list[float]:
        """Pruning rates at which one more unit goes, ascending from 0."""
        ...

    def least_rate(self, plan: ClientPlan) -> float:
        """The pruning rate that the client needs to fit its memory."""
        ...


@dataclass(frozen=True)
class PlanningView:
    """All that a planner sees: the estimated channel and the costs, nothing of this training.

    Arrays have one entry per client of the cohort, in the cohort's (ascending) order. `broadcast_s`
    is the estimated delay of the downlink, which everybody waits for; `downlink_bps` [client] is
    what each could receive over the whole band. `names` serve messages.
    """

    round_index: int
    cohort: NDArray[np.int64]
    names: tuple[str, ...]
    uplink: Links
    bandwidth_hz: float
    tx_power_w: FloatArray
    weights: FloatArray
    rank: int
    broadcast_s: float
    deadline_s: float | None
    costs: CohortCosts
    downlink_bps: FloatArray = field(default_factory=lambda: np.zeros(0))

    def full_plan(self, position: int, bandwidth_hz: float = 0.0) -> ClientPlan:
        """The plan of the client at this position of the cohort, with nothing removed."""
        return ClientPlan(
            client=int(self.cohort[position]),
            bandwidth_hz=bandwidth_hz,
            tx_power_w=float(self.tx_power_w[position]),
            rank=self.rank,
        )


class Planner(ABC):
    """Decides a round before it happens.

    `prunes` says that it can slim a client to its memory, so a large model is no reason to refuse;
    `splits` that clients hold only the first blocks.
    """

    prunes: ClassVar[bool] = False
    splits: ClassVar[bool] = False

    def settled(self, view: Callable[[int], PlanningView]) -> "Settled":
        """The planner with what it derives from the first rounds' channels; asked once.

        `view(index)` is what `plan` would see. A resumed run starts from the settled options.
        """
        return Settled(self)

    def initial_state(self) -> dict[str, Any]:
        """What `plan` finds in round 0."""
        return {}

    @abstractmethod
    def plan(self, view: PlanningView, state: PlannerState) -> Plan:
        """The round's plan, for the channel as estimated; no clients where none can take part."""

    def idle_s(self, view: PlanningView) -> float | None:
        """How long a round without clients lasts where no deadline says it [s].

        None: until the channel's next sample (`cell.round_interval_s`). A planner that waits for
        clients in outage answers its own limit. `view.broadcast_s` may be infinite.
        """
        return None

    def after_round(self, state: PlannerState, record: Mapping[str, Any]) -> dict[str, Any]:
        """The next state, from the round as it was charged (a virtual queue lives here)."""
        return dict(state)

    def hear(self, state: PlannerState, reported: Mapping[int, Sequence[float]]) -> dict[str, Any]:
        """The state with what clients reported beside their updates, before `after_round`."""
        return dict(state)


@dataclass(frozen=True)
class Settled:
    """A planner ready to run. `options` go into its method's section of the resolved experiment."""

    planner: Planner
    options: Mapping[str, Any] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exchange:
    """What the server holds at the end of a round, for a method's own measurements.

    `start` is the adapter of the broadcast, `merged` the next one; `plans` and `reported` are by
    client.
    """

    start: TensorMap
    updates: Sequence[Update]
    merged: TensorMap
    plans: Mapping[int, ClientPlan]
    reported: Mapping[int, Sequence[float]]


Measure: TypeAlias = Callable[[Exchange], dict[str, float | None]]
StartState: TypeAlias = Callable[[Any, int], AdapterState]


@final
@dataclass(frozen=True)
class Method:
    """One composition. `downlink` is the codec of the broadcast adapter.

    `server` is what the server makes of the aggregator's result; it goes with every method. `split`
    describes the servers of a split model, whose tuner trains the whole cohort together.
    `start` draws the adapter before round 1 from the model and the seed. `measure` adds numbers to
    a round's record, under `measured`.
    """

    name: str
    planner: Planner
    tuner: Tuner | CohortTuner
    codec: Codec
    aggregator: Aggregator
    downlink: Codec
    server: ServerOptimizer = field(default_factory=TakeMerged)
    split: SplitSystem | None = None
    start: StartState = initial_state
    measure: Measure | None = None
