"""What fedkseed records of a round."""

from dataclasses import dataclass
from typing import Annotated

from airtune.federated.records.fields import DIMENSIONLESS, Quantity


@dataclass(frozen=True)
class Measured:
    """Under `measured`."""

    directions_moved: Annotated[float | None, Quantity("directions moved along", "directions")]
    """Directions that the round's clients have stepped along, each counted once; null without
    updates."""
    coefficient_norm: Annotated[float | None, Quantity("norm of coefficients", DIMENSIONLESS)]
    """Mean over clients of the 2-norm of their coefficients; times the square root of the number of
    parameters it is about the norm of their change."""
