"""The update of a client that trained a random choice of ranks, without a bit for which ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.round_plan import ClientPlan, Decision
from airtune.tuning.adapter import factor_pairs
from airtune.tuning.sketch import sketch_mask
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
from airtune.update.means import FactorMean
from airtune.update.partial import FirstRanksCodec
from airtune.update.server import Aggregator, Update


@final
@dataclass(frozen=True, eq=False)
class SketchCodec(Codec):
    """The chosen ranks of every matrix, as one flat tensor; decoded times r / k.

    Every rank of a matrix is chosen with probability k / r, so that the mean over choices of the
    decoded change is the change itself, where a rank's change does not depend on the others chosen.
    With all ranks these are `DenseCodec`'s bytes. Decoding scales, so encoding what was decoded
    gives another payload.
    """

    honours = frozenset({Decision.RANK, Decision.SKETCH})
    on_factors = True
    dtype: str = "fp32"
    broadcast: TensorMap | None = None

    def __post_init__(self) -> None:
        DenseCodec(self.dtype)  # refuses an unknown dtype

    def in_round(self, broadcast: TensorMap) -> "SketchCodec":
        return replace(self, broadcast=broadcast)

    def trained(self, plan: ClientPlan) -> TensorMap | None:
        if self.broadcast is None:
            raise ValueError("bind the codec first: codec.in_round(broadcast)")
        return sketch_mask(shapes_of(self.broadcast), plan)

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        kept = sketch_mask(shapes_of(change), plan)
        vector = torch.cat([change[name][kept[name]] for name in sorted(change)])
        return pack({"update": vector.to(WIRE_DTYPES[self.dtype])})

    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        vector = unpack(payload)["update"].to(torch.float32)
        kept = sketch_mask(dict(template), plan)
        count = sum(int(mask.sum()) for mask in kept.values())
        if len(vector) != count:
            raise InputError("payload", f"{len(vector)} numbers", f"{count} for its ranks")
        change, begin = {name: torch.zeros(shape) for name, shape in template.items()}, 0
        for name in sorted(template):
            end = begin + int(kept[name].sum())
            change[name][kept[name]] = vector[begin:end]
            begin = end
        return _scaled(change, template, plan)

    def payload_bits(self, shapes: Shapes, plan: ClientPlan) -> int:
        return FirstRanksCodec(self.dtype).payload_bits(shapes, plan)


def _scaled(change: Mapping[str, Tensor], shapes: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
    scaled = dict(change)
    for pair in factor_pairs(shapes):
        whole = shapes[pair.lora_a][0]
        kept = min(plan.rank, whole)
        if kept < whole:
            for name in (pair.lora_a, pair.lora_b):
                scaled[name] = scaled[name] * (whole / kept)
    return scaled


@final
class SketchMean(Aggregator):
    """`FactorMean` of updates of any ranks: what was not trained is no change, and the codec's
    r / k makes up for it."""

    honours = frozenset({Decision.RANK, Decision.SKETCH})
    keeps_unchanged = True
    on_factors = True
    uses_shares = True

    def aggregate(
        self, state: Mapping[str, Tensor], updates: Sequence[Update]
    ) -> dict[str, Tensor]:
        return FactorMean().aggregate(state, updates)
