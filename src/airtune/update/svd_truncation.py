"""The best approximation of lower rank of each factor's change, by SVD: the costly baseline."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.round_plan import ClientPlan, Decision
from airtune.tuning.factors import factor_pairs
from airtune.update.codec import Codec, Shapes, TensorMap, pack, unpack
from airtune.update.quantise import check_format, content_draws, from_wire, to_wire, wire_frame
from airtune.update.rank_sparse import KeptCounts, counts_by_plan, matrix_ranks
from airtune.workload.payload import frame_bytes


def truncated_product(lora_a: Tensor, lora_b: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Factors (A, B) of the best approximation of rank `kept` to `B A`, without making `B A`.

    Thin QR `B = Q_b R_b`, `A^T = Q_a R_a`, then the SVD of the rank x rank matrix `R_b R_a^T`
    (Golub and Van Loan, Matrix Computations, 4th ed., sections 5.2 and 2.4).
    """
    q_b, r_b = torch.linalg.qr(lora_b)
    q_a, r_a = torch.linalg.qr(lora_a.T)
    left, values, right = torch.linalg.svd(r_b @ r_a.T)
    return right[:kept] @ q_a.T, q_b @ (left[:, :kept] * values[:kept])


@final
@dataclass(frozen=True)
class SvdCodec(Codec):
    """Each factor's change as the product of two thin factors of the kept rank.

    Truncating each factor's change, not `B A`, keeps the clients' factors in one basis, so that
    the server may average them; no choice of as many ranks has a smaller error in A or in B. A
    factor that would not get smaller travels whole.
    """

    honours = frozenset({Decision.SPARSITY, Decision.KEPT_RANKS})
    on_factors = True
    dtype: str = "fp32"
    seed: int = 0
    kept: KeptCounts = counts_by_plan

    def __post_init__(self) -> None:
        check_format(self.dtype)

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        shapes = {name: tuple(tensor.shape) for name, tensor in change.items()}
        parts: list[Tensor] = []
        for name, kept in self._factors(shapes, plan):
            parts += (
                _truncate(change[name], kept) if _shrinks(shapes[name], kept) else [change[name]]
            )
        vector = torch.cat([part.flatten() for part in parts])
        draws = partial(content_draws, self.seed, plan.client, vector)
        return pack(to_wire("update", vector, self.dtype, draws))

    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        vector = from_wire(unpack(payload), "update", self.dtype)
        expected = self._numbers(template, plan)
        if len(vector) != expected:
            raise InputError("payload", f"{len(vector)} numbers", f"{expected} numbers, as planned")
        change, start = {}, 0
        for name, kept in self._factors(template, plan):
            size = _sent(template[name], kept)
            part, start = vector[start : start + size], start + size
            change[name] = _restore(part, template[name], kept)
        return {name: change[name] for name in template}

    def payload_bits(self, shapes: Shapes, plan: ClientPlan) -> int:
        return 8 * frame_bytes(wire_frame("update", self._numbers(shapes, plan), self.dtype))

    def _factors(self, shapes: Shapes, plan: ClientPlan) -> Iterator[tuple[str, int]]:
        counts = self.kept(matrix_ranks(shapes), plan)
        for pair, kept in zip(factor_pairs(shapes), counts, strict=True):
            yield pair.lora_a, kept
            yield pair.lora_b, kept

    def _numbers(self, shapes: Shapes, plan: ClientPlan) -> int:
        return sum(_sent(shapes[name], kept) for name, kept in self._factors(shapes, plan))


def _shrinks(shape: Sequence[int], kept: int) -> bool:
    return kept * (shape[0] + shape[1]) < shape[0] * shape[1]


def _sent(shape: Sequence[int], kept: int) -> int:
    return kept * (shape[0] + shape[1]) if _shrinks(shape, kept) else shape[0] * shape[1]


def _truncate(matrix: Tensor, kept: int) -> list[Tensor]:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return [left[:, :kept] * values[:kept], right[:kept]]


def _restore(part: Tensor, shape: Sequence[int], kept: int) -> Tensor:
    if not _shrinks(shape, kept):
        return part.view(shape[0], shape[1])
    rows = kept * shape[0]
    return part[:rows].view(shape[0], kept) @ part[rows:].view(kept, shape[1])
