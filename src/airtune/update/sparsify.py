"""Which ranks of an update are worth sending, from norms alone.

An adapted matrix is `B A = sum_i b_i a_i^T`, b_i column i of B (out x rank), a_i row i of A
(rank x in). Where the b_i and the a_i are orthogonal, the norm of a rank's term IS a singular
value, and keeping the K largest terms is the best approximation of rank K (Eckart and Young, 1936).
So no SVD and no product B A is ever made (in the manner of SOFT, Kim and Choi, arXiv 2505.00333).
"""

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.tuning.factors import factor_pairs

TensorMap = Mapping[str, Tensor]

RankValues: TypeAlias = dict[str, Tensor]
"""Adapted matrix -> one number per rank, [rank]; a mask where the numbers are true or false."""


def norm_importance(state: TensorMap) -> RankValues:
    """`I_i = ||b_i|| ||a_i||`, the norm of each rank's term in a trained adapter."""
    pairs = factor_pairs(state)
    # Over columns, torch's vector_norm takes 2 to 5 times as long as the sum of squares.
    columns = [state[pair.lora_b].square().sum(0) for pair in pairs]
    rows = [torch.linalg.vector_norm(state[pair.lora_a], dim=1) for pair in pairs]
    # What is left to do is small: all matrices at once, or the calls would cost more than the work.
    norms = torch.cat(columns).sqrt_().mul_(torch.cat(rows))
    pieces = torch.split(norms, [len(part) for part in rows])
    return {pair.matrix: piece for pair, piece in zip(pairs, pieces, strict=True)}


def change_importance(start: TensorMap, change: TensorMap) -> RankValues:
    """`I_i = ||b_i a_i^T - b0_i a0_i^T||`, the norm of what training did to each rank's term.

    With `b = b0 + db`, `a = a0 + da` the difference is `db a^T + b0 da^T`, so

        I^2 = ||db||^2 ||a||^2 + ||b0||^2 ||da||^2 + 2 (db . b0) (a . da),

    exact and without cancellation of large terms: in fp32 it is good to 1e-6 relative however
    small the change is, where `||b||^2 ||a||^2 + ||b0||^2 ||a0||^2 - 2 (b . b0) (a . a0)` loses
    every digit. `start` is the adapter that training began from.
    """
    importance: RankValues = {}
    for pair in factor_pairs(start):
        b_start, b_change = start[pair.lora_b], change[pair.lora_b]
        a_change = change[pair.lora_a]
        a_now = start[pair.lora_a] + a_change
        squared = (
            b_change.square().sum(0) * a_now.square().sum(1)
            + b_start.square().sum(0) * a_change.square().sum(1)
            + 2.0 * (b_change * b_start).sum(0) * (a_now * a_change).sum(1)
        )
        # Opposite changes of a and b may cancel to a rounding error below zero.
        importance[pair.matrix] = squared.clamp_min(0.0).sqrt()
    return importance


def changed_ranks(change: TensorMap) -> RankValues:
    """Masks of the ranks that changed at all, in A or in B."""
    return {
        pair.matrix: change[pair.lora_b].ne(0).any(0) | change[pair.lora_a].ne(0).any(1)
        for pair in factor_pairs(change)
    }


def energies(importance: Mapping[str, Tensor]) -> RankValues:
    """Squared importance: what leaving a rank out adds to the squared error of B A."""
    return {matrix: values.square() for matrix, values in importance.items()}


def dropped_share(importance: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> float:
    """Energy of the ranks outside the masks over that of all ranks, in [0, 1]; 0 of nothing."""
    total = sum(float(values.double().square().sum()) for values in importance.values())
    lost = sum(
        float(values.double().square()[~masks[matrix]].sum())
        for matrix, values in importance.items()
    )
    return lost / total if total > 0 else 0.0


def largest_ranks(importance: Mapping[str, Tensor], kept: Sequence[int]) -> RankValues:
    """Masks of the `kept[m]` most important ranks of each matrix; of equals, the lower index.

    Raises InputError for a count that its matrix cannot keep.
    """
    _check_counts([len(values) for values in importance.values()], kept)
    # All matrices in one sort: a call a matrix would cost more than the norms did.
    table = torch.nn.utils.rnn.pad_sequence(
        list(importance.values()), batch_first=True, padding_value=-math.inf
    )
    order = torch.argsort(table, dim=1, descending=True, stable=True)
    chosen = torch.arange(table.shape[1]) < torch.tensor(kept)[:, None]
    masks = torch.zeros_like(chosen).scatter_(1, order, chosen).unbind()
    return {
        matrix: mask if len(mask) == len(values) else mask[: len(values)]
        for (matrix, values), mask in zip(importance.items(), masks, strict=True)
    }


def _check_counts(ranks: Sequence[int], kept: Sequence[int]) -> None:
    if len(kept) != len(ranks):
        raise InputError("kept ranks", len(kept), f"one count for each of {len(ranks)} matrices")
    for count, rank in zip(kept, ranks, strict=True):
        if not 0 <= count <= rank:
            raise InputError("kept ranks", count, f"between 0 and the rank, {rank}")


def counts_per_layer(ranks: Sequence[int], sparsity: float) -> tuple[int, ...]:
    """The same share of every matrix: rank - floor(sparsity x rank), at least 1 of each."""
    _check_sparsity(sparsity)
    # 1e-9: 0.3 x 10 must remove 3 ranks, and 0.29999999999999998 x 10 is below 3.
    return tuple(max(1, rank - math.floor(sparsity * rank + 1e-9)) for rank in ranks)


def counts_global(importance: Mapping[str, Tensor], sparsity: float) -> tuple[int, ...]:
    """The same share of all ranks together, wherever they matter most, at least one in all.

    The importances may be those of an earlier round or of another client, as shares: only their
    order counts. Of equals, the earlier matrix and the lower index.
    """
    _check_sparsity(sparsity)
    sizes = [len(values) for values in importance.values()]
    total = max(1, sum(sizes) - math.floor(sparsity * sum(sizes) + 1e-9))
    values = torch.cat(list(importance.values()))
    chosen = torch.zeros(len(values), dtype=torch.bool)
    chosen[torch.argsort(values, descending=True, stable=True)[:total]] = True
    return tuple(int(mask.sum()) for mask in torch.split(chosen, sizes))


def _check_sparsity(sparsity: float) -> None:
    if not 0.0 <= sparsity < 1.0:
        raise InputError("sparsity", sparsity, "a share from 0 to below 1, of what is removed")
