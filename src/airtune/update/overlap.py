"""Merging updates of clients that trained different parts of the adapter."""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from airtune.round_plan import Decision
from airtune.update.aggregate import Aggregator, Update


@final
class OverlapMean(Aggregator):
    """Each coordinate's weighted mean over the clients that kept it; kept by nobody, it stays.

    x_i += sum_{n keeps i} w_n dx_{n,i} / sum_{n keeps i} w_n, in the manner of HeteroFL (Diao et
    al., arXiv 2010.01264, section 3). An update without `kept` counts as whole; if all
    are whole this is `FactorMean`. In a coordinate that few kept, those few count in full.
    """

    honours = frozenset({Decision.PRUNING, Decision.RANK})
    keeps_unchanged = True

    def aggregate(
        self, state: Mapping[str, Tensor], updates: Sequence[Update]
    ) -> dict[str, Tensor]:
        return {name: _merged(name, value, updates) for name, value in state.items()}


def _merged(name: str, value: Tensor, updates: Sequence[Update]) -> Tensor:
    total = torch.zeros(value.shape, dtype=torch.float64)
    for update in updates:
        total += update.weight * _kept(name, update)
    # fp64 in client order: the sum does not depend on how many workers made the parts.
    change = torch.zeros(value.shape, dtype=torch.float64)
    for update in updates:
        share = update.weight / total * _kept(name, update)
        # Where nobody kept a coordinate the share is 0 / 0.
        change += share.nan_to_num(nan=0.0) * update.change[name].to(torch.float64)
    return (value.to(torch.float64) + change).to(torch.float32)


def _kept(name: str, update: Update) -> Tensor:
    if update.kept is None:
        return torch.ones((), dtype=torch.float64)
    return update.kept[name].to(torch.float64)
