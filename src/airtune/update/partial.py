"""Codecs that send a part of the adapter that both ends derive, so that no mask travels.

The part is one factor, the first ranks, or the coordinates that a pruned client kept; the halves of
a split model are in `halves.py`. What a pruned client kept follows from the pruning rate and the
broadcast adapter, which client and server both have; so its codec is bound to a round:
`codec.in_round(broadcast)`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, final

import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.round_plan import ClientPlan, Decision
from airtune.tuning.adapter import factor_pairs
from airtune.tuning.partial import first_ranks_mask
from airtune.tuning.pruning.slice import fixed_coordinates, kept_coordinates
from airtune.update.codec import (
    Codec,
    Shapes,
    TensorMap,
    pack,
    shapes_of,
    unpack,
)
from airtune.update.quantise import (
    check_format,
    content_draws,
    from_wire,
    number_bits,
    to_wire,
    whole_codec,
    wire_frame,
)
from airtune.workload.architecture import Architecture, Decoder, closed_form
from airtune.workload.payload import data_bytes, frame_bytes

FACTORS = (".lora_A.", ".lora_B.")
"""What the names of LoRA's factors contain."""


@final
@dataclass(frozen=True, eq=False)
class FactorCodec(Codec):
    """Only the tensors whose names contain `part`, whole; both ends have the others.

    `known` holds what the receiver puts in for the rest (a frozen A, in a broadcast); where it has
    nothing, the rest is zero (a change).
    """

    on_factors = True
    part: str = ".lora_B."
    dtype: str = "fp32"
    known: Mapping[str, Tensor] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        check_format(self.dtype)
        if self.part not in FACTORS:
            raise InputError("codec.part", self.part, f"one of {', '.join(FACTORS)}")

    @property
    def leaves_out(self) -> frozenset[str]:
        return frozenset(FACTORS) - {self.part}

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        sent = {name: tensor for name, tensor in change.items() if self.part in name}
        return self._whole.encode(sent, plan)

    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        sent = self._whole.decode(payload, self._sent(template), plan)
        return {
            name: sent[name] if name in sent else self._rest(name, shape)
            for name, shape in template.items()
        }

    def sent(self, payload: bytes, template: Shapes, plan: ClientPlan) -> TensorMap:
        """All of the part, none of the rest."""
        return {
            name: torch.tensor(self.part in name).expand(shape) for name, shape in template.items()
        }

    def payload_bits(self, shapes: Shapes, plan: ClientPlan) -> int:
        return self._whole.payload_bits(self._sent(shapes), plan)

    @property
    def _whole(self) -> Codec:
        return whole_codec(self.dtype, self.seed)

    def _sent(self, shapes: Shapes) -> Shapes:
        return {name: shape for name, shape in shapes.items() if self.part in name}

    def _rest(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self.known[name].clone() if name in self.known else torch.zeros(shape)


@final
@dataclass(frozen=True, eq=False)
class FirstRanksCodec(Codec):
    """The first `plan.rank` ranks of every matrix, as one flat tensor."""

    honours = frozenset({Decision.RANK})
    on_factors = True
    dtype: str = "fp32"
    seed: int = 0
    broadcast: TensorMap | None = None

    def __post_init__(self) -> None:
        check_format(self.dtype)

    def in_round(self, broadcast: TensorMap) -> "FirstRanksCodec":
        return replace(self, broadcast=broadcast)

    def trained(self, plan: ClientPlan) -> TensorMap | None:
        if self.broadcast is None:
            raise ValueError("bind the codec first: codec.in_round(broadcast)")
        return first_ranks_mask(shapes_of(self.broadcast), plan.rank)

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        kept = first_ranks_mask(shapes_of(change), plan.rank)
        return masked_payload(change, kept, self.dtype, self.seed, plan)

    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        return from_masked(payload, first_ranks_mask(dict(template), plan.rank), self.dtype)

    def payload_bits(self, shapes: Shapes, plan: ClientPlan) -> int:
        pairs = [(shapes[pair.lora_a], shapes[pair.lora_b]) for pair in factor_pairs(shapes)]
        # A is (rank, in), B (out, rank).
        count = sum(min(plan.rank, a[0]) * (a[1] + b[0]) for a, b in pairs)
        return 8 * frame_bytes(wire_frame("update", count, self.dtype))


def packed(vector: Tensor, dtype: str, seed: int, plan: ClientPlan) -> bytes:
    """A frame of one vector; int8 draws from what the vector holds."""
    draws = partial(content_draws, seed, plan.client, vector)
    return pack(to_wire("update", vector, dtype, draws))


def masked_payload(
    change: TensorMap, kept: TensorMap, dtype: str, seed: int, plan: ClientPlan
) -> bytes:
    """The kept coordinates as one vector, tensors in the order of their names."""
    vector = torch.cat([change[name][kept[name]] for name in sorted(change)])
    return packed(vector, dtype, seed, plan)


def from_masked(payload: bytes, kept: TensorMap, dtype: str) -> dict[str, Tensor]:
    """What `masked_payload` sent, 0 elsewhere. Raises InputError for a vector of another length."""
    vector = from_wire(unpack(payload), "update", dtype)
    counts = {name: int(kept[name].sum()) for name in sorted(kept)}
    if len(vector) != sum(counts.values()):
        expected = f"{sum(counts.values())} numbers, as the plan keeps"
        raise InputError("payload", f"{len(vector)} numbers", expected)
    change = {name: torch.zeros(mask.shape) for name, mask in kept.items()}
    for name, part in zip(counts, torch.split(vector, list(counts.values())), strict=True):
        change[name][kept[name]] = part
    return change


class Slices(Protocol):
    """What derives the slice, such as `tuning.pruning.tuner.Slicer`."""

    @property
    def architecture(self) -> Architecture:
        """The whole model's; how many coordinates are kept follows from it."""
        ...

    def kept(self, broadcast: TensorMap, pruning_rate: float) -> Mapping[str, Tensor]:
        """True where a coordinate is kept, in whole shapes."""
        ...


@final
@dataclass(frozen=True)
class CountedSlices:
    """Slices of a model known by its config alone: their sizes, not which units they keep."""

    architecture: Architecture

    def kept(self, broadcast: TensorMap, pruning_rate: float) -> Mapping[str, Tensor]:
        """Not known: there are no weights."""
        raise NotImplementedError("slices of a model without weights can only be counted")


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
    takes_any_tensors = True
    slices: Slices
    dtype: str = "fp32"
    seed: int = 0
    broadcast: TensorMap | None = None

    def __post_init__(self) -> None:
        check_format(self.dtype)

    def in_round(self, broadcast: TensorMap) -> "SlicedCodec":
        """This codec for the round that began with this adapter, as the client decoded it."""
        return replace(self, broadcast=broadcast)

    def charged_as(self, architecture: Decoder) -> "SlicedCodec":
        """This codec for counting the payloads of another model."""
        return replace(self, slices=CountedSlices(closed_form(architecture, "pruned")))

    def trained(self, plan: ClientPlan) -> Mapping[str, Tensor]:
        """True where a client with this plan trains and sends a coordinate; for `Update.kept`."""
        if self.broadcast is None:
            raise ValueError("a sliced codec must be bound first: codec.in_round(broadcast)")
        return self.slices.kept(self.broadcast, plan.pruning_rate)

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        return masked_payload(change, self.trained(plan), self.dtype, self.seed, plan)

    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        kept = self.trained(plan)
        return from_masked(payload, {name: kept[name] for name in template}, self.dtype)

    def payload_bits(self, shapes: Shapes, plan: ClientPlan) -> int:
        count = kept_coordinates(self.slices.architecture, shapes, plan.pruning_rate)
        return 8 * frame_bytes(wire_frame("update", count, self.dtype))

    def affine_bits(self, shapes: Shapes, plan: ClientPlan) -> tuple[float, float]:
        # Units are removed rounded down, and neither a header nor the scales of int8 get shorter
        # than those of the fixed numbers, so the line lies on or below every real payload.
        architecture = self.slices.architecture
        fixed = fixed_coordinates(architecture, shapes)
        prunable = kept_coordinates(architecture, shapes, 0.0) - fixed
        frame, each = wire_frame("update", fixed, self.dtype), number_bits(self.dtype)
        header = 8 * (frame_bytes(frame) - data_bytes(frame))
        return header + each * fixed, each * prunable
