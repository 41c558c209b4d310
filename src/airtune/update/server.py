"""What the server does with what clients sent: merge the updates, then step to the next adapter.

The shipped aggregators are in `airtune.update.means` and `airtune.update.svd`. The server's step
takes the merged adapter as it is, or steps towards it, after Reddi et al., "Adaptive Federated
Optimization", arXiv 2003.00295, algorithm 2: the change that the aggregator proposes,
D = merged - x, is treated as a gradient step's direction.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import final

import numpy as np
import torch
from torch import Tensor

from airtune.round_plan import Decision


@dataclass(frozen=True)
class Update:
    """One client's decoded change of the adapter and its weight (its number of examples).

    `kept` is True where the client trained a coordinate, in the change's shapes (None: everywhere).
    `sent` is True where the payload carried it (None: wherever it was trained); elsewhere the
    change is 0, whatever was trained. `share` is the coefficient with which the change enters
    (None: weight over the sum of the weights present; `airtune.update.weighting` decides others).
    `coefficients` are what the payload had on directions that all clients share.
    """

    client: int
    weight: float
    change: Mapping[str, Tensor]
    kept: Mapping[str, Tensor] | None = None
    sent: Mapping[str, Tensor] | None = None
    share: float | None = None
    coefficients: Tensor | None = None


def norm(change: Mapping[str, Tensor]) -> float:
    """Euclidean norm of all of a change's tensors together, in float64.

    numpy adds in one order whatever the number of threads, so that records stay the same.
    """
    squares = (float(np.square(x.double().cpu().numpy()).sum()) for x in change.values())
    return sqrt(sum(squares))


class Aggregator(ABC):
    """Merges updates, which arrive in ascending client order, into the server's adapter.

    `honours` and `requires`: as for a codec. `keeps_unchanged`: a coordinate that no client changed
    stays exactly as it was. `fills_unsent`: what a client did not send is taken from the others,
    not as "no change". `refactors`: the merged factors are replaced by others of the same product.
    `on_factors`: it works on LoRA's factors, not on any trained parameter. `uses_shares`: changes
    enter with `Update.share` where one is set (`weighting.shares_of`), so that a method may weigh.
    `changes_base`: it also merges something into the frozen base, so its state has the tensors of
    `tuning.base_change`. `sums_coefficients`: it merges `Update.coefficients`; what it remembers is
    what the downlink sends.
    """

    honours: frozenset[Decision] = frozenset()
    requires: frozenset[Decision] = frozenset()
    uses_shares: bool = False
    keeps_unchanged: bool = False
    fills_unsent: bool = False
    refactors: bool = False
    on_factors: bool = False
    changes_base: bool = False
    sums_coefficients: bool = False

    @abstractmethod
    def aggregate(
        self, state: Mapping[str, Tensor], updates: Sequence[Update]
    ) -> dict[str, Tensor]:
        """The server's next adapter; with no updates, the adapter as it was."""

    def aggregate_in(
        self, state: Mapping[str, Tensor], updates: Sequence[Update], context: "ServerContext"
    ) -> tuple[dict[str, Tensor], "Memory"]:
        """`aggregate` in a round, and what to remember until the next one; by default nothing."""
        return self.aggregate(state, updates) if updates else dict(state), {}

    def replaced_by(self, aggregator: "Aggregator") -> "Aggregator":
        """What runs where an experiment names `aggregator` in this one's place.

        An aggregator that wraps another one answers itself around `aggregator`.
        """
        return aggregator


Memory = Mapping[str, Tensor]
"""The state of a server optimiser, fp32, named `<moment>/<tensor>`; part of the checkpoint."""


@dataclass(frozen=True)
class ServerContext:
    """What a merge knows beside state and updates.

    `received` are the clients that have the round's broadcast, `memory` is what the aggregator
    remembered after the round before.
    """

    round_index: int = 0
    received: tuple[int, ...] = ()
    memory: Memory = field(default_factory=dict)


class ContextAggregator(Aggregator):
    """An aggregator that is written for a round: without one it merges as in round 1."""

    def aggregate(
        self, state: Mapping[str, Tensor], updates: Sequence[Update]
    ) -> dict[str, Tensor]:
        return self.aggregate_in(state, updates, ServerContext())[0]

    @abstractmethod
    def aggregate_in(
        self, state: Mapping[str, Tensor], updates: Sequence[Update], context: ServerContext
    ) -> tuple[dict[str, Tensor], Memory]:
        """The server's next adapter, and what to remember until the next round."""


class ServerOptimizer(ABC):
    """State in, state out: the server's next adapter and the optimiser's state."""

    @abstractmethod
    def step(
        self, adapter: Mapping[str, Tensor], merged: Mapping[str, Tensor], memory: Memory
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """`adapter` is the round's start, `merged` the aggregator's result, in its shapes."""


@final
class TakeMerged(ServerOptimizer):
    """The merged adapter is the next one, as in FedAvg."""

    def step(
        self, adapter: Mapping[str, Tensor], merged: Mapping[str, Tensor], memory: Memory
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return dict(merged), {}


@final
@dataclass(frozen=True)
class ServerMomentum(ServerOptimizer):
    """FedAvgM: `m <- beta m + D`, `x <- x + eta m`.

    Hsu et al., arXiv 1909.06335, section 4.3. A lasting direction is amplified by 1 / (1 - beta). A
    coordinate that no client trained in a round has D = 0 and follows its moment alone. beta = 0,
    eta = 1 is FedAvg.
    """

    learning_rate: float = 1.0
    momentum: float = 0.9

    def step(
        self, adapter: Mapping[str, Tensor], merged: Mapping[str, Tensor], memory: Memory
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        following: dict[str, Tensor] = {}
        kept: dict[str, Tensor] = {}
        for name, start in adapter.items():
            change = _change(start, merged[name])
            moment = self.momentum * _remembered(memory, f"mean/{name}", start) + change
            following[name] = _moved(start, self.learning_rate * moment)
            kept[f"mean/{name}"] = moment.to(torch.float32)
        return following, kept


@final
@dataclass(frozen=True)
class ServerAdam(ServerOptimizer):
    """FedAdam: steps of about eta a coordinate, whatever the size of its changes.

        m <- beta1 m + (1 - beta1) D
        v <- beta2 v + (1 - beta2) D^2
        x <- x + eta m / (sqrt(v) + tau)

    as in the paper without bias correction, from m = 0 and v = tau^2; `adaptivity` is tau. A
    coordinate that no client trained in a round has D = 0 and follows its moment alone.
    """

    learning_rate: float = 1e-2
    momentum: float = 0.9
    second_momentum: float = 0.99
    adaptivity: float = 1e-3

    def step(
        self, adapter: Mapping[str, Tensor], merged: Mapping[str, Tensor], memory: Memory
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        following: dict[str, Tensor] = {}
        kept: dict[str, Tensor] = {}
        for name, start in adapter.items():
            change = _change(start, merged[name])
            mean = self.momentum * _remembered(memory, f"mean/{name}", start)
            mean += (1 - self.momentum) * change
            square = self.second_momentum * _remembered(
                memory, f"square/{name}", start, self.adaptivity**2
            )
            square += (1 - self.second_momentum) * change.square()
            step = self.learning_rate * mean / (square.sqrt() + self.adaptivity)
            following[name] = _moved(start, step)
            kept |= {
                f"mean/{name}": mean.to(torch.float32),
                f"square/{name}": square.to(torch.float32),
            }
        return following, kept


def _change(start: Tensor, merged: Tensor) -> Tensor:
    return merged.to(torch.float64) - start.to(torch.float64)


def _remembered(memory: Memory, name: str, like: Tensor, first: float = 0.0) -> Tensor:
    """The moment as it was kept, or its value before round 1."""
    if name not in memory:
        return torch.full(like.shape, first, dtype=torch.float64)
    return memory[name].to(torch.float64)


def _moved(start: Tensor, step: Tensor) -> Tensor:
    return (start.to(torch.float64) + step).to(torch.float32)
