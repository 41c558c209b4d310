"""How much averaging factors differs from averaging products."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from airtune.tuning.factors import factor_pairs
from airtune.update.aggregate import Update


def factor_covariance(updates: Sequence[Update]) -> float:
    """Frobenius norm, over all adapted matrices, of the error that `FactorMean` leaves in.

        sum_n w_n B_n A_n - (sum_n w_n B_n) (sum_n w_n A_n) = sum_n w_n (B_n - Bbar) (A_n - Abar)

    with weights that sum to 1: the covariance term of SOFT's bound (Kim and Choi, arXiv
    2505.00333), measured. Changes since a common start deviate as the factors themselves do. The
    norm comes from Gram matrices of the deviations (clients x rank wide), never from a product of
    the layer's size.
    """
    if not updates:
        return 0.0
    total = sum(update.weight for update in updates)
    weights = torch.tensor([update.weight / total for update in updates], dtype=torch.float64)
    squared = 0.0
    for pair in factor_pairs(updates[0].change):
        # [client x rank, entry]: the rows of (A_n - Abar), the columns of (B_n - Bbar).
        rows = _deviations([update.change[pair.lora_a] for update in updates], weights)
        columns = _deviations([update.change[pair.lora_b].T for update in updates], weights)
        squared += float(((columns @ columns.T) * (rows @ rows.T)).sum())
    return math.sqrt(max(squared, 0.0))


def _deviations(factors: Sequence[Tensor], weights: Tensor) -> Tensor:
    """sqrt(w_n) (X_n - sum_m w_m X_m), clients below one another."""
    stacked = torch.stack([factor.to(torch.float64) for factor in factors])
    share = weights[:, None, None]
    deviations = stacked - (share * stacked).sum(0)
    return (share.sqrt() * deviations).flatten(0, 1)
