"""What fedsl records of a round's plan."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from airtune.federated.records.fields import DIMENSIONLESS, Quantity

_Error = partial(Quantity, unit=DIMENSIONLESS, figure="Error of what crosses the cut, as planned")


@dataclass(frozen=True)
class Planned:
    """Under `plan`, where shares and formats are planned."""

    cut_error: Annotated[float | None, _Error("as planned")]
    """Sum over clients, by their weights, of the mean square of the error in relation to that of
    what is sent."""
    cut_error_bound: Annotated[float | None, _Error("no plan has less")]
    """For the links and the window of the round."""
