"""Which clients take part in a round, and which of them fail in it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airtune.errors import InputError
from airtune.seeds import generator


@dataclass(frozen=True)
class CohortSettings:
    """`size` clients drawn uniformly without replacement (None: all); `dropout` of them fail."""

    size: int | None = None
    dropout: float = 0.0

    def check(self, clients: int) -> None:
        """Raises InputError for a cohort that these clients cannot fill."""
        if self.size is not None and not 1 <= self.size <= clients:
            raise InputError(
                "cohort.size",
                self.size,
                f"between 1 and the {clients} clients there are",
                "choose fewer, or raise clients.count",
            )
        if not 0.0 <= self.dropout < 1.0:
            raise InputError("cohort.dropout", self.dropout, "at least 0 and below 1")


def draw_cohort(
    settings: CohortSettings, clients: int, seed: int, round_index: int
) -> NDArray[np.int64]:
    """The clients scheduled in this round, ascending."""
    if settings.size is None:
        return np.arange(clients, dtype=np.int64)
    draws = generator(seed, "cohort", round_index)
    return np.sort(draws.choice(clients, size=settings.size, replace=False)).astype(np.int64)


def draw_dropouts(
    settings: CohortSettings, cohort: NDArray[np.int64], seed: int, round_index: int
) -> frozenset[int]:
    """Clients of the cohort that fall silent after the broadcast, each with the same probability.

    Drawn per client, so that who else is scheduled does not change who fails.
    """
    if settings.dropout == 0.0:
        return frozenset()
    return frozenset(
        int(client)
        for client in cohort
        if generator(seed, "dropout of clients", round_index, int(client)).random()
        < settings.dropout
    )
