"""What fedex_lora records of a round."""

from dataclasses import dataclass
from typing import Annotated

from airtune.federated.records.fields import DIMENSIONLESS, Quantity


@dataclass(frozen=True)
class Measured:
    """Under `measured`. Frobenius norm over all matrices, without the scale alpha / r."""

    residual_norm: Annotated[float | None, Quantity("residual merged into the base", DIMENSIONLESS)]
    """`||sum_n p_n B_n A_n - B A||`; null without updates."""
    residual_rank: Annotated[float | None, Quantity("rank of the residual's factors", "ranks")]
    """Ranks of its factors, of the matrix with most; null without updates."""
