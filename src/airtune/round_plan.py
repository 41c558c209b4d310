"""What a planner decides for one round: who does what with which radio resources.

A plan holds decisions only. Delays, energy and bits follow from it, the channel and the workload.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

MAIN_SERVER = -1
"""The number of the main server of a split model among the parties of a round."""


class Decision(StrEnum):
    """What a plan may decide beyond radio resources; the value names the field of `ClientPlan`.

    A planner declares the decisions that it makes, the other parts those that they honour
    (`federated.checks.capabilities` compares them).
    """

    PRUNING = "pruning_rate"
    SPARSITY = "sparsity"
    KEPT_RANKS = "kept_ranks"
    RANK = "rank"
    SPLIT = "split_point"
    SPEED = "speed"
    SKETCH = "sketch"
    CUT_DROPOUT = "cut_dropout"
    CUT_FORMAT = "cut_format"


@dataclass(frozen=True)
class SubchannelShare:
    """The subchannels of one link that a client owns, and its power density on each [W/Hz]."""

    subchannels: tuple[int, ...]
    psd_w_per_hz: tuple[float, ...]


_RADIO = frozenset({"bandwidth_hz", "tx_power_w", "main", "federated", "downlink_share"})
"""Decisions on radio resources alone."""


@dataclass(frozen=True)
class ClientPlan:
    """The decisions for one client in one round.

    `bandwidth_hz` is the FDMA share of the uplink band; `pruning_rate` and `sparsity` are shares
    REMOVED; `split_point` counts the transformer blocks that stay on the client (None: all). A
    split model has two uplinks, `main` to the main server and `federated` to the federated server;
    `bandwidth_hz` and `tx_power_w` are then those of `main`, and gradients come down on
    `downlink_share` of the downlink's band and power (None: not charged).
    `gets_half` and `sends_half`: whether the averaged client half comes down at the beginning of
    the round, and whether the client sends its half to be averaged at the end; where not, it keeps
    its own from round to round.
    `speed` is the share of the device's full training rate at which it computes; a plan with a
    `tx_power_w` below the client's is charged the rate of that power.
    `cut_dropout` is the share of the numbers of a token that does not cross the cut, `cut_format`
    the number format there (None: that of the method).
    `rank` is 0 where every parameter is trained, without an adapter.
    `kept_ranks` is how many LoRA ranks of each adapted matrix are sent where the counts differ by
    matrix (None: `sparsity` holds for all alike).
    `sketch` seeds a random choice of the `rank` ranks of each matrix that the client trains and
    sends; both ends draw it (None: the first ranks).
    """

    client: int
    bandwidth_hz: float
    tx_power_w: float
    rank: int
    pruning_rate: float = 0.0
    sparsity: float = 0.0
    split_point: int | None = None
    main: SubchannelShare | None = None
    federated: SubchannelShare | None = None
    kept_ranks: tuple[int, ...] | None = None
    downlink_share: float | None = None
    gets_half: bool = True
    sends_half: bool = True
    sketch: int | None = None
    speed: float = 1.0
    cut_dropout: float = 0.0
    cut_format: str | None = None

    def changed(self, **decisions: Any) -> "ClientPlan":
        """These decisions in the place of its own; `dataclasses.replace`, but several times as
        fast, since planners change the plans of all clients in every round."""
        if not decisions.keys() <= self.__dict__.keys():
            raise TypeError(f"{', '.join(decisions)}: a plan has no such decision")
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__, **decisions)
        if not decisions.keys() <= _RADIO:
            made.__dict__.pop("work_key", None)
        return made

    @cached_property
    def work_key(self) -> tuple[object, ...]:
        """What a client's computing and payload depend on: all but its radio resources."""
        return (
            self.client,
            self.rank,
            self.pruning_rate,
            self.sparsity,
            self.kept_ranks,
            self.split_point,
            self.sends_half,
        )

    def decisions(self, rank: int) -> frozenset[Decision]:
        """The decisions that differ from training and sending all of an adapter of this rank."""
        made = {
            Decision.PRUNING: self.pruning_rate != 0.0,
            Decision.SPARSITY: self.sparsity != 0.0 and self.kept_ranks is None,
            Decision.KEPT_RANKS: self.kept_ranks is not None,
            Decision.RANK: self.rank != rank,
            Decision.SPLIT: self.split_point is not None,
            Decision.SKETCH: self.sketch is not None,
            Decision.SPEED: self.speed != 1.0,
            Decision.CUT_DROPOUT: self.cut_dropout != 0.0,
            Decision.CUT_FORMAT: self.cut_format is not None,
        }
        return frozenset(decision for decision, differs in made.items() if differs)


@dataclass(frozen=True)
class Plan:
    """One round's plan: scheduled clients in ascending order, and what the planner predicts.

    `skipped` maps a client that the planner leaves out of this round to the reason.
    `predicted_latency_s`, `predicted_energy_j` (None: not predicted) and `lower_bound_s` refer to
    the channel that the planner saw. With a
    `main_server` the cohort trains together with it, step by step; its `split_point` is the
    earliest cut, from which on it holds the model.
    `extras` are numbers behind the decision that a record should keep (a queue, a bound).
    """

    clients: tuple[ClientPlan, ...]
    predicted_latency_s: float
    lower_bound_s: float | None
    status: str
    message: str
    skipped: dict[int, str] = field(default_factory=dict)
    main_server: ClientPlan | None = None
    extras: dict[str, float | None] = field(default_factory=dict)
    predicted_energy_j: float | None = None

    def __post_init__(self) -> None:
        order = [entry.client for entry in self.clients]
        if order != sorted(set(order)):
            raise ValueError(f"clients of a plan must ascend without repetition, got {order}")

    @property
    def broadcast(self) -> ClientPlan:
        """Whose needs decide what is broadcast: of a split model, those of the deepest cut."""
        return max(self.clients, key=lambda entry: entry.split_point or 0)
