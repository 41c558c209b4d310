"""What a round costs: computing delays, bits on the air, and what each client is charged.

Everything that can be known before training is known here: the batches of a round are drawn from
(seed, round, client), so their shapes, FLOPs and payloads are exact before the first step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

from airtune.cost.device import DeviceProfile
from airtune.round_plan import ClientPlan
from airtune.update.codec import Codec, Shapes

StepShape = tuple[int, int]
"""Rows and padded tokens of one optimiser step."""


@final
@dataclass(frozen=True)
class Charges:
    """The cost model of an experiment; what `charge_as` changes, it changes here and only here.

    `step_flops(rows, tokens, plan)` is the cost of one optimiser step [FLOP]. `shapes` are the
    adapter's shapes of the charged model. `as_other_model` says that payloads, too, are charged
    as predicted for that model, not as encoded.
    """

    devices: Sequence[DeviceProfile]
    step_shapes: Callable[[int, int], Sequence[StepShape]]
    step_flops: Callable[[int, int, ClientPlan], float]
    codec: Codec
    downlink: Codec
    shapes: Shapes
    as_other_model: bool = False

    def in_round(self, round_index: int) -> "RoundCharges":
        """The costs of one round's decisions."""
        return RoundCharges(self, round_index)


@final
@dataclass(frozen=True)
class RoundCharges:
    """`CohortCosts` of one round."""

    model: Charges
    round_index: int

    def compute_flops(self, plan: ClientPlan) -> float:
        """All optimiser steps of the round [FLOP]."""
        steps = self.model.step_shapes(plan.client, self.round_index)
        return sum(self.model.step_flops(rows, tokens, plan) for rows, tokens in steps)

    def compute_s(self, plan: ClientPlan) -> float:
        """FLOPs over the device's sustained training rate [s]."""
        return self.compute_flops(plan) / self.model.devices[plan.client].training_flop_rate

    def payload_bits(self, plan: ClientPlan) -> int:
        """Predicted uplink payload [bit]."""
        return self.model.codec.payload_bits(self.model.shapes, plan)

    def downlink_bits(self, plan: ClientPlan) -> int:
        """Predicted broadcast [bit]."""
        return self.model.downlink.payload_bits(self.model.shapes, plan)

    def charged_bits(self, plan: ClientPlan, payload: bytes) -> int:
        """Uplink bits to charge: those really encoded, unless another model is charged."""
        return self.payload_bits(plan) if self.model.as_other_model else 8 * len(payload)


@dataclass(frozen=True)
class ClientCharge:
    """What one client's round took. Delays that never happened are 0."""

    plan: ClientPlan
    rate_bps: float
    broadcast_s: float
    compute_s: float
    upload_s: float
    uplink_bits: int
    flops: float
    energy_j: float
    outcome: str

    def record(self) -> dict[str, Any]:
        """The client's entry in `rounds.jsonl`."""
        return {
            "client": self.plan.client,
            "outcome": self.outcome,
            "bandwidth_hz": self.plan.bandwidth_hz,
            "rate_bps": self.rate_bps,
            "broadcast_s": self.broadcast_s,
            "compute_s": self.compute_s,
            "upload_s": self.upload_s,
            "uplink_bits": self.uplink_bits,
            "flops": self.flops,
            "energy_j": self.energy_j,
            **self.plan.record(),
        }
