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
from typing import Any, Protocol, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from airtune.cost.latency import transfer_delay
from airtune.federated.charging.split_costs import SplitRoundCosts, SplitSystem
from airtune.quantities import FloatArray
from airtune.round_plan import ClientPlan, Decision, Plan
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

    def affine_payload_bits(self, plan: ClientPlan) -> tuple[float, float]:
        """`fixed` and `prunable` of the update, fixed + (1 - rate) prunable [bit]."""
        ...

    def memory_bytes(self, plan: ClientPlan) -> int:
        """Peak memory of the client's training."""
        ...

    def usable_memory_bytes(self, client: int) -> float:
        """What its device has for it."""
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
    downlink_bps: FloatArray

    def broadcast_to(self, positions: Sequence[int]) -> float:
        """Delay of the broadcast to these positions of the cohort alone, at their worst rate [s].

        A client that is left out of the round does not slow it down; to no client it takes as long
        as to the whole cohort.
        """
        if not len(positions):
            return self.broadcast_s
        rates = self.downlink_bps[np.asarray(positions, dtype=np.intp)]
        bits = float(self.costs.downlink_bits(self.full_plan(int(positions[0]))))
        slowest = rates[rates > 0].min() if (rates > 0).any() else 0.0
        return float(transfer_delay(np.array(bits), np.array(slowest)))

    def latency_s(self, clients: Sequence[ClientPlan]) -> float:
        """The round's latency with these plans, on the channel as estimated [s].

        What a plan has to predict; with a perfect estimate it is what the clock is charged.
        """
        places = np.searchsorted(self.cohort, [entry.client for entry in clients])
        if self.costs.split is not None:
            return self._split_latency_s(clients, places)
        bands = np.array([entry.bandwidth_hz for entry in clients])
        bits = np.array([float(self.costs.payload_bits(entry)) for entry in clients])
        compute_s = np.array([self.costs.compute_s(entry) for entry in clients])
        upload_s = transfer_delay(bits, self.uplink.select(places).rate(bands))
        return float((self.broadcast_to(places.tolist()) + compute_s + upload_s).max())

    def _split_latency_s(self, clients: Sequence[ClientPlan], places: NDArray[np.intp]) -> float:
        split = self.costs.split
        assert split is not None
        rates = split.rates(
            clients, self.uplink.select(places), self.tx_power_w[places], self.bandwidth_hz,
            self.downlink_bps[places],
        )  # fmt: skip
        timeline = split.timeline(
            clients,
            rates,
            [split.messages(entry.client) for entry in clients],
            [self.costs.payload_bits(entry) for entry in clients],
            self.costs.downlink_bits(max(clients, key=lambda entry: entry.split_point or 0)),
        )
        return float(timeline.finish_s.max())

    def full_plan(self, position: int, bandwidth_hz: float = 0.0) -> ClientPlan:
        """The plan of the client at this position of the cohort, with nothing removed."""
        return ClientPlan(
            client=int(self.cohort[position]),
            bandwidth_hz=bandwidth_hz,
            tx_power_w=float(self.tx_power_w[position]),
            rank=self.rank,
        )


class Planner(ABC):
    """Decides a round before it happens."""

    @property
    def decides(self) -> frozenset[Decision]:
        """What its plans may decide beyond radio resources; other parts must honour it."""
        return frozenset()

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
