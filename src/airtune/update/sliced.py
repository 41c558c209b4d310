"""The codec of a pruned client: its kept coordinates, as one flat tensor, without a mask.

Which coordinates those are follows from the pruning rate and the broadcast adapter, which client
and server both know. So a codec is bound to a round: `codec.in_round(broadcast)`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, final

import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.round_plan import ClientPlan, Decision
from airtune.update.codec import Codec, Shapes, TensorMap, pack, unpack
from airtune.update.quantise import (
    check_format,
    content_draws,
    from_wire,
    number_bits,
    to_wire,
    wire_frame,
)
from airtune.workload.architecture import Architecture
from airtune.workload.payload import data_bytes, frame_bytes


class Slices(Protocol):
    """Who knows the slice (`tuning.prune.Slicer` does)."""

    def kept(self, broadcast: TensorMap, pruning_rate: float) -> Mapping[str, Tensor]:
        """True where a coordinate is kept, in whole shapes."""
        ...

    def kept_coordinates(self, shapes: Shapes, pruning_rate: float) -> int:
        """How many coordinates are kept, whatever the broadcast."""
        ...

    def fixed_coordinates(self, shapes: Shapes) -> int:
        """How many are kept at any rate: the limit of nothing kept in the blocks."""
        ...

    def of_model(self, architecture: Architecture) -> "Slices":
        """The slices of another model, as far as they can be counted."""
        ...


@final
@dataclass(frozen=True, eq=False)
class SlicedCodec(Codec):
    """Kept coordinates, tensors in the order of their names, as fp32, fp16, bf16 or int8.

    At rate 0 fp32, fp16 and bf16 are `DenseCodec`'s bytes. The broadcast must be the adapter AS
    DECODED by the clients: a lossy downlink would otherwise give the two ends different masks. Both
    ends must also rank alike, which weight norms in fp64 do on any machine and forward passes
    (activation-weighted importance) only on like machines; a payload of the wrong length is
    refused, a mask of the right length and the wrong places cannot be noticed.
    """

    honours = frozenset({Decision.PRUNING})
    on_factors = True
    slices: Slices
    dtype: str = "fp32"
    seed: int = 0
    broadcast: TensorMap | None = None

    def __post_init__(self) -> None:
        check_format(self.dtype)

    def in_round(self, broadcast: TensorMap) -> "SlicedCodec":
        """This codec for the round that began with this adapter, as the client decoded it."""
        return replace(self, broadcast=broadcast)

    def charged_as(self, architecture: Architecture) -> "SlicedCodec":
        """This codec for counting the payloads of another model."""
        return replace(self, slices=self.slices.of_model(architecture))

    def trained(self, plan: ClientPlan) -> Mapping[str, Tensor]:
        """True where a client with this plan trains and sends a coordinate; for `Update.kept`."""
        if self.broadcast is None:
            raise ValueError("a sliced codec must be bound first: codec.in_round(broadcast)")
        return self.slices.kept(self.broadcast, plan.pruning_rate)

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        kept = self.trained(plan)
        vector = torch.cat([change[name][kept[name]] for name in sorted(change)])
        draws = partial(content_draws, self.seed, plan.client, vector)
        return pack(to_wire("update", vector, self.dtype, draws))

    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        vector = from_wire(unpack(payload), "update", self.dtype)
        expected = self.slices.kept_coordinates(template, plan.pruning_rate)
        if vector.numel() != expected:
            raise InputError(
                "payload", f"{vector.numel()} numbers", f"{expected} numbers for this slice"
            )
        kept, start = self.trained(plan), 0
        change = {name: torch.zeros(shape) for name, shape in template.items()}
        for name in sorted(template):
            count = int(kept[name].sum())
            change[name][kept[name]] = vector[start : start + count]
            start += count
        return change

    def payload_bits(self, shapes: Shapes, plan: ClientPlan) -> int:
        count = self.slices.kept_coordinates(shapes, plan.pruning_rate)
        return 8 * frame_bytes(wire_frame("update", count, self.dtype))

    def affine_bits(self, shapes: Shapes, plan: ClientPlan) -> tuple[float, float]:
        # Units are removed rounded down, and neither a header nor the scales of int8 get shorter
        # than those of the fixed numbers, so the line lies on or below every real payload.
        fixed = self.slices.fixed_coordinates(shapes)
        prunable = self.slices.kept_coordinates(shapes, 0.0) - fixed
        frame, each = wire_frame("update", fixed, self.dtype), number_bits(self.dtype)
        header = 8 * (frame_bytes(frame) - data_bytes(frame))
        return header + each * fixed, each * prunable
