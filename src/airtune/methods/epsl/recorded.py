"""What epsl records of a round."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from airtune.federated.records.fields import DIMENSIONLESS, Quantity

_Loss = partial(Quantity, unit="nat", figure="Test loss of clients with their own halves")


@dataclass(frozen=True)
class Measured:
    """Under `measured`."""

    mean_client_loss: Annotated[float | None, _Loss("mean over clients")]
    """Over the clients that have held-out rows, each with its own half; null where none has one."""
    worst_client_loss: Annotated[float | None, _Loss("worst client")]
    """Of the client that is served worst."""
    cosine: Annotated[float | None, Quantity("cosine to the exact gradient", DIMENSIONLESS)]
    """Of all clients' gradients at the cut, as aggregated and as they are without, in the first
    step; null where it is not measured."""
    backward_rows: Annotated[float | None, Quantity("rows backward at the server", DIMENSIONLESS)]
    """`m + K (b - m)` of a step, the mean over the round's steps; null where no client trained."""
