"""What a planner decides for one round: who does what with which radio resources.

A plan holds decisions only. Delays, energy and bits follow from it, the channel and the workload.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ClientPlan:
    """The decisions for one client in one round.

    `bandwidth_hz` is the FDMA share of the uplink band; `pruning_rate` and `sparsity` are shares
    REMOVED; `split_point` counts the transformer blocks that stay on the client (None: all).
    """

    client: int
    bandwidth_hz: float
    tx_power_w: float
    rank: int
    pruning_rate: float = 0.0
    sparsity: float = 0.0
    split_point: int | None = None

    def record(self) -> dict[str, Any]:
        """The decisions that differ from "everything kept", for `rounds.jsonl`."""
        decisions: dict[str, Any] = {"rank": self.rank, "tx_power_w": self.tx_power_w}
        if self.pruning_rate:
            decisions["pruning_rate"] = self.pruning_rate
        if self.sparsity:
            decisions["sparsity"] = self.sparsity
        if self.split_point is not None:
            decisions["split_point"] = self.split_point
        return decisions


@dataclass(frozen=True)
class Plan:
    """One round's plan: scheduled clients in ascending order, and what the planner promises.

    `skipped` maps a client that the planner leaves out of this round to the reason.
    `predicted_latency_s` and `lower_bound_s` refer to the channel that the planner saw.
    """

    clients: tuple[ClientPlan, ...]
    predicted_latency_s: float
    lower_bound_s: float | None
    status: str
    message: str
    skipped: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        order = [entry.client for entry in self.clients]
        if order != sorted(set(order)):
            raise ValueError(f"clients of a plan must ascend without repetition, got {order}")
