"""Codecs of the halves of a split model: what a client sends of its half, what is broadcast.

The client half holds the adapter of the blocks below its split point, the main server the rest. A
plan counts split points in the blocks of the model that is charged; where another one is trained,
its cut lies at the same share of the depth.
"""

import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import final

from torch import Tensor

from airtune.errors import InputError
from airtune.round_plan import MAIN_SERVER, ClientPlan, Decision
from airtune.tuning.pruning.slice import kept_coordinates
from airtune.update.codec import (
    Codec,
    Shapes,
    TensorMap,
    coordinates,
    flatten,
    unflatten,
    unpack,
)
from airtune.update.partial import CountedSlices, Slices, from_masked, masked_payload, packed
from airtune.update.quantise import (
    check_format,
    from_wire,
    wire_frame,
)
from airtune.workload.architecture import Decoder, closed_form
from airtune.workload.payload import frame_bytes

_BLOCK = re.compile(r"\.(\d+)\.")


@lru_cache(maxsize=4096)
def block_of(name: str) -> int:
    """The block of an adapter tensor, from PEFT's name; what precedes the blocks is 0."""
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
@dataclass(frozen=True, eq=False)
class HalfCodec(Codec):
    """Whole updates of a half; the main server's own never travel: fp32.

    A client that keeps its half in this round sends nothing.
    """

    honours = frozenset({Decision.SPLIT})
    requires = frozenset({Decision.SPLIT})
    on_factors = True
    depth: Depth
    dtype: str = "fp32"
    seed: int = 0
    slices: Slices | None = None

    def __post_init__(self) -> None:
        check_format(self.dtype)
        if self.slices is not None:
            honours = frozenset({Decision.SPLIT, Decision.PRUNING})
            object.__setattr__(self, "honours", honours)

    def charged_as(self, architecture: Decoder) -> "HalfCodec":
        if self.slices is None:
            return self
        return replace(self, slices=CountedSlices(closed_form(architecture, "pruned")))

    def trained(self, plan: ClientPlan) -> TensorMap | None:
        """Of a client whose blocks are pruned, what it keeps of them."""
        if plan.client == MAIN_SERVER or plan.pruning_rate == 0.0 or _keeps(plan):
            return None
        assert self.slices is not None, "refused by check_parts"
        return self.slices.kept({}, plan.pruning_rate)

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        if _keeps(plan):
            return b""
        names = held(change, plan, self._point(plan))
        half, kept = {name: change[name] for name in names}, self.trained(plan)
        if kept is not None:
            return masked_payload(half, kept, self._dtype(plan), self.seed, plan)
        return packed(flatten(half), self._dtype(plan), self.seed, plan)

    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        if _keeps(plan):
            return {}
        names = held(template, plan, self._point(plan))
        kept = self.trained(plan)
        if kept is not None:
            return from_masked(payload, {name: kept[name] for name in names}, self._dtype(plan))
        vector = from_wire(unpack(payload), "update", self._dtype(plan))
        return unflatten(vector, {name: template[name] for name in names})

    def payload_bits(self, shapes: Shapes, plan: ClientPlan) -> int:
        if _keeps(plan):
            return 0
        names = held(shapes, plan, plan.split_point or self.depth.planned)
        half = {name: shapes[name] for name in names}
        count = coordinates(half)
        if plan.client != MAIN_SERVER and plan.pruning_rate and self.slices is not None:
            count = kept_coordinates(self.slices.architecture, half, plan.pruning_rate)
        return 8 * frame_bytes(wire_frame("update", count, self._dtype(plan)))

    def _point(self, plan: ClientPlan) -> int:
        assert plan.split_point is not None, "every party of a split round has a split point"
        return self.depth.trained_point(plan.split_point)

    def _dtype(self, plan: ClientPlan) -> str:
        return "fp32" if plan.client == MAIN_SERVER else self.dtype


def _whole_half(plan: ClientPlan) -> ClientPlan:
    """What is broadcast: the half as the server has it, whatever clients keep of it."""
    return replace(plan, sends_half=True, pruning_rate=0.0)


def _keeps(plan: ClientPlan) -> bool:
    return plan.client != MAIN_SERVER and not plan.sends_half


@final
@dataclass(frozen=True, eq=False)
class BroadcastHalf(Codec):
    """The adapter of the deepest client half, for all; each client reads the blocks that it holds.

    How deep the broadcast reaches follows from its length, so no client needs the others' cuts.
    In a round without a broadcast nothing is sent, and a client has the adapter before round 1,
    `known`, until it has a half of its own.
    """

    honours = frozenset({Decision.SPLIT, Decision.PRUNING})
    requires = frozenset({Decision.SPLIT})
    on_factors = True
    half: HalfCodec
    known: TensorMap = field(default_factory=dict)

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        if plan.client != MAIN_SERVER and not plan.gets_half:
            return b""
        return self.half.encode(change, _whole_half(plan))

    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        if plan.client == MAIN_SERVER:
            return self.half.decode(payload, template, plan)
        if not plan.gets_half:
            own = held(self.known, plan, self.half.depth.trained_point(plan.split_point or 0))
            return {name: self.known[name].clone() for name in own}
        vector = from_wire(unpack(payload), "update", self.half.dtype)
        for depth in range(1, self.half.depth.trained + 1):
            below = {name: shape for name, shape in template.items() if block_of(name) < depth}
            if coordinates(below) == vector.numel():
                whole = unflatten(vector, below)
                own = held(whole, plan, self.half.depth.trained_point(plan.split_point or 0))
                return {name: whole[name] for name in own}
        raise InputError("payload", f"{vector.numel()} numbers", "the adapter of some first blocks")

    def payload_bits(self, shapes: Shapes, plan: ClientPlan) -> int:
        if plan.client != MAIN_SERVER and not plan.gets_half:
            return 0
        return self.half.payload_bits(shapes, _whole_half(plan))
