"""Two merges that look at the clients' products `B_n A_n`, not at each factor alone.

The mean of products `W = sum_n p_n B_n A_n` is not the product of the mean factors:

    W - Bbar Abar = sum_n p_n (B_n - Bbar)(A_n - Abar)

Neither merge ever makes a matrix of the layer's size. Sums are taken in fp64 and in client order.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.round_plan import Decision
from airtune.tuning.adapter import FactorPair, factor_pairs
from airtune.update.means import FactorMean, deviations, mean_shares, part_way, zero_padded
from airtune.update.server import Aggregator, Update
from airtune.update.svd import truncated_product
from airtune.update.weighting import full_step, relative_shares, shares_of


@final
@dataclass(frozen=True)
class LoraFair(Aggregator):
    """The mean factors, B corrected so that the product comes nearest to the mean of products.

        D = M (Abar Abar^T + ridge trace(Abar Abar^T) / r I)^-1,
        M = sum_n p_n (B_n - Bbar) (A_n - Abar) Abar^T

    minimises `||W - (Bbar + D) Abar||_F^2 + ridge trace(Abar Abar^T) / r ||D||_F^2`; the server
    keeps `(Abar, Bbar + D)`. In the manner of LoRA-FAIR (Bian et al., arXiv 2411.14961), whose
    server descends on a cosine similarity in place of the norm: with a vanishing ridge D reaches
    the largest cosine that A's rows allow, too. Costs N r^2 (in + out) a matrix of N clients. What
    is left is `W (I - P)`, P the projector on the rows of Abar. Shares that sum to S move the
    factors S times as far.

    Raises InputError unless `ridge` is a number of at least 0.
    """

    on_factors = True
    uses_shares = True
    ridge: float = 0.01

    def __post_init__(self) -> None:
        if not 0.0 <= self.ridge < float("inf"):
            raise InputError("aggregator.ridge", self.ridge, "a number of at least 0")

    def aggregate(
        self, state: Mapping[str, Tensor], updates: Sequence[Update]
    ) -> dict[str, Tensor]:
        full, step = full_step(updates)
        merged = FactorMean().aggregate(state, full)
        for pair, spread in _spreads(state, full):
            change = spread.correction(self.ridge)
            lora_b = merged[pair.lora_b].to(torch.float64) + change
            merged[pair.lora_b] = lora_b.to(torch.float32)
        return part_way(state, merged, step)


@dataclass(frozen=True)
class FairResidual:
    """Frobenius norms over all adapted matrices, without the scale alpha / r.

    Attributes:
        before: `||W - Bbar Abar||`, what averaging factors leaves out.
        after: `||W - (Bbar + D) Abar||`.
        correction: `||D||`.
    """

    before: float
    after: float
    correction: float


def fair_residual(
    state: Mapping[str, Tensor], updates: Sequence[Update], ridge: float
) -> FairResidual:
    """What `LoraFair` mends of a round's updates, and what it leaves."""
    before = after = size = 0.0
    for _, spread in _spreads(state, updates):
        change = spread.correction(ridge)
        before += spread.squared_residual(torch.zeros_like(change))
        after += spread.squared_residual(change)
        size += float(change.square().sum())
    return FairResidual(before**0.5, after**0.5, size**0.5)


@dataclass(frozen=True)
class _Spread:
    """The clients' deviations of one matrix, each by the root of its share, below one another.

    `rows` [client x rank, in] of A, `columns` [client x rank, out] of B, `mean_a` [rank, in].
    """

    mean_a: Tensor
    rows: Tensor
    columns: Tensor

    def correction(self, ridge: float) -> Tensor:
        """D [out, rank]; 0 where the mean of A is 0."""
        gram = self.mean_a @ self.mean_a.T
        wanted = self.columns.T @ (self.rows @ self.mean_a.T)
        rank, size = len(gram), float(gram.trace())
        if size == 0.0:
            return torch.zeros_like(wanted)
        if ridge == 0.0:
            inverse: Tensor = torch.linalg.pinv(gram, hermitian=True)
            return wanted @ inverse
        shifted = gram + ridge * size / rank * torch.eye(rank, dtype=gram.dtype)
        solved: Tensor = torch.linalg.solve(shifted, wanted.T)
        return solved.T

    def squared_residual(self, change: Tensor) -> float:
        """`||sum_n p_n dB_n dA_n - D Abar||^2`, from Gram matrices of its factors."""
        left = torch.cat([self.columns, -change.T])
        right = torch.cat([self.rows, self.mean_a])
        return max(float(((left @ left.T) * (right @ right.T)).sum()), 0.0)


def _spreads(
    state: Mapping[str, Tensor], updates: Sequence[Update]
) -> Iterator[tuple[FactorPair, _Spread]]:
    if not updates:
        return
    shares = mean_shares(updates)
    for pair in factor_pairs(state):
        mean, rows = deviations([update.change[pair.lora_a] for update in updates], shares)
        _, columns = deviations([update.change[pair.lora_b].T for update in updates], shares)
        yield pair, _Spread(state[pair.lora_a].to(torch.float64) + mean, rows, columns)


@final
@dataclass(frozen=True)
class FlexLora(Aggregator):
    """The best approximation of the adapter's rank to the mean of the clients' products.

        U S V^T = SVD_r(sum_n p_n B_n A_n),   A = s V^T,   B = U S / s

    FlexLoRA (Bai et al., arXiv 2402.11505, section 3): clients of different rank are padded with
    zeros, and ranks come by falling singular value, so that a client that trains the first ranks
    only gets the best approximation of its rank. Thin QR of the stacked factors and an SVD of
    their small product: (N r)^2 (in + out) a matrix (Golub and Van Loan, Matrix Computations, 4th
    ed., 5.2). s, the root mean square of the row norms of the mean A, is ours: A keeps its size
    while the product is small. Each row of V^T has its largest entry above 0. A matrix whose
    product is 0 keeps the mean factors. Shares that sum to S leave `1 - S` of the product as
    it was.
    """

    honours = frozenset({Decision.RANK})
    refactors = True
    on_factors = True
    uses_shares = True

    def aggregate(
        self, state: Mapping[str, Tensor], updates: Sequence[Update]
    ) -> dict[str, Tensor]:
        merged = FactorMean().aggregate(state, updates) if updates else dict(state)
        if not updates:
            return merged
        shares = shares_of(updates)
        adapters = [zero_padded(state, update) for update in updates]
        _, step = relative_shares(updates)
        if step != 1.0:
            adapters.append({name: value.to(torch.float64) for name, value in state.items()})
            shares = [*shares, 1.0 - step]
        for pair in factor_pairs(state):
            lora_a = torch.cat([adapter[pair.lora_a] for adapter in adapters])
            lora_b = torch.cat(
                [p * adapter[pair.lora_b] for p, adapter in zip(shares, adapters, strict=True)],
                dim=1,
            )
            factors = _leading(lora_a, lora_b, merged[pair.lora_a])
            if factors is not None:
                merged[pair.lora_a], merged[pair.lora_b] = factors
        return merged


def _leading(lora_a: Tensor, lora_b: Tensor, mean_a: Tensor) -> tuple[Tensor, Tensor] | None:
    """Factors of the leading ranks of `lora_b lora_a`, in fp32; None where that is 0."""
    rank = len(mean_a)
    rows, columns = truncated_product(lora_a, lora_b, rank)
    scale = torch.linalg.matrix_norm(mean_a.to(torch.float64)) / rank**0.5
    if scale == 0 or not columns.any():
        return None
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))[:, 0]
    signs = torch.where(largest < 0, -1.0, 1.0)
    made_a, made_b = scale * signs[:, None] * rows, columns * signs / scale
    return made_a.to(torch.float32), made_b.to(torch.float32)
