"""Singular value decompositions of updates, always of matrices of the size of the rank.

Energies of a change of `B A`; the best approximation of lower rank of each factor's change, as a
codec (the costly baseline of `airtune.update.rank_sparse`); and a change of gauge on the server:
`B A = (B R^-1)(R A)` for every invertible R, so the server may choose the R that makes the factors
those of the singular value decomposition. Penalties bring clients near to it, at some loss; the
change of gauge reaches it, at none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.round_plan import ClientPlan, Decision
from airtune.tuning.adapter import factor_pairs
from airtune.update.codec import Codec, Shapes, TensorMap, pack, unpack
from airtune.update.quantise import check_format, content_draws, from_wire, to_wire, wire_frame
from airtune.update.rank_sparse import KeptCounts, counts_by_plan, matrix_ranks
from airtune.update.server import Aggregator, Update
from airtune.workload.payload import frame_bytes


def change_spectrum(start: Mapping[str, Tensor], change: Mapping[str, Tensor]) -> Tensor:
    """Energies (squared singular values) of `B1 A1 - B0 A0`, falling, summed over the matrices.

    `B1 A1 - B0 A0 = [B1, -B0] [A1; A0]`, so thin QR of both and an SVD of twice the rank suffice
    (Golub and Van Loan, Matrix Computations, 4th ed., 5.2). Entry k is the energy that rank k + 1
    adds to the best approximation of rank k, if every matrix has the same rank.
    """
    spectra = []
    for pair in factor_pairs(start):
        a0, b0 = start[pair.lora_a].double(), start[pair.lora_b].double()
        a1, b1 = a0 + change[pair.lora_a].double(), b0 + change[pair.lora_b].double()
        r_b = torch.linalg.qr(torch.cat([b1, -b0], dim=1)).R
        r_a = torch.linalg.qr(torch.cat([a1, a0]).T).R
        spectra.append(torch.linalg.svdvals(r_b @ r_a.T).square())
    longest = max(len(values) for values in spectra)
    padded = [torch.nn.functional.pad(values, (0, longest - len(values))) for values in spectra]
    return torch.stack(padded).sum(0)


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


def svd_gauge(lora_a: Tensor, lora_b: Tensor) -> tuple[Tensor, Tensor]:
    """Factors (A', B') with `B' A' = B A`, orthogonal rows of A', orthogonal columns of B'.

    `B A = U S V^T` from thin QR of both and the SVD of the rank x rank product (Golub and Van Loan,
    Matrix Computations, 4th ed., 5.2); `A' = s V^T` and `B' = U S / s`, where s is the root mean
    square of A's row norms: A keeps its size, and with it the pace at which B learns. Then
    `||b'_i|| ||a'_i||` are the singular values, and the largest K are the best approximation of
    rank K. Ranks come in the order and with the signs that leave A's rows nearest to what they
    were, since optimiser moments on the clients go by position. A (rank, in), rank <= in; B
    (out, rank); made in fp64.
    """
    # A quarter of a second, which only this merge has to wait for.
    from scipy.optimize import linear_sum_assignment

    rank = len(lora_a)
    a, b = lora_a.to(torch.float64), lora_b.to(torch.float64)
    scale = torch.linalg.matrix_norm(a) / rank**0.5
    if rank > a.shape[1] or scale == 0:
        return lora_a, lora_b
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    left, values, right = torch.linalg.svd(r_b @ r_a.T)
    rows = right @ q_a.T
    columns = torch.zeros_like(b)
    columns[:, : len(values)] = (q_b @ left[:, : len(values)]) * (values / scale)
    likeness = torch.nn.functional.normalize(a, dim=1) @ rows.T
    order = torch.from_numpy(linear_sum_assignment(-likeness.abs().numpy())[1])
    signs = torch.where(likeness.gather(1, order[:, None])[:, 0] < 0, -1.0, 1.0)
    aligned_a, aligned_b = scale * rows[order] * signs[:, None], columns[:, order] * signs
    return aligned_a.to(lora_a.dtype), aligned_b.to(lora_b.dtype)


@final
class SvdGauge(Aggregator):
    """Merges as another aggregator does, then puts every matrix into the gauge of its SVD.

    All clients start the next round from the same broadcast, so clients' factors may be averaged as
    before.
    """

    refactors = True
    on_factors = True

    def __init__(self, merge: Aggregator) -> None:
        self.merge = merge
        self.honours, self.requires = merge.honours, merge.requires
        self.fills_unsent, self.uses_shares = merge.fills_unsent, merge.uses_shares

    def replaced_by(self, aggregator: Aggregator) -> Aggregator:
        return aggregator if isinstance(aggregator, SvdGauge) else SvdGauge(aggregator)

    def aggregate(
        self, state: Mapping[str, Tensor], updates: Sequence[Update]
    ) -> dict[str, Tensor]:
        merged = self.merge.aggregate(state, updates)
        for pair in factor_pairs(merged):
            merged[pair.lora_a], merged[pair.lora_b] = svd_gauge(
                merged[pair.lora_a], merged[pair.lora_b]
            )
        return merged
