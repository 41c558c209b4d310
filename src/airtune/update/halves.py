"""The federated server of a split model: client halves averaged, the server's half adopted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from airtune.round_plan import MAIN_SERVER, Decision
from airtune.update.aggregate import Aggregator, Update


def merge_halves(
    start: Mapping[str, Tensor], updates: Sequence[Update], server: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The whole adapter after a split round.

    An update holds the change of its client's half only. Each tensor is the mean over the clients
    that trained it themselves and, with the summed weight of all others, the main server's copy,
    which stands for them:

        X = sum_{n holds X} w_n (X_start + dX_n) + (1 - sum_{n holds X} w_n) X_server

    with weights that sum to 1. With one split point for all this is FedAvg of the client halves
    beside the server's half as it is. Without updates (nobody's half arrived) client halves stay
    as they were.
    """
    total = sum(update.weight for update in updates)
    merged: dict[str, Tensor] = {}
    for name, value in start.items():
        held = sum(update.weight for update in updates if name in update.change) / (total or 1.0)
        begin = value.to(torch.float64)
        others = server[name].to(torch.float64) if name in server else begin
        # Where every client holds the tensor, no rounding of the weights may bring the server in.
        alone = all(name in update.change for update in updates) and total > 0
        result = begin * held if alone else begin * held + others * (1.0 - held)
        for update in updates:
            if name in update.change:
                result += (update.weight / total) * update.change[name].to(torch.float64)
        merged[name] = result.to(torch.float32)
    return merged


@final
@dataclass(frozen=True)
class HalvesMean(Aggregator):
    """`merge_halves` of what the clients sent; the main server's update is its half's change."""

    honours = frozenset({Decision.SPLIT})
    requires = frozenset({Decision.SPLIT})
    on_factors = True

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
