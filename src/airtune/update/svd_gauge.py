"""The same update in orthogonal factors: a change of gauge on the server, which costs no loss.

`B A = (B R^-1)(R A)` for every invertible R, so the server may choose R: here the one that makes
the factors those of the singular value decomposition. Penalties bring clients near to it, at some
loss; this reaches it, at none.
"""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from airtune.tuning.factors import factor_pairs
from airtune.update.aggregate import Aggregator, Update


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

    Everybody starts the next round from the same broadcast, so clients' factors may be averaged as
    before.
    """

    refactors = True
    on_factors = True

    def __init__(self, merge: Aggregator) -> None:
        self.merge = merge
        self.honours, self.requires = merge.honours, merge.requires
        self.fills_unsent = merge.fills_unsent

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
