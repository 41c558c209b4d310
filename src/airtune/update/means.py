"""The five means with which the server merges updates into its adapter, and what averaging leaves.

All of them sum in fp64 and in client order, so that the result does not depend on how many workers
made the parts, and return fp32.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from airtune.round_plan import MAIN_SERVER, Decision
from airtune.tuning.adapter import factor_pairs
from airtune.update.server import Aggregator, Update
from airtune.update.weighting import normalised, relative_shares, shares_of


@final
class FactorMean(Aggregator):
    """Weighted mean of each factor's change: `A += sum_n w_n dA_n`, likewise B, w_n the shares.

    FedAvg (McMahan et al., arXiv 1602.05629, algorithm 1) on LoRA factors. The mean of products
    differs from the product of means; that covariance is the method's known bias, left in.
    """

    keeps_unchanged = True
    uses_shares = True

    def aggregate(
        self, state: Mapping[str, Tensor], updates: Sequence[Update]
    ) -> dict[str, Tensor]:
        shares = shares_of(updates)
        return {
            name: _moved(value, shares, [update.change[name] for update in updates])
            for name, value in state.items()
        }


@final
class OverlapMean(Aggregator):
    """Each coordinate's weighted mean over the clients that kept it; kept by none, it stays.

    `x_i += sum_{n keeps i} w_n dx_{n,i} / sum_{n keeps i} w_n`, in the manner of HeteroFL (Diao et
    al., arXiv 2010.01264, section 3). An update without `kept` counts as whole; if all
    are whole this is `FactorMean`. In a coordinate that few kept, those few count in full.
    """

    honours = frozenset({Decision.PRUNING, Decision.RANK})
    keeps_unchanged = True

    def aggregate(
        self, state: Mapping[str, Tensor], updates: Sequence[Update]
    ) -> dict[str, Tensor]:
        merged: dict[str, Tensor] = {}
        weights, whole = relative_shares(updates)
        for name, value in state.items():
            kept = [_kept(name, update) for update in updates]
            total = _weighted_sum(_zeros(value), weights, kept)
            # Where no client kept a coordinate the share is 0 / 0.
            shares = [
                whole * (weight / total * mask).nan_to_num(nan=0.0)
                for weight, mask in zip(weights, kept, strict=True)
            ]
            merged[name] = _moved(value, shares, [update.change[name] for update in updates])
        return merged


@final
class SentMean(Aggregator):
    """Each coordinate's weighted mean over the clients that sent it; sent by none, it stays.

    `x_i += sum_{n sent i} w_n dx_{n,i} / sum_{n sent i} w_n`. The plain mean counts what was not
    sent as "no change", which shortens every step by the share of clients that kept something
    else; this mean does not, and lets the few who sent a coordinate speak for all. What was sent
    is the payload's mask (`Codec.sent`): a change that was rounded to 0 counts. Beside
    error feedback it would count twice what was left out.
    """

    keeps_unchanged = True
    uses_shares = True
    fills_unsent = True

    def aggregate(
        self, state: Mapping[str, Tensor], updates: Sequence[Update]
    ) -> dict[str, Tensor]:
        sent = [
            update if update.sent is None else replace(update, kept=update.sent)
            for update in updates
        ]
        return OverlapMean().aggregate(state, sent)


@final
class ZeroPaddedMean(Aggregator):
    """`A = sum_n p_n pad(A_n)`, likewise B, with `p_n` in proportion to `||B_n A_n||_F`.

    HetLoRA's merge (Cho et al., arXiv 2401.06432, sections 3.2 and 3.3, "sparsity-weighted"
    aggregation): adapters of different rank are padded with zeros to the largest, and a client
    without a rank pulls it towards zero. The norm is that over all adapted matrices. Left out: the
    clients' own pruning of ranks. While all products are still zero, all clients count alike. Its
    p_n are its own, so it uses no other shares.
    """

    honours = frozenset({Decision.RANK})
    on_factors = True

    def aggregate(
        self, state: Mapping[str, Tensor], updates: Sequence[Update]
    ) -> dict[str, Tensor]:
        adapters = [zero_padded(state, update) for update in updates]
        norms = [product_norm(adapter) for adapter in adapters]
        total = sum(norms)
        shares = [norm / total if total > 0 else 1.0 / len(norms) for norm in norms]
        merged: dict[str, Tensor] = {}
        for name, value in state.items():
            padded = [adapter[name] for adapter in adapters]
            merged[name] = _weighted_sum(_zeros(value), shares, padded).to(torch.float32)
        return merged


@final
@dataclass(frozen=True)
class HalvesMean(Aggregator):
    """`merge_halves` of what the clients sent; the main server's update is its half's change."""

    honours = frozenset({Decision.SPLIT, Decision.PRUNING})
    requires = frozenset({Decision.SPLIT})
    on_factors = True
    uses_shares = True

    def aggregate(
        self, state: Mapping[str, Tensor], updates: Sequence[Update]
    ) -> dict[str, Tensor]:
        server = {
            name: state[name] + change
            for update in updates
            if update.client == MAIN_SERVER
            for name, change in update.change.items()
        }
        return merge_halves(state, [u for u in updates if u.client != MAIN_SERVER], server)


def merge_halves(
    start: Mapping[str, Tensor], updates: Sequence[Update], server: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The whole adapter after a split round: client halves averaged, the server's half adopted.

    An update holds the change of its client's half only. Each tensor is the mean over the clients
    that trained it themselves and, with the summed weight of all others, the main server's copy,
    which represents them:

        X = sum_{n holds X} w_n (X_start + dX_n) + (1 - sum_{n holds X} w_n) X_server

    with weights that sum to 1. Where a holder is pruned, each coordinate is the mean over those
    that kept it and the server for those that do not hold it; kept by none, it stays. With one
    split point for all this is FedAvg of the client halves beside the server's half as it is.
    Without updates (no client half arrived) client halves stay as they were. Shares that sum to S
    move the adapter S times as far.
    """
    weights, whole = relative_shares(updates)
    total = sum(weights) or 1.0
    merged: dict[str, Tensor] = {}
    for name, value in start.items():
        if any(update.kept is not None and name in update.change for update in updates):
            merged[name] = _merge_kept(name, value, weights, updates, server)
            continue
        holders = [
            (weight, update.change[name])
            for weight, update in zip(weights, updates, strict=True)
            if name in update.change
        ]
        held = sum(weight for weight, _ in holders) / total
        begin = value.to(torch.float64)
        others = server[name].to(torch.float64) if name in server else begin
        # Where every client holds the tensor, no rounding of the weights may bring the server in.
        alone = len(holders) == len(updates) and held > 0
        result = begin * held if alone else begin * held + others * (1.0 - held)
        shares = [weight / total for weight, _ in holders]
        changes = [change for _, change in holders]
        merged[name] = _weighted_sum(result, shares, changes).to(torch.float32)
    return part_way(start, merged, whole)


def _merge_kept(
    name: str,
    value: Tensor,
    weights: Sequence[float],
    updates: Sequence[Update],
    server: Mapping[str, Tensor],
) -> Tensor:
    """`merge_halves` of a tensor of which some holders keep a part alone."""
    begin, total, moved = value.to(torch.float64), _zeros(value), _zeros(value)
    for weight, update in zip(weights, updates, strict=True):
        if name in update.change:
            part = weight * _kept(name, update)
            total, moved = total + part, moved + part * update.change[name].to(torch.float64)
        else:
            total = total + weight
            moved = moved + weight * (server.get(name, value).to(torch.float64) - begin)
    # Where no client kept a coordinate the share is 0 / 0.
    return (begin + (moved / total).nan_to_num(nan=0.0)).to(torch.float32)


def part_way(
    start: Mapping[str, Tensor], merged: Mapping[str, Tensor], step: float
) -> dict[str, Tensor]:
    """`start + step (merged - start)`; for step 1 `merged` to the bit."""
    if step == 1.0:
        return dict(merged)
    return {
        name: _moved(value, [step], [merged[name].to(torch.float64) - value.to(torch.float64)])
        for name, value in start.items()
    }


def product_norm(adapter: Mapping[str, Tensor]) -> float:
    """Frobenius norm of all products `B A`, from Gram matrices of the size of the rank."""
    squared = 0.0
    for pair in factor_pairs(adapter):
        a, b = adapter[pair.lora_a], adapter[pair.lora_b]
        squared += float(((b.T @ b) * (a @ a.T)).sum())
    return math.sqrt(max(squared, 0.0))


def _moved(value: Tensor, shares: Iterable[float | Tensor], changes: Iterable[Tensor]) -> Tensor:
    """`value + sum_n share_n change_n`, the sum taken first, as fp32."""
    change = _weighted_sum(_zeros(value), shares, changes)
    return (value.to(torch.float64) + change).to(torch.float32)


def _weighted_sum(
    start: Tensor, shares: Iterable[float | Tensor], values: Iterable[Tensor]
) -> Tensor:
    """`start + sum_n share_n value_n` in fp64, in client order; `start` is overwritten."""
    for share, value in zip(shares, values, strict=True):
        start += share * value.to(torch.float64)
    return start


def _zeros(like: Tensor) -> Tensor:
    return torch.zeros(like.shape, dtype=torch.float64)


def _kept(name: str, update: Update) -> Tensor:
    if update.kept is None:
        return torch.ones((), dtype=torch.float64)
    return update.kept[name].to(torch.float64)


def zero_padded(state: Mapping[str, Tensor], update: Update) -> dict[str, Tensor]:
    """The client's trained adapter, zero in what it did not train."""
    trained = {
        name: value.to(torch.float64) + update.change[name].to(torch.float64)
        for name, value in state.items()
    }
    if update.kept is None:
        return trained
    return {name: value * update.kept[name] for name, value in trained.items()}


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
    weights = mean_shares(updates)
    squared = 0.0
    for pair in factor_pairs(updates[0].change):
        # [client x rank, entry]: the rows of (A_n - Abar), the columns of (B_n - Bbar).
        _, rows = deviations([update.change[pair.lora_a] for update in updates], weights)
        _, columns = deviations([update.change[pair.lora_b].T for update in updates], weights)
        squared += float(((columns @ columns.T) * (rows @ rows.T)).sum())
    return math.sqrt(max(squared, 0.0))


def mean_shares(updates: Sequence[Update]) -> Tensor:
    """Shares that sum to 1 [client]."""
    return torch.tensor(normalised(relative_shares(updates)[0]), dtype=torch.float64)


def deviations(factors: Sequence[Tensor], shares: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the clients' factors, and sqrt(w_n) (X_n - mean) below one another."""
    stacked = torch.stack([factor.to(torch.float64) for factor in factors])
    share = shares[:, None, None]
    mean = (share * stacked).sum(0)
    return mean, (share.sqrt() * (stacked - mean)).flatten(0, 1)
