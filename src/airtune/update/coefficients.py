"""Coefficients on directions from a seed: up as a client's steps, summed, and down as the model.

In the manner of Qin et al., arXiv 2312.06353. The K directions z_k are those of the whole run
(`tuning.directions`), so the model is K numbers, and so is everything that travels:

    up    sum over a client's steps of -eta g, by candidate
    merge a_k <- a_k + sum_n w_n a_k,n
    down  a, from which every client makes w_0 + sum_k a_k z_k, to the server's bits,
          whatever rounds it has missed

A message has all K numbers, or (index, number) pairs, whichever is shorter; fp32 both.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.round_plan import ClientPlan
from airtune.tuning.directions import DRAW_FLOPS, Directions, SeededModel
from airtune.update.codec import (
    Codec,
    Shapes,
    TensorMap,
    coordinates,
    pack,
    unflatten,
    unpack,
)
from airtune.update.held_rounds import first_lacking, held_after
from airtune.update.server import ContextAggregator, ServerContext, Update
from airtune.update.weighting import shares_of
from airtune.workload.payload import Frame, frame_bytes

_NEVER = -1
_SHORT = 2**15
"""Candidates that two bytes number."""


def pairs_frame(count: int, pairs: int) -> Frame:
    """So many numbers of K, with their indices."""
    return {"update": ("F32", [pairs]), "index": ("I16" if count <= _SHORT else "I32", [pairs])}


def shorter_frame(count: int, pairs: int) -> Frame:
    """Of so many numbers of K: with indices, or all K where that is no longer."""
    whole: Frame = {"update": ("F32", [count])}
    paired = pairs_frame(count, pairs)
    return paired if frame_bytes(paired) < frame_bytes(whole) else whole


def packed(count: int, index: Tensor, numbers: Tensor) -> bytes:
    """The shorter message of these numbers at these indices; numbers of one index are summed."""
    if "index" in shorter_frame(count, len(index)):
        kind = torch.int16 if count <= _SHORT else torch.int32
        return pack({"update": numbers.float(), "index": index.to(kind)})
    return pack({"update": summed(count, index, numbers).float()})


def summed(count: int, index: Tensor, numbers: Tensor) -> Tensor:
    """All K numbers, fp64."""
    return torch.zeros(count, dtype=torch.float64).index_add_(0, index.long(), numbers.double())


def unpacked(count: int, payload: bytes) -> Tensor:
    """All K numbers of a message, fp64; InputError for one of another K."""
    frame = unpack(payload)
    numbers = frame.get("update", torch.zeros(0))
    index = frame.get("index", torch.arange(count)).long()
    fits = numbers.dtype == torch.float32 and len(numbers) == len(index)
    if not fits or bool(((index < 0) | (index >= count)).any()):
        raise InputError("payload", f"{len(numbers)} coefficients", f"those of {count} directions")
    return summed(count, index, numbers)


@final
@dataclass(frozen=True)
class CoefficientCodec(Codec):
    """What a zeroth-order client found in a round of `steps` steps.

    Decoded, it is `sum_k a_k z_k`: where the client arrived, but for the rounding of its way.
    """

    takes_coefficients = True
    directions: Directions
    steps: int

    @property
    def shares_directions(self) -> bool:
        """The candidates are those of the run."""
        return True

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        """Of `LocalResult.coefficients`."""
        return packed(self.directions.count, change["index"], change["coefficient"])

    def coefficients(self, payload: bytes, template: Shapes, plan: ClientPlan) -> Tensor:
        return unpacked(self.directions.count, payload)

    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        numbers = unpacked(self.directions.count, payload)
        size = coordinates(template)
        total = torch.zeros(size, dtype=torch.float64)
        for index in numbers.nonzero().flatten().tolist():
            drawn = torch.from_numpy(self.directions.whole(index, size))
            total += float(numbers[index]) * drawn.double()
        return unflatten(total.float(), template)

    def payload_bits(self, shapes: Shapes, plan: ClientPlan) -> int:
        return 8 * frame_bytes(shorter_frame(self.directions.count, self.steps))


@dataclass(frozen=True)
class CoefficientMemory:
    """What the server remembers: a, when each number last changed, and what each client has.

    `changed` is the round (from 0) whose merge changed a number, `held` the last round whose
    broadcast a client received; that one has all changes of the rounds before.
    """

    coefficients: Tensor
    changed: Tensor
    held: tuple[int, ...] = ()

    @classmethod
    def read(cls, tensors: TensorMap, count: int) -> "CoefficientMemory":
        """From the server's memory; before round 1 there is none."""
        if not tensors:
            return cls(torch.zeros(count), torch.full((count,), _NEVER))
        held = tuple(int(one) for one in tensors["held"])
        return cls(tensors["coefficients"], tensors["changed"], held)

    def tensors(self) -> dict[str, Tensor]:
        """As tensors of a checkpoint."""
        held = torch.tensor(self.held, dtype=torch.int64)
        return {"coefficients": self.coefficients, "changed": self.changed, "held": held}

    def lacking(self, client: int) -> int:
        """How many numbers have changed since this client had the model."""
        first = first_lacking(self.held, client)
        return int((self.changed >= first).sum())

    def after(
        self, round_index: int, received: Iterable[int], coefficients: Tensor
    ) -> "CoefficientMemory":
        """After a round whose broadcast these clients received."""
        held = held_after(self.held, received, round_index)
        moved = coefficients != self.coefficients
        return CoefficientMemory(coefficients, torch.where(moved, round_index, self.changed), held)


@final
@dataclass(frozen=True, eq=False)
class CoefficientSum(ContextAggregator):
    """`a <- a + sum_n w_n a_n`, in fp64 and in client order, kept in fp32; the adapter is w(a)."""

    uses_shares = True
    sums_coefficients = True
    model: SeededModel

    def aggregate_in(
        self, state: Mapping[str, Tensor], updates: Sequence[Update], context: ServerContext
    ) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
        known = CoefficientMemory.read(context.memory, self.model.directions.count)
        total = known.coefficients.double()
        for share, update in zip(shares_of(updates) if updates else (), updates, strict=True):
            assert update.coefficients is not None, "a codec that shares directions has them"
            total += share * update.coefficients
        following = known.after(context.round_index, context.received, total.float())
        return self.model.at(following.coefficients), following.tensors()


@final
@dataclass(frozen=True, eq=False)
class CoefficientDownlink(Codec):
    """The broadcast of a, from which clients make the model; w_0 never travels.

    A client keeps its sum in whole numbers (`tuning.directions.SeededModel`), so it draws and adds
    only the directions whose number has changed since it last took part: `DRAW_FLOPS` + 2
    operations a coordinate, which it is charged. `usual` is how many change in a round, for
    predictions that are made without the server's state; all K are then on the air.
    """

    carries_coefficients = True
    model: SeededModel
    usual: int = 0
    memory: CoefficientMemory | None = field(default=None, repr=False)

    def to_cohort(
        self, memory: TensorMap, cohort: Sequence[int], round_index: int
    ) -> "CoefficientDownlink":
        if not memory and round_index > 0:
            return self  # a round that is only predicted
        return replace(self, memory=CoefficientMemory.read(memory, self._count))

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        if self.memory is None:
            raise ValueError("bind the downlink first: downlink.to_cohort(memory, cohort, round)")
        numbers = self.memory.coefficients
        index = numbers.nonzero().flatten()
        return packed(self._count, index, numbers[index])

    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        return self.model.at(unpacked(self._count, payload).float())

    def payload_bits(self, shapes: Shapes, plan: ClientPlan) -> int:
        known = self.memory
        sent = self._count if known is None else int(known.coefficients.count_nonzero())
        return 8 * frame_bytes(shorter_frame(self._count, sent))

    def receiver_flops(self, shapes: Shapes, plan: ClientPlan) -> float:
        known = self.memory
        added = self.usual if known is None else known.lacking(plan.client)
        return (DRAW_FLOPS + 2.0) * added * coordinates(shapes)

    @property
    def _count(self) -> int:
        return self.model.directions.count
