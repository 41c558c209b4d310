"""Sums of coefficients on a round's directions as the broadcast: what each client lacks.

Where all clients of a round have the same directions, the server's step is itself a sum of
coefficients,

    w_(t+1) = w_t + sum_l sum_k b_lk v_lk(t),    b_lk = sum_n w_n s_ln c_lkn

with the clients' coefficients c and the factors s of their estimates. A client that keeps the model
of round t and draws the directions, which follow from that model and the seed, makes w_(t+1) from
the b alone, in fp32 and to the server's bits. Directions change by round, so a client that missed
rounds needs the b of each; once all of them have as many numbers as the model, the model itself is
sent. Before round 1 every client has the start: the pretrained model, and LoRA as drawn.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np
import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.round_plan import ClientPlan
from airtune.update.codec import (
    Codec,
    Shapes,
    TensorMap,
    coordinates,
    flatten,
    pack,
    shapes_of,
    unflatten,
    unpack,
)
from airtune.update.held_rounds import first_lacking, held_after
from airtune.update.seeded import SeededCodec
from airtune.update.server import ContextAggregator, ServerContext, Update
from airtune.update.weighting import shares_of
from airtune.workload.payload import frame_bytes

_HELD, _FROM = "held", "remembered_from"


@dataclass(frozen=True)
class Sum:
    """What a round added to the model: how many coefficients of each block, and all of them."""

    round_index: int
    counts: tuple[int, ...]
    numbers: Tensor = field(repr=False)

    @classmethod
    def of(cls, round_index: int, slots: Tensor, sizes: Sequence[int]) -> "Sum":
        """From a number for each coordinate (`SeededCodec.coefficients`), rounded to fp32.

        Of a block travels everything up to its last number that is not 0.
        """
        kept = [piece[: _used(piece)] for piece in torch.split(slots.float(), list(sizes))]
        return cls(round_index, tuple(map(len, kept)), torch.cat(kept))

    def added_to(self, model: TensorMap, codec: SeededCodec) -> dict[str, Tensor]:
        """The model after this round, fp32: summed in fp64, rounded once."""
        bound, numbers = codec.in_round(model), self.numbers.double().numpy()
        vector = flatten(model).double().numpy()
        moved = vector + bound.combined(numbers, self.counts, len(vector))
        return unflatten(torch.from_numpy(moved.astype(np.float32)), shapes_of(model))


def _used(piece: Tensor) -> int:
    places = piece.nonzero()
    return int(places[-1]) + 1 if len(places) else 0


@dataclass(frozen=True)
class SumMemory:
    """The sums that the server remembers, and the first round whose sum each client lacks.

    Sums of rounds before `remembered_from` are remembered no more: they and what came after have
    more numbers than the model.
    """

    sums: tuple[Sum, ...] = ()
    held: tuple[int, ...] = ()
    remembered_from: int = 0

    @classmethod
    def read(cls, tensors: TensorMap) -> "SumMemory":
        """From the server's memory."""
        if not tensors:
            return cls()
        rounds = sorted(int(name.partition("/")[0]) for name in tensors if name.endswith("/counts"))
        sums = (
            Sum(index, tuple(tensors[f"{index}/counts"].tolist()), tensors[f"{index}/numbers"])
            for index in rounds
        )
        return cls(tuple(sums), tuple(tensors[_HELD].tolist()), int(tensors[_FROM]))

    def tensors(self) -> dict[str, Tensor]:
        """As tensors of a checkpoint."""
        made = {
            _HELD: torch.tensor(self.held, dtype=torch.int64),
            _FROM: torch.tensor(self.remembered_from),
        }
        for one in self.sums:
            made[f"{one.round_index}/counts"] = torch.tensor(one.counts, dtype=torch.int64)
            made[f"{one.round_index}/numbers"] = one.numbers
        return made

    def first_lacking(self, client: int) -> int:
        """The first round whose sum this client does not have, as far as the server knows."""
        return first_lacking(self.held, client)

    def after(
        self, round_index: int, heard: Iterable[int], added: Sum | None, size: int
    ) -> "SumMemory":
        """After a round in which these clients answered; `size` are the numbers of the model."""
        held = held_after(self.held, heard, round_index)
        kept, first = [*self.sums, *([] if added is None else [added])], self.remembered_from
        while kept and sum(len(one.numbers) for one in kept) >= size:
            first = kept.pop(0).round_index + 1
        return SumMemory(tuple(kept), held, first)


@final
@dataclass(frozen=True)
class SeededSum(ContextAggregator):
    """The model after a round from the sum of its coefficients, rounded to fp32.

    The mean of what clients sent but for that rounding.
    """

    uses_shares = True
    sums_coefficients = True
    codec: SeededCodec

    def aggregate_in(
        self, state: Mapping[str, Tensor], updates: Sequence[Update], context: ServerContext
    ) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
        known, size = SumMemory.read(context.memory), coordinates(shapes_of(state))
        heard = [update.client for update in updates]
        if not updates:
            return dict(state), known.after(context.round_index, heard, None, size).tensors()
        total = torch.zeros(size, dtype=torch.float64)
        for share, update in zip(shares_of(updates), updates, strict=True):
            assert update.coefficients is not None, "a codec that shares directions has them"
            total += share * update.coefficients
        added = Sum.of(context.round_index, total, self.codec.sizes(size))
        following = known.after(context.round_index, heard, added, size)
        return added.added_to(state, self.codec), following.tensors()


@dataclass(frozen=True)
class _Message:
    """The sums that a cohort lacks from round `first` on, or the whole model in round `index`."""

    index: int
    first: int
    sums: tuple[Sum, ...]
    memory: SumMemory

    def whole(self, size: int) -> bool:
        forgotten = self.first < self.memory.remembered_from
        return forgotten or sum(len(one.numbers) for one in self.sums) >= size

    def heading(self, size: int) -> list[int]:
        """Round; first round that it brings; then round, number and counts of blocks of each sum.

        The whole model brings everything, so its first round is 0."""
        if self.whole(size):
            return [self.index, 0]
        parts = [(one.round_index, len(one.counts), *one.counts) for one in self.sums]
        return [self.index, self.first, *(number for part in parts for number in part)]


@final
@dataclass(frozen=True, eq=False)
class SeededDownlink(Codec):
    """The broadcast of the sums that some client of the cohort lacks; each adds those it lacks.

    `start` is what every client has before round 1.
    """

    carries_coefficients = True
    keeps_model = True
    codec: SeededCodec
    start: TensorMap = field(repr=False)
    message: _Message | None = field(default=None, repr=False)

    def to_cohort(
        self, memory: TensorMap, cohort: Sequence[int], round_index: int
    ) -> "SeededDownlink":
        if not memory and round_index > 0:
            return self  # a round that is only predicted
        known = SumMemory.read(memory)
        first = min((known.first_lacking(client) for client in cohort), default=round_index)
        sums = tuple(one for one in known.sums if one.round_index >= first)
        return replace(self, message=_Message(round_index, first, sums, known))

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        if self.message is None:
            raise ValueError("bind the downlink first: downlink.to_cohort(memory, cohort, round)")
        size = coordinates(shapes_of(change))
        frame = {"heading": torch.tensor(self.message.heading(size), dtype=torch.int32)}
        if self.message.whole(size):
            frame["model"] = flatten(change)
        elif self.message.sums:
            frame["sums"] = torch.cat([one.numbers for one in self.message.sums])
        return pack(frame)

    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        """Of a client that keeps no model but the start."""
        return self.received(payload, {}, 0, template)

    def received(
        self, payload: bytes, held: TensorMap, held_round: int, template: Shapes
    ) -> dict[str, Tensor]:
        frame = unpack(payload)
        heading = frame["heading"].tolist()
        if "model" in frame:
            return unflatten(frame["model"], template)
        if held_round < heading[1]:
            raise InputError(
                "broadcast",
                f"sums from round {heading[1] + 1} on",
                f"those from round {held_round + 1} on, from where this client has no model",
            )
        model = dict(held) or {name: self.start[name] for name in template}
        for one in _read(heading, frame.get("sums", torch.zeros(0))):
            if one.round_index >= held_round:
                model = one.added_to(model, self.codec)
        return model

    def payload_bits(self, shapes: Shapes, plan: ClientPlan) -> int:
        size, message = coordinates(shapes), self.message or self._usual(coordinates(shapes))
        frame: dict[str, tuple[str, list[int]]] = {"heading": ("I32", [len(message.heading(size))])}
        if message.whole(size):
            frame["model"] = ("F32", [size])
        elif message.sums:
            frame["sums"] = ("F32", [sum(len(one.numbers) for one in message.sums)])
        return 8 * frame_bytes(frame)

    def receiver_flops(self, shapes: Shapes, plan: ClientPlan) -> float:
        """Directions and sums of the rounds that this client lacks."""
        size = coordinates(shapes)
        message = self.message or self._usual(size)
        if message.whole(size):
            return 0.0
        first = message.memory.first_lacking(plan.client)
        lacking = [one for one in message.sums if one.round_index >= first]
        return sum(self.codec.combining_flops(one.counts, size) + size for one in lacking)

    def _usual(self, size: int) -> _Message:
        """One round's sum, for a client that was there."""
        number, blocks = min(self.codec.directions, size), len(self.codec.sizes(size))
        usual = Sum(0, (number, *(0,) * (blocks - 1)), torch.zeros(()).expand(number))
        return _Message(1, 0, (usual,), SumMemory())


def _read(heading: Sequence[int], numbers: Tensor) -> list[Sum]:
    """The sums of a message."""
    found: list[Sum] = []
    place, start = 2, 0
    while place < len(heading):
        blocks = heading[place + 1]
        counts = tuple(heading[place + 2 : place + 2 + blocks])
        end = start + sum(counts)
        found.append(Sum(heading[place], counts, numbers[start:end]))
        place, start = place + 2 + blocks, end
    if start != len(numbers):
        raise InputError("broadcast", f"{len(numbers)} numbers", f"{start} for its sums")
    return found
