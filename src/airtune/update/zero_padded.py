"""HetLoRA's merge: adapters of different rank, padded with zeros to the largest."""

import math
from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from airtune.round_plan import Decision
from airtune.tuning.factors import factor_pairs
from airtune.update.aggregate import Aggregator, Update


@final
class ZeroPaddedMean(Aggregator):
    """`A = sum_n p_n pad(A_n)`, likewise B, with `p_n` in proportion to `||B_n A_n||_F`.

    Cho et al., arXiv 2401.06432, sections 3.2 and 3.3 ("sparsity-weighted" aggregation): a client
    without a rank pulls it towards zero. The norm is that over all adapted matrices. Left out: the
    clients' own pruning of ranks. While all products are still zero, all clients count alike.
    """

    honours = frozenset({Decision.RANK})
    on_factors = True

    def aggregate(
        self, state: Mapping[str, Tensor], updates: Sequence[Update]
    ) -> dict[str, Tensor]:
        adapters = [_padded(state, update) for update in updates]
        norms = [product_norm(adapter) for adapter in adapters]
        total = sum(norms)
        shares = [norm / total if total > 0 else 1.0 / len(norms) for norm in norms]
        merged: dict[str, Tensor] = {}
        for name, value in state.items():
            # fp64 in client order: the sum does not depend on how many workers made the parts.
            mean = torch.zeros(value.shape, dtype=torch.float64)
            for share, adapter in zip(shares, adapters, strict=True):
                mean += share * adapter[name]
            merged[name] = mean.to(torch.float32)
        return merged


def _padded(state: Mapping[str, Tensor], update: Update) -> dict[str, Tensor]:
    """The client's trained adapter, zero in what it did not train."""
    trained = {
        name: value.to(torch.float64) + update.change[name].to(torch.float64)
        for name, value in state.items()
    }
    if update.kept is None:
        return trained
    return {name: value * update.kept[name] for name, value in trained.items()}


def product_norm(adapter: Mapping[str, Tensor]) -> float:
    """Frobenius norm of all products `B A`, from Gram matrices of the size of the rank."""
    squared = 0.0
    for pair in factor_pairs(adapter):
        a, b = adapter[pair.lora_a], adapter[pair.lora_b]
        squared += float(((b.T @ b) * (a @ a.T)).sum())
    return math.sqrt(max(squared, 0.0))
