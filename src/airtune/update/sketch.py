"""The update of a client that trained a random choice of ranks, without a bit for which ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from torch import Tensor

from airtune.round_plan import ClientPlan, Decision
from airtune.tuning.adapter import factor_pairs
from airtune.tuning.sketch import sketch_mask
from airtune.update.codec import Codec, Shapes, TensorMap, shapes_of
from airtune.update.means import FactorMean
from airtune.update.partial import FirstRanksCodec, from_masked, masked_payload
from airtune.update.quantise import check_format
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
    seed: int = 0
    broadcast: TensorMap | None = None

    def __post_init__(self) -> None:
        check_format(self.dtype)

    def in_round(self, broadcast: TensorMap) -> "SketchCodec":
        return replace(self, broadcast=broadcast)

    def trained(self, plan: ClientPlan) -> TensorMap | None:
        if self.broadcast is None:
            raise ValueError("bind the codec first: codec.in_round(broadcast)")
        return sketch_mask(shapes_of(self.broadcast), plan)

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        kept = sketch_mask(shapes_of(change), plan)
        return masked_payload(change, kept, self.dtype, self.seed, plan)

    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        change = from_masked(payload, sketch_mask(dict(template), plan), self.dtype)
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
