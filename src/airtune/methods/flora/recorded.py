"""What flora records of a round."""

from dataclasses import dataclass
from typing import Annotated

from airtune.federated.records.fields import DIMENSIONLESS, Quantity


@dataclass(frozen=True)
class Measured:
    """Under `measured`. Frobenius norm over all matrices, without the scale alpha / r."""

    stacked_rank: Annotated[float | None, Quantity("stacked rank", "ranks")]
    """Ranks of all clients together, of the matrix with most; null without updates."""
    product_norm: Annotated[float | None, Quantity("norm of the merged product", DIMENSIONLESS)]
    """`||sum_n p_n B_n A_n||`, merged into the base after the round."""
