"""What the server merges: a client's decoded update, and the interface of what merges them.

The shipped aggregators are in `airtune.update.means` and `airtune.update.svd`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from airtune.round_plan import Decision


@dataclass(frozen=True)
class Update:
    """One client's decoded change of the adapter and its weight (its number of examples).

    `kept` is True where the client trained a coordinate, in the change's shapes (None: everywhere).
    `sent` is True where the payload carried it (None: wherever it was trained); elsewhere the
    change is 0, whatever was trained.
    """

    client: int
    weight: float
    change: Mapping[str, Tensor]
    kept: Mapping[str, Tensor] | None = None
    sent: Mapping[str, Tensor] | None = None


class Aggregator(ABC):
    """Merges updates, which arrive in ascending client order, into the server's adapter.

    `honours` and `requires`: as for a codec. `keeps_unchanged`: a coordinate that no client changed
    stays exactly as it was. `fills_unsent`: what a client did not send is taken from the others,
    not as "no change". `refactors`: the merged factors are replaced by others of the same product.
    `on_factors`: it works on LoRA's factors, not on any trained parameter.
    """

    honours: frozenset[Decision] = frozenset()
    requires: frozenset[Decision] = frozenset()
    keeps_unchanged: bool = False
    fills_unsent: bool = False
    refactors: bool = False
    on_factors: bool = False

    @abstractmethod
    def aggregate(
        self, state: Mapping[str, Tensor], updates: Sequence[Update]
    ) -> dict[str, Tensor]:
        """The server's next adapter; with no updates, the adapter as it was."""

    def replaced_by(self, aggregator: "Aggregator") -> "Aggregator":
        """What runs where an experiment names `aggregator` in this one's place.

        An aggregator that wraps another one answers itself around `aggregator`.
        """
        return aggregator
