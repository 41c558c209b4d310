"""What jcpba measures of a round: both sides of the pruning term."""

from dataclasses import dataclass
from typing import Annotated

from airtune.federated.records.fields import DIMENSIONLESS, Quantity


@dataclass(frozen=True)
class Measured:
    """Under `measured`; None in a round without updates."""

    pruning_term: Annotated[float | None, Quantity("pruning term", DIMENSIONLESS)]
    """`sum_n w_n rho_n`, which the budget limits and the bound of the paper contains."""
    pruned_energy: Annotated[float | None, Quantity("pruned energy", DIMENSIONLESS)]
    """Share of the prunable weights' energy that the slices really leave
    out; null where another part cut them."""
