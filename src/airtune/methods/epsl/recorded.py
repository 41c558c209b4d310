"""What epsl records of a round."""

from dataclasses import dataclass
from typing import Annotated

from airtune.federated.records.fields import DIMENSIONLESS, Quantity
from airtune.methods.split_recorded import OwnLosses


@dataclass(frozen=True)
class Measured(OwnLosses):
    """Under `measured`, beside the losses of clients with their own halves."""

    cosine: Annotated[float | None, Quantity("cosine to the exact gradient", DIMENSIONLESS)]
    """Of all clients' gradients at the cut, as aggregated and as they are without, in the first
    step; null where it is not measured."""
    backward_rows: Annotated[float | None, Quantity("rows backward at the server", DIMENSIONLESS)]
    """`m + K (b - m)` of a step, the mean over the round's steps; null where nobody trained."""
