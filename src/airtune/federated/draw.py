"""A cohort that was drawn: its clients, and the probability with which each was."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from airtune.quantities import FloatArray
from airtune.seeds import generator


@dataclass(frozen=True)
class Draw:
    """A cohort, ascending and not empty, and what was decided with it.

    `inclusion` and `ranks` have the cohort's order: the probability with which each client was
    drawn, above 0, and its LoRA rank (0: none was decided). `notes` are numbers behind the draw
    that a record should keep.
    """

    cohort: NDArray[np.int64]
    inclusion: FloatArray
    ranks: tuple[int, ...] = ()
    notes: Mapping[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ascending = bool((np.diff(self.cohort) > 0).all())
        likely = bool(((self.inclusion > 0) & (self.inclusion <= 1)).all())
        if not len(self.cohort) or not ascending or not likely:
            raise ValueError("a draw needs clients in ascending order, each with 0 < q <= 1")
        if not len(self.cohort) == len(self.inclusion) == len(self.ranks or self.cohort):
            raise ValueError("a draw needs a probability, and a rank if any, for each client")


def independent_draw(
    probability: FloatArray, seed: int, round_index: int
) -> tuple[NDArray[np.int64], FloatArray]:
    """Clients [client] drawn independently of one another, and the probabilities of the drawn ones.

    An empty cohort is drawn again, which makes each client's probability `q / (1 - P)`, P that of
    the empty cohort. Raises ValueError where no client can be drawn.
    """
    empty = float(np.prod(1.0 - probability))
    if not empty < 1.0:
        raise ValueError("at least one client must be able to take part")
    draws = generator(seed, "independent sampling", round_index)
    chosen = draws.random(len(probability)) < probability
    while not chosen.any():
        chosen = draws.random(len(probability)) < probability
    cohort = np.flatnonzero(chosen).astype(np.int64)
    return cohort, np.minimum(probability[cohort] / (1.0 - empty), 1.0)
