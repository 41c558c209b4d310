"""What lora_fair records of a round."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from airtune.federated.records.fields import DIMENSIONLESS, Quantity

_Norm = partial(
    Quantity,
    unit=DIMENSIONLESS,
    figure="Mean of products against product of means: norms over all matrices",
)


@dataclass(frozen=True)
class Measured:
    """Under `measured`. Frobenius norms of `B A` without the scale alpha / r."""

    residual_before: Annotated[float | None, _Norm("left out by the mean factors")]
    """`||W - Bbar Abar||`, W the mean of the clients' products; null without updates."""
    residual_after: Annotated[float | None, _Norm("left after the correction")]
    """`||W - (Bbar + D) Abar||`."""
    correction_norm: Annotated[float | None, _Norm("correction of B")]
    """`||D||`."""
