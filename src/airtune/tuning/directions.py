"""Directions that every party draws alike from a seed, and the model that coefficients on them say.

The K candidates z_k of a run are standard normal, from (seed, index), and never travel. A model
that only ever moved along them is K numbers: `w(a) = w_0 + sum_k a_k z_k`. In the manner of Qin et
al., arXiv 2312.06353.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from airtune.errors import DivergedError
from airtune.seeds import generator

DRAW_FLOPS = 40
"""Operations of one normal number, counted as FLOPs: ten rounds of Philox for four words, and a
transformation of each. Ours; no device was measured."""
CHUNK = 1 << 20
"""Numbers of a direction that are in memory at once."""
_POINT = 2.0**40
"""Unit of the sums: 1 / 2^40. Whole numbers add to the same sum in every order."""
_LARGEST = 2.0**18
"""Of `sum_k |a_k|`: below it no sum of normal numbers leaves 64 bits."""


@final
@dataclass(frozen=True)
class Directions:
    """K directions of any number of coordinates, from `seed`."""

    seed: int
    count: int

    def chunks(self, index: int, size: int) -> Iterator[NDArray[np.float32]]:
        """The coordinates of direction `index` in their order, at most `CHUNK` at a time."""
        draws = generator(self.seed, "candidate direction", index)
        for start in range(0, size, CHUNK):
            yield draws.standard_normal(min(CHUNK, size - start), dtype=np.float32)

    def whole(self, index: int, size: int) -> NDArray[np.float32]:
        """All coordinates of direction `index`."""
        return np.concatenate(list(self.chunks(index, size)))

    def move(self, tensors: Mapping[str, Tensor], index: int, distance: float) -> None:
        """Add `distance z_index` to these tensors, in place; coordinates in order of their names.

        Tensors of a model on another device get what the processor draws.
        """
        draws = generator(self.seed, "candidate direction", index)
        for name in sorted(tensors):
            flat = tensors[name].view(-1)
            for start in range(0, flat.numel(), CHUNK):
                part = flat[start : start + CHUNK]
                drawn = draws.standard_normal(part.numel(), dtype=np.float32)
                part.add_(torch.from_numpy(drawn).to(part.device), alpha=distance)

    def drawn(self, round_index: int, client: int, steps: int) -> NDArray[np.int64]:
        """Which direction a client takes in each of its steps of a round, uniformly."""
        draws = generator(self.seed, "candidates of steps", round_index, client)
        return draws.integers(0, self.count, steps)


@final
@dataclass(eq=False)
class SeededModel:
    """`w(a) = w_0 + sum_k a_k z_k`, to the same bits however it was reached.

    Every term is rounded to a multiple of 2^-40 and summed in whole numbers, so that the order of
    terms does not count: a party that adds what changed since it last had the model gets the bits
    of one that begins at w_0. The sum is rounded to fp32 once, at the end.

    Args:
        directions: the candidates.
        start: w_0, which every party has before round 1.
    """

    directions: Directions
    start: Mapping[str, Tensor]
    _coefficients: Tensor | None = field(default=None, init=False, repr=False)
    _sum: NDArray[np.int64] | None = field(default=None, init=False, repr=False)
    _made: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def at(self, coefficients: Tensor) -> dict[str, Tensor]:
        """The model at a [K], fp32; what was asked last is remembered, and only changes are added.

        Raises DivergedError for coefficients beyond any model's size.
        """
        held = self._coefficients
        if held is None or self._sum is None:
            held = torch.zeros(self.directions.count)
            self._sum = np.zeros(sum(x.numel() for x in self.start.values()), dtype=np.int64)
        elif torch.equal(held, coefficients):
            return {name: tensor.clone() for name, tensor in self._made.items()}
        _check_size(coefficients)
        for index in torch.nonzero(held != coefficients).flatten().tolist():
            self._add(self._sum, index, float(coefficients[index]), float(held[index]))
        self._coefficients, self._made = coefficients.clone(), self._rounded(self._sum)
        return {name: tensor.clone() for name, tensor in self._made.items()}

    def _add(self, total: NDArray[np.int64], index: int, new: float, old: float) -> None:
        start = 0
        for drawn in self.directions.chunks(index, len(total)):
            part = total[start : start + len(drawn)]
            # A product of two fp32 numbers is exact in fp64.
            part += np.rint(np.multiply(drawn, new * _POINT, dtype=np.float64)).astype(np.int64)
            if old:
                part -= np.rint(np.multiply(drawn, old * _POINT, dtype=np.float64)).astype(np.int64)
            start += len(drawn)

    def _rounded(self, total: NDArray[np.int64]) -> dict[str, Tensor]:
        made: dict[str, Tensor] = {}
        start = 0
        for name in sorted(self.start):
            tensor = self.start[name]
            end = start + tensor.numel()
            moved = torch.from_numpy(total[start:end] / _POINT).view(tensor.shape)
            made[name] = (tensor.double() + moved).float()
            start = end
        return {name: made[name] for name in self.start}


def _check_size(coefficients: Tensor) -> None:
    total = float(coefficients.double().abs().sum())
    if not total < _LARGEST:
        raise DivergedError(
            f"Training diverged: coefficients of {total:.3g} in all are beyond any model; lower "
            "training.learning_rate."
        )
