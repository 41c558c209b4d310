"""Two merges that are exact in the clients' products, since the base takes what no adapter can.

With shares p_n that sum to 1 the server's weight after a round is, but for rounding, the mean of
the clients': `W + s sum_n p_n B_n A_n`. What is merged into the base is an `Increment`, which the
clients get with the next broadcast (`update.base_downlink`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from airtune.round_plan import Decision
from airtune.tuning.adapter import factor_pairs
from airtune.tuning.base_change import changes_of, factors_of
from airtune.update.base_downlink import BaseMemory, Increment, fresh_factors, merged_into
from airtune.update.codec import Shapes, shapes_of
from airtune.update.means import FactorMean, deviations, mean_shares
from airtune.update.server import ContextAggregator, Memory, ServerContext, Update
from airtune.update.weighting import shares_of


@final
@dataclass(frozen=True)
class Stacking(ContextAggregator):
    """The clients' products, stacked, merged into the base; then a fresh adapter.

        C <- C + [p_1 B_1, ..., p_N B_N] [A_1; ...; A_N],   A drawn anew, B = 0

    FLoRA's aggregation (Wang et al., arXiv 2409.05976): no term `B_i A_j` of two clients, and
    clients of any ranks. A comes from (seed, round), the same for all clients.
    """

    honours = frozenset({Decision.RANK})
    refactors = True
    on_factors = True
    uses_shares = True
    changes_base = True
    seed: int = 0

    def aggregate_in(
        self, state: Mapping[str, Tensor], updates: Sequence[Update], context: ServerContext
    ) -> tuple[dict[str, Tensor], Memory]:
        factors, changes = factors_of(state), changes_of(state)
        shapes = shapes_of(factors)
        increment = stacked(factors, updates, context.round_index) if updates else None
        fresh = fresh_factors(shapes, self.seed, context.round_index + 1)
        return _after(fresh, changes, increment, shapes, context)


@final
@dataclass(frozen=True)
class MeanAndResidual(ContextAggregator):
    """The mean of each factor, and what that leaves out of the mean product merged into the base.

        A = sum_n p_n A_n,   B = sum_n p_n B_n,   C <- C + sum_n p_n B_n A_n - B A

    FedEx-LoRA (Singhal et al., arXiv 2410.09432). The residual of K clients of rank r has a rank of
    at most (K - 1) r, with K the last client:

        sum_n p_n B_n A_n - B A = sum_{n < K} p_n (B_n - B) (A_n - A_K)

    since `sum_n p_n (B_n - B) = 0`; so K - 1 parts travel, and none of a client whose A is that of
    the last one (a frozen A, one client, identical clients).
    """

    refactors = True
    on_factors = True
    changes_base = True

    def aggregate_in(
        self, state: Mapping[str, Tensor], updates: Sequence[Update], context: ServerContext
    ) -> tuple[dict[str, Tensor], Memory]:
        factors, changes = factors_of(state), changes_of(state)
        merged = FactorMean().aggregate(factors, updates) if updates else factors
        increment = residual(updates, context.round_index) if updates else None
        return _after(merged, changes, increment, shapes_of(factors), context)


def _after(
    factors: dict[str, Tensor],
    changes: dict[str, Tensor],
    increment: Increment | None,
    shapes: Shapes,
    context: ServerContext,
) -> tuple[dict[str, Tensor], Memory]:
    """The state and the memory once the base has the increment."""
    if increment is not None:
        changes = merged_into(changes, increment)
    known = BaseMemory.read(context.memory)
    known = known.after(context.round_index, context.received, increment, shapes)
    return {**factors, **changes}, known.tensors()


def stacked(
    start: Mapping[str, Tensor], updates: Sequence[Update], round_index: int
) -> Increment | None:
    """`[p_n B_n]` beside one another and `[A_n]` below one another, of the ranks that each trained.

    Clients start with B = 0, so their product is what they learned.
    """
    shares = shares_of(updates)
    pairs = factor_pairs(start)
    trained = [[_ranks(update, pair.lora_a, start) for pair in pairs] for update in updates]
    factors: dict[str, Tensor] = {}
    for place, pair in enumerate(pairs):
        rows, columns = [], []
        for share, update, ranks in zip(shares, updates, trained, strict=True):
            kept = ranks[place]
            a = start[pair.lora_a].double() + update.change[pair.lora_a].double()
            b = start[pair.lora_b].double() + update.change[pair.lora_b].double()
            rows.append(a[:kept])
            columns.append(share * b[:, :kept])
        factors[pair.lora_a] = torch.cat(rows).float()
        factors[pair.lora_b] = torch.cat(columns, dim=1).float()
    return Increment(round_index, tuple(max(ranks) for ranks in trained), factors)


def _ranks(update: Update, lora_a: str, start: Mapping[str, Tensor]) -> int:
    """How many ranks of a matrix, the first ones, the client trained."""
    if update.kept is None:
        return len(start[lora_a])
    return int(update.kept[lora_a].any(dim=1).sum())


def residual(updates: Sequence[Update], round_index: int) -> Increment | None:
    """What the mean factors leave out of the mean product, in parts; None where that is nothing."""
    last = updates[-1].change
    pairs = factor_pairs(last)
    weights = mean_shares(updates)
    means = {
        pair.lora_b: deviations([update.change[pair.lora_b] for update in updates], weights)[0]
        for pair in pairs
    }
    parts: list[dict[str, Tensor]] = []
    shares = weights.tolist()
    for share, update in zip(shares[:-1], updates[:-1], strict=True):
        part: dict[str, Tensor] = {}
        for pair in pairs:
            a = update.change[pair.lora_a].double() - last[pair.lora_a].double()
            b = update.change[pair.lora_b].double() - means[pair.lora_b]
            part[pair.lora_a], part[pair.lora_b] = a, share * b
        if any(bool(part[pair.lora_a].any()) for pair in pairs):
            parts.append(part)
    if not parts:
        return None
    factors = {
        name: torch.cat([part[name] for part in parts], dim=int(is_b)).float()
        for pair in pairs
        for name, is_b in ((pair.lora_a, False), (pair.lora_b, True))
    }
    highest = max(len(last[pair.lora_a]) for pair in pairs)
    return Increment(round_index, (highest,) * len(parts), factors)
