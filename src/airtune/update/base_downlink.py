"""The broadcast of a method that merges products into the frozen base: only what clients lack.

After a round the server merges `sum over parts of B_i A_i` into every adapted matrix (an
increment). A client that received the broadcast of round t keeps the base as of then; the next one
that it needs has the increments since. Both ends know the shapes and the ranks of the parts, so a
matrix travels in the form that has fewer numbers:

    factors  (in + out) times the ranks of all increments that a client of the cohort lacks
    dense    in x out, the whole change of the matrix since round 1

always in fp32, so that every client holds the server's base to the bit. The server remembers the
increments for as long as factors are the shorter form for any matrix, and what each client holds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.round_plan import ClientPlan
from airtune.seeds import generator
from airtune.tuning.adapter import FactorPair, factor_pairs
from airtune.tuning.base_change import change_name, changes_of, factors_of
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
from airtune.update.held_rounds import first_lacking, held_after
from airtune.workload.payload import WIRE_DTYPES as FRAME_DTYPES
from airtune.workload.payload import frame_bytes

_HELD, _LIMITS, _FROM = "held", "limits", "remembered_from"


@dataclass(frozen=True)
class Increment:
    """What a round added to the base: the factors of its parts, stacked, by the adapter's names.

    `limits` has the rank of each part; in a matrix whose adapter has fewer ranks it is that many.
    """

    round_index: int
    limits: tuple[int, ...]
    factors: Mapping[str, Tensor] = field(repr=False)

    def rank(self, adapter_rank: int) -> int:
        """Ranks of all parts together, in a matrix whose adapter has this rank."""
        return stacked_rank(self.limits, adapter_rank)


def stacked_rank(limits: Iterable[int], adapter_rank: int) -> int:
    """Ranks of all parts together, in a matrix whose adapter has this rank."""
    return sum(min(limit, adapter_rank) for limit in limits)


@dataclass(frozen=True)
class BaseMemory:
    """The increments that the server remembers, and the round from which on each client lacks them.

    A client's entry of `held` is the first round whose increment it does not have. Increments of
    rounds before `remembered_from` are remembered no more.
    """

    increments: tuple[Increment, ...] = ()
    held: tuple[int, ...] = ()
    remembered_from: int = 0

    @classmethod
    def read(cls, tensors: TensorMap) -> "BaseMemory":
        """From what a checkpoint has under the aggregator's memory."""
        by_round: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            number, _, own = name.partition("/")
            if own:
                by_round.setdefault(int(number), {})[own] = tensor
        increments = []
        for index, found in sorted(by_round.items()):
            limits = tuple(int(limit) for limit in found.pop(_LIMITS))
            increments.append(Increment(index, limits, found))
        if not tensors:
            return cls()
        held = tuple(int(first) for first in tensors[_HELD])
        return cls(tuple(increments), held, int(tensors[_FROM]))

    def tensors(self) -> dict[str, Tensor]:
        """As tensors of a checkpoint."""
        made = {
            _HELD: torch.tensor(self.held, dtype=torch.int64),
            _FROM: torch.tensor(self.remembered_from, dtype=torch.int64),
        }
        for one in self.increments:
            made[f"{one.round_index}/{_LIMITS}"] = torch.tensor(one.limits, dtype=torch.int64)
            made |= {f"{one.round_index}/{name}": part for name, part in one.factors.items()}
        return made

    def first_lacking(self, client: int) -> int:
        """The first round whose increment this client does not have."""
        return first_lacking(self.held, client)

    def after(
        self, round_index: int, received: Iterable[int], increment: Increment | None, shapes: Shapes
    ) -> "BaseMemory":
        """After a round whose broadcast these clients received, and what it added to the base."""
        held = held_after(self.held, received, round_index)
        kept = [*self.increments, *([] if increment is None else [increment])]
        first = self.remembered_from
        while kept and not _any_shorter(kept, shapes):
            first = kept.pop(0).round_index + 1
        return BaseMemory(tuple(kept), held, first)


def _any_shorter(increments: Sequence[Increment], shapes: Shapes) -> bool:
    """Whether any matrix has fewer numbers as factors of all these increments than dense."""
    limits = [limit for one in increments for limit in one.limits]
    return any(not _dense(limits, shapes, pair) for pair in factor_pairs(shapes))


def _sizes(shapes: Shapes, pair: FactorPair) -> tuple[int, int, int]:
    """Rank, inputs and outputs of a matrix's adapter."""
    rank, width = shapes[pair.lora_a]
    return rank, width, shapes[pair.lora_b][0]


def _dense(limits: Sequence[int], shapes: Shapes, pair: FactorPair) -> bool:
    rank, width, out = _sizes(shapes, pair)
    return _dense_is_shorter(stacked_rank(limits, rank), width, out)


def _dense_is_shorter(rank: int, width: int, out: int) -> bool:
    return rank * (width + out) >= width * out


def merged_into(changes: TensorMap, increment: Increment) -> dict[str, Tensor]:
    """The base after an increment: `C + B A`, summed in fp64 and rounded to fp32."""
    following = dict(changes)
    for pair in factor_pairs(increment.factors):
        product = increment.factors[pair.lora_b].double() @ increment.factors[pair.lora_a].double()
        name = change_name(pair)
        following[name] = (changes[name].double() + product).float()
    return following


def fresh_factors(shapes: Shapes, seed: int, round_index: int) -> dict[str, Tensor]:
    """The adapter with which every client begins a round: A drawn, B zero.

    A is uniform in +-1/sqrt(in), as PEFT draws it, from (seed, round): no bit of it travels.
    """
    draws = generator(seed, "adapter", round_index)
    made: dict[str, Tensor] = {}
    for pair in factor_pairs(shapes):
        rank, width, out = _sizes(shapes, pair)
        bound = width**-0.5
        made[pair.lora_a] = torch.from_numpy(draws.uniform(-bound, bound, (rank, width))).float()
        made[pair.lora_b] = torch.zeros(out, rank)
    return {name: made[name] for name in shapes}


@dataclass(frozen=True)
class _Message:
    """What the broadcast of a round has for a cohort.

    `whole`: increments that some client lacks are remembered no more, so every matrix is dense.
    """

    round_index: int
    increments: tuple[Increment, ...]
    memory: BaseMemory
    whole: bool

    @cached_property
    def limits(self) -> list[int]:
        return [limit for one in self.increments for limit in one.limits]

    @cached_property
    def _stacked(self) -> dict[int, int]:
        """Ranks of all parts together, by the adapter's rank; filled as matrices ask."""
        return {}

    @property
    def is_empty(self) -> bool:
        return not self.whole and not self.increments

    def dense(self, shapes: Shapes, pair: FactorPair) -> bool:
        rank, width, out = _sizes(shapes, pair)
        if rank not in self._stacked:
            self._stacked[rank] = stacked_rank(self.limits, rank)
        return self.whole or _dense_is_shorter(self._stacked[rank], width, out)

    def heading(self) -> list[int]:
        """Round; 1 where all is dense; then round, number of parts and ranks of each increment."""
        parts = [(one.round_index, len(one.limits), *one.limits) for one in self.increments]
        return [self.round_index, int(self.whole), *(number for part in parts for number in part)]


@final
@dataclass(frozen=True, eq=False)
class BaseDownlink(Codec):
    """The broadcast of the adapter, and of what was merged into the base since a client has it.

    `dtype` is that of the adapter's factors; None: clients draw them (`fresh_factors`), and nothing
    of them travels. `expected` are the ranks of the parts of a usual round, for predictions that
    are made without the server's state.
    """

    carries_base = True
    dtype: str | None = None
    seed: int = 0
    expected: tuple[int, ...] = ()
    message: _Message | None = None

    def to_cohort(
        self, memory: TensorMap, cohort: Sequence[int], round_index: int
    ) -> "BaseDownlink":
        if not memory and round_index > 0:
            return self  # a round that is only predicted
        known = BaseMemory.read(memory)
        first = min((known.first_lacking(client) for client in cohort), default=round_index)
        needed = tuple(one for one in known.increments if one.round_index >= first)
        forgotten = first < known.remembered_from
        return replace(self, message=_Message(round_index, needed, known, forgotten))

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        message = self._bound()
        shapes = {name: tuple(tensor.shape) for name, tensor in factors_of(change).items()}
        frame = {"heading": torch.tensor(message.heading(), dtype=torch.int32)}
        if self.dtype is not None:
            frame["update"] = flatten(factors_of(change)).to(WIRE_DTYPES[self.dtype])
        if not message.is_empty:
            frame["base"] = torch.cat(list(self._pieces(message, shapes, changes_of(change))))
        return pack(frame)

    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        frame = unpack(payload)
        if self.dtype is None:
            return fresh_factors(template, self.seed, int(frame["heading"][0]))
        return unflatten(frame["update"].to(torch.float32), template)

    def payload_bits(self, shapes: Shapes, plan: ClientPlan) -> int:
        message = self.message or self._usual()
        frame: dict[str, tuple[str, list[int]]] = {"heading": ("I32", [len(message.heading())])}
        if self.dtype is not None:
            frame["update"] = (FRAME_DTYPES[self.dtype], [coordinates(shapes)])
        if not message.is_empty:
            numbers = sum(self._numbers(message, shapes, pair) for pair in factor_pairs(shapes))
            frame["base"] = ("F32", [numbers])
        return 8 * frame_bytes(frame)

    def receiver_flops(self, shapes: Shapes, plan: ClientPlan) -> float:
        """The products of the increments that this client lacks; a dense matrix is taken as it is.

        2 in out operations a rank.
        """
        message = self.message or self._usual()
        first = message.memory.first_lacking(plan.client)
        limits = [x for one in message.increments if one.round_index >= first for x in one.limits]
        sent = [pair for pair in factor_pairs(shapes) if not message.dense(shapes, pair)]
        sizes = [_sizes(shapes, pair) for pair in sent]
        stacked = {rank: stacked_rank(limits, rank) for rank in {size[0] for size in sizes}}
        return sum((2.0 * stacked[rank] * width * out for rank, width, out in sizes), 0.0)

    def received(
        self, payload: bytes, held: TensorMap, first_lacking: int, shapes: Shapes
    ) -> dict[str, Tensor]:
        """The base of a client that lacked the increments from a round on: the server's, to the
        bit. What a client does with the broadcast."""
        frame = unpack(payload)
        increments, whole = _read_heading(frame["heading"].tolist())
        following = dict(held)
        message = _Message(0, tuple(increments), BaseMemory(), whole)
        numbers = frame.get("base", torch.zeros(0))
        start = 0
        for pair in factor_pairs(shapes):
            rank, width, out = _sizes(shapes, pair)
            if message.is_empty:
                continue
            if message.dense(shapes, pair):
                end = start + width * out
                following[change_name(pair)] = numbers[start:end].view(out, width).clone()
                start = end
                continue
            for one in increments:
                parts = one.rank(rank)
                middle, end = start + parts * width, start + parts * (width + out)
                factors = {
                    pair.lora_a: numbers[start:middle].view(parts, width),
                    pair.lora_b: numbers[middle:end].view(out, parts),
                }
                if one.round_index >= first_lacking:
                    following |= merged_into(following, replace(one, factors=factors))
                start = end
        if start != numbers.numel():
            raise InputError("broadcast", f"{numbers.numel()} numbers", f"{start} for the base")
        return following

    def _bound(self) -> _Message:
        if self.message is None:
            raise ValueError("bind the downlink first: downlink.to_cohort(memory, cohort, round)")
        return self.message

    def _usual(self) -> _Message:
        """One round's increment, for a client that was there."""
        usual = Increment(0, self.expected, {})
        return _Message(1, (usual,) if self.expected else (), BaseMemory(), whole=False)

    @staticmethod
    def _numbers(message: _Message, shapes: Shapes, pair: FactorPair) -> int:
        rank, width, out = _sizes(shapes, pair)
        if message.dense(shapes, pair):
            return width * out
        return stacked_rank(message.limits, rank) * (width + out)

    @staticmethod
    def _pieces(message: _Message, shapes: Shapes, changes: TensorMap) -> Iterable[Tensor]:
        for pair in factor_pairs(shapes):
            if message.dense(shapes, pair):
                yield changes[change_name(pair)].flatten()
                continue
            for one in message.increments:
                yield one.factors[pair.lora_a].flatten()
                yield one.factors[pair.lora_b].flatten()


def _read_heading(numbers: Sequence[int]) -> tuple[list[Increment], bool]:
    """The increments without their factors, and whether every matrix is dense."""
    increments, place = [], 2
    while place < len(numbers):
        count = numbers[place + 1]
        limits = tuple(numbers[place + 2 : place + 2 + count])
        increments.append(Increment(numbers[place], limits, {}))
        place += 2 + count
    return increments, bool(numbers[1])
