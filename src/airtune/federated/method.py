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
from typing import Any, TypeAlias, final

from airtune.federated.charging.split_costs import SplitSystem
from airtune.federated.records.record import RoundRecord
from airtune.federated.view import PlanningView
from airtune.round_plan import ClientPlan, Decision, Plan
from airtune.tuning.adapter import AdapterState, initial_state
from airtune.tuning.tuner import CohortTuner, Tuner
from airtune.update.codec import Codec, TensorMap
from airtune.update.server import Aggregator, ServerOptimizer, TakeMerged, Update
from airtune.update.weighting import Weighting

PlannerState = Mapping[str, Any]
"""A planner's state from round to round; JSON, since it is part of the checkpoint."""


class Planner(ABC):
    """Decides a round before it happens."""

    @property
    def paces(self) -> frozenset[str]:
        """How the band may be shared where rounds are not synchronous: `fixed` for a planner that
        divides what is left of it among those that begin a task, `processor` for equal shares.

        By default neither: it plans whole cohorts.
        """
        return frozenset()

    @property
    def keeps_own(self) -> bool:
        """Whether its plans may leave client halves of a split model at the clients."""
        return False

    @property
    def decides(self) -> frozenset[Decision]:
        """What its plans may decide beyond radio resources; other parts must honour it."""
        return frozenset()

    @property
    def redividable(self) -> bool:
        """Whether its band may be divided anew, since it divides it for the least latency alone."""
        return False

    def settled(self, view: Callable[[int], PlanningView]) -> "Settled":
        """The planner with what it derives from the first rounds' channels; called once.

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
        """How long a round without clients lasts where there is no deadline [s].

        None: until the channel's next sample (`cell.round_interval_s`). A planner that waits for
        clients in outage answers its own limit. `view.broadcast_s` may be infinite.
        """
        return None

    def after_round(self, state: PlannerState, record: RoundRecord) -> dict[str, Any]:
        """The next state, from the round as it was charged (a virtual queue, for example)."""
        return dict(state)

    def with_reports(
        self, state: PlannerState, reported: Mapping[int, Sequence[float]]
    ) -> dict[str, Any]:
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
    client, and so are `losses`, of clients' held-out rows with what each keeps of its own.
    `trained` are numbers that the main server of a split model measured while it trained.
    """

    start: TensorMap
    updates: Sequence[Update]
    merged: TensorMap
    plans: Mapping[int, ClientPlan]
    reported: Mapping[int, Sequence[float]]
    losses: Mapping[int, float] = field(default_factory=dict)
    trained: Mapping[str, float] = field(default_factory=dict)


Measure: TypeAlias = Callable[[Exchange], dict[str, float | None]]
StartState: TypeAlias = Callable[[Any, int], AdapterState]


@final
@dataclass(frozen=True)
class Method:
    """One composition. `downlink` is the codec of the broadcast adapter.

    `server` is what the server makes of the aggregator's result; it goes with every method. `split`
    describes the servers of a split model, whose tuner trains the whole cohort together.
    `start` draws the adapter before round 1 from the model and the seed. `measure` adds numbers to
    a round's record, under `measured`. `weighting` decides with which share an update counts (None:
    its examples over those of all present); its shares are in the record. `keeps_own`: clients
    carry a part of the adapter of their own (`tuning.kept`), with which each is evaluated on
    held-out rows of its own.
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
    weighting: Weighting | None = None
    keeps_own: bool = False
