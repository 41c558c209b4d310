"""Codecs that send a fixed part of the adapter: one factor, or the first ranks."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.round_plan import ClientPlan, Decision
from airtune.tuning.first_ranks import first_ranks_mask
from airtune.update.codec import (
    WIRE_DTYPES,
    Codec,
    DenseCodec,
    Shapes,
    TensorMap,
    pack,
    shapes_of,
    unpack,
)
from airtune.workload.payload import flat_update_bits

FACTORS = (".lora_A.", ".lora_B.")
"""What the names of LoRA's factors contain."""


@final
@dataclass(frozen=True, eq=False)
class FactorCodec(Codec):
    """Only the tensors whose names contain `part`, dense; both ends know the others.

    `known` holds what the receiver puts in for the rest (a frozen A, in a broadcast); where it has
    nothing, the rest is zero (a change).
    """

    on_factors = True
    part: str = ".lora_B."
    dtype: str = "fp32"
    known: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        DenseCodec(self.dtype)  # refuses an unknown dtype
        if self.part not in FACTORS:
            raise InputError("codec.part", self.part, f"one of {', '.join(FACTORS)}")

    @property
    def leaves_out(self) -> frozenset[str]:
        return frozenset(FACTORS) - {self.part}

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        sent = {name: tensor for name, tensor in change.items() if self.part in name}
        return DenseCodec(self.dtype).encode(sent, plan)

    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        sent = DenseCodec(self.dtype).decode(payload, self._sent(template), plan)
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
        return DenseCodec(self.dtype).payload_bits(self._sent(shapes), plan)

    def _sent(self, shapes: Shapes) -> Shapes:
        return {name: shape for name, shape in shapes.items() if self.part in name}

    def _rest(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self.known[name].clone() if name in self.known else torch.zeros(shape)


@final
@dataclass(frozen=True, eq=False)
class FirstRanksCodec(Codec):
    """The first `plan.rank` ranks of every matrix, as one flat tensor; the plan says how many."""

    honours = frozenset({Decision.RANK})
    on_factors = True
    dtype: str = "fp32"
    broadcast: TensorMap | None = None

    def __post_init__(self) -> None:
        DenseCodec(self.dtype)  # refuses an unknown dtype

    def in_round(self, broadcast: TensorMap) -> "FirstRanksCodec":
        return replace(self, broadcast=broadcast)

    def trained(self, plan: ClientPlan) -> TensorMap | None:
        if self.broadcast is None:
            raise ValueError("bind the codec first: codec.in_round(broadcast)")
        return first_ranks_mask(shapes_of(self.broadcast), plan.rank)

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        kept = first_ranks_mask(shapes_of(change), plan.rank)
        vector = torch.cat([change[name][kept[name]] for name in sorted(change)])
        return pack({"update": vector.to(WIRE_DTYPES[self.dtype])})

    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        vector = unpack(payload)["update"].to(torch.float32)
        kept = first_ranks_mask(dict(template), plan.rank)
        counts = {name: int(mask.sum()) for name, mask in kept.items()}
        if len(vector) != sum(counts.values()):
            raise InputError(
                "payload", f"{len(vector)} numbers", f"{sum(counts.values())} for its rank"
            )
        change, start = {name: torch.zeros(shape) for name, shape in template.items()}, 0
        for name in sorted(template):
            change[name][kept[name]] = vector[start : start + counts[name]]
            start += counts[name]
        return change

    def payload_bits(self, shapes: Shapes, plan: ClientPlan) -> int:
        masks = first_ranks_mask(dict(shapes), plan.rank)
        return flat_update_bits(sum(int(mask.sum()) for mask in masks.values()), self.dtype)
