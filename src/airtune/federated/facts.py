"""The server's view of clients' data: counts and shapes, no rows.

Planning, charging and the checks use nothing else. A client's batches follow from (seed, round,
client), so the client can state their shapes before the round.
"""

from collections.abc import Sequence
from typing import Protocol

from airtune.update.cut import CutShape
from airtune.workload.step import Step


class ClientFacts(Protocol):
    """Counts and shapes of clients' data. `experiment.shards.Shards` computes them from local data.

    Clients are numbered from 0; `round_index` counts from 0.
    """

    def rows(self, client: int) -> int:
        """Number of training rows; the weight of the client in averages."""
        ...

    def longest_step(self, client: int) -> Step:
        """The largest batch that the client may draw; its memory follows from it."""
        ...

    def step_shapes(self, client: int, round_index: int) -> Sequence[Step]:
        """The size of each local step's batch."""
        ...

    def cut_shapes(self, client: int, round_index: int) -> Sequence[CutShape]:
        """Per local step, what the length of a split model's messages depends on."""
        ...
