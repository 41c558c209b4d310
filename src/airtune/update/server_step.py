"""What the server makes of the merged adapter: takes it as it is, or steps towards it.

After Reddi et al., "Adaptive Federated Optimization", arXiv 2003.00295, algorithm 2: the change
that the aggregator proposes, D = merged - x, is treated as a gradient step's direction.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

Memory = Mapping[str, Tensor]
"""The state of a server optimiser, fp32, named `<moment>/<tensor>`; part of the checkpoint."""


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
