"""What ferret records of a round."""

from dataclasses import dataclass
from typing import Annotated

from airtune.federated.records.fields import DIMENSIONLESS, Quantity


@dataclass(frozen=True)
class Measured:
    """Under `measured`."""

    update_norm: Annotated[float | None, Quantity("norm of an update", DIMENSIONLESS)]
    """Mean over clients of the change's 2-norm `|x|`; null without updates."""
    expected_error: Annotated[float | None, Quantity("share lost on the way", DIMENSIONLESS)]
    """Mean over clients of `E |x^ - x|^2 / |x|^2`, from the norms of the blocks."""
