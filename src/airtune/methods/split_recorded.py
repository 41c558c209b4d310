"""What methods record whose clients keep their halves: losses with each client's own."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from airtune.federated.records.fields import Quantity

_Loss = partial(Quantity, unit="nat", figure="Test loss of clients with their own halves")


@dataclass(frozen=True)
class OwnLosses:
    """Under `measured`, over the clients that have held-out rows; null where none has a half."""

    mean_client_loss: Annotated[float | None, _Loss("mean over clients")]
    """Every client counts alike, however many rows it has."""
    worst_client_loss: Annotated[float | None, _Loss("worst client")]
    """Of the client that is served worst."""
