"""What soft_tsfa records of a round: the numbers behind its plan, and SOFT's terms."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from airtune.federated.records.fields import DIMENSIONLESS, Quantity

_Queue = partial(Quantity, figure="Virtual queue")
_Objective = partial(
    Quantity, unit="s²", figure="Objective of each round", comparable=False, order=101
)
_Cosine = partial(
    Quantity,
    unit=DIMENSIONLESS,
    figure="Orthogonality of the factors",
)
_Energy = partial(
    Quantity,
    unit=DIMENSIONLESS,
    figure="Squared norms: the update, and what the server does not get of it",
)


@dataclass(frozen=True)
class Planned:
    """Under `plan`."""

    virtual_queue_s: Annotated[float, _Queue("virtual queue", "s")]
    """Queue that the plan was made with."""
    latency_target_s: Annotated[float | None, Quantity("latency target", "s")]
    """Target of the mean latency."""
    planned_dropped_energy: Annotated[float, Quantity("energy not sent, as planned", "share")]
    """Share of the energy that the plan expects to drop."""
    objective: Annotated[float, _Objective("objective of the round")]
    """`V sum_n w_n (energy share that n drops) + Q tau` of the plan."""
    objective_lower_bound: Annotated[float | None, _Objective("its proven lower bound")]
    """What is proven about it."""


@dataclass(frozen=True)
class Measured:
    """Under `measured`. Energies are those of `B A` without the scale alpha / r."""

    cosine_a: Annotated[float, _Cosine("mean |cos| of the rows of A")]
    """Mean absolute cosine between ranks, of the merged adapter."""
    cosine_b: Annotated[float, _Cosine("mean |cos| of the columns of B")]
    """Mean absolute cosine between ranks, of the merged adapter."""
    covariance_energy: Annotated[float, _Energy("covariance of the factors", order=101)]
    """`||sum_n w_n (B_n - Bbar)(A_n - Abar)||^2`: what averaging factors over all
    clients leaves out, ranks that were not sent as unchanged."""
    update_energy: Annotated[float | None, _Energy("the update")]
    """`sum_n w_n ||d(B A)_n||^2` of everything that was trained."""
    rank_energy: Annotated[float | None, _Energy("rank energy")]
    """What `adapter.rank` cannot represent of it, `truncated_share` times the update's energy:
    SOFT's rank term; null without a rank search."""
    dropped_energy: Annotated[float | None, _Energy("what was not sent")]
    """The part of it that was not sent: SOFT's sparsification term."""
