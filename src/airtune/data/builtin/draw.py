"""Fast random choices for text generators."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
_BLOCK = 8192


class Draw:
    """Choices from one random stream.

    Uniform numbers are taken from the stream in blocks: a call of the generator for each of the
    millions of choices in a corpus would take minutes.
    """

    def __init__(self, stream: np.random.Generator) -> None:
        self._stream = stream
        self._block: list[float] = []

    def uniform(self) -> float:
        """A number in [0, 1)."""
        if not self._block:
            self._block = self._stream.random(_BLOCK).tolist()
        return self._block.pop()

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.uniform() < probability

    def integer(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return low + int(self.uniform() * (high - low + 1))

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        return options[int(self.uniform() * len(options))]

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """Several different options in random order."""
        rest = list(options)
        return [rest.pop(int(self.uniform() * len(rest))) for _ in range(count)]
