"""Codecs of a split model: a party sends the tensors of its own half, and no others.

The client half holds the adapter of the blocks below its split point, the main server the rest.
A plan counts split points in the blocks of the model that is charged; where another one is
trained, its cut lies at the same share of the depth.
"""

import re
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.round_plan import MAIN_SERVER, ClientPlan, Decision
from airtune.update.codec import (
    WIRE_DTYPES,
    Codec,
    Shapes,
    TensorMap,
    coordinates,
    flatten,
    pack,
    unflatten,
    unpack,
)
from airtune.workload.payload import flat_update_bits

_BLOCK = re.compile(r"\.(\d+)\.")


def block_of(name: str) -> int:
    """The block of an adapter tensor, from PEFT's name; what stands before the blocks is 0."""
    found = _BLOCK.search(name)
    return int(found.group(1)) if found else 0


@final
@dataclass(frozen=True)
class Depth:
    """Blocks of the model that plans are made for, and of the model that is trained."""

    planned: int
    trained: int

    def trained_point(self, split_point: int) -> int:
        """The trained model's cut at (nearly) the same share of its depth, within 1..L-1."""
        nearest = round(split_point * self.trained / self.planned)
        return min(max(nearest, 1), self.trained - 1)


def held(names: TensorMap | Shapes, plan: ClientPlan, split_point: int) -> list[str]:
    """The names that the plan's party holds at this cut: the server from the cut on."""
    serves = plan.client == MAIN_SERVER
    return [name for name in names if (block_of(name) >= split_point) == serves]


@final
@dataclass(frozen=True)
class HalfCodec(Codec):
    """Dense updates of a half in fp32, fp16 or bf16; the main server's own never travel: fp32."""

    honours = frozenset({Decision.SPLIT})
    requires = frozenset({Decision.SPLIT})
    on_factors = True
    depth: Depth
    dtype: str = "fp32"

    def __post_init__(self) -> None:
        if self.dtype not in WIRE_DTYPES:
            raise InputError("codec.dtype", self.dtype, f"one of {', '.join(WIRE_DTYPES)}")

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        names = held(change, plan, self._point(plan))
        half = {name: change[name] for name in names}
        return pack({"update": flatten(half).to(WIRE_DTYPES[self._dtype(plan)])})

    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        names = held(template, plan, self._point(plan))
        half = {name: template[name] for name in names}
        return unflatten(unpack(payload)["update"].to(torch.float32), half)

    def payload_bits(self, shapes: Shapes, plan: ClientPlan) -> int:
        names = held(shapes, plan, plan.split_point or self.depth.planned)
        half = {name: shapes[name] for name in names}
        return flat_update_bits(coordinates(half), self._dtype(plan))

    def _point(self, plan: ClientPlan) -> int:
        assert plan.split_point is not None, "every party of a split round has a split point"
        return self.depth.trained_point(plan.split_point)

    def _dtype(self, plan: ClientPlan) -> str:
        return "fp32" if plan.client == MAIN_SERVER else self.dtype


@final
@dataclass(frozen=True)
class BroadcastHalf(Codec):
    """The adapter of the deepest client half, for all; each client reads the blocks that it holds.

    How deep the broadcast reaches follows from its length, so no client must know the others' cuts.
    """

    honours = frozenset({Decision.SPLIT})
    requires = frozenset({Decision.SPLIT})
    on_factors = True
    half: HalfCodec

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        return self.half.encode(change, plan)

    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        if plan.client == MAIN_SERVER:
            return self.half.decode(payload, template, plan)
        vector = unpack(payload)["update"].to(torch.float32)
        for depth in range(1, self.half.depth.trained + 1):
            below = {name: shape for name, shape in template.items() if block_of(name) < depth}
            if coordinates(below) == vector.numel():
                whole = unflatten(vector, below)
                own = held(whole, plan, self.half.depth.trained_point(plan.split_point or 0))
                return {name: whole[name] for name in own}
        raise InputError("payload", f"{vector.numel()} numbers", "the adapter of some first blocks")

    def payload_bits(self, shapes: Shapes, plan: ClientPlan) -> int:
        return self.half.payload_bits(shapes, plan)
