"""What sampled_lora records of a round."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from airtune.federated.records.fields import DIMENSIONLESS, Quantity

_Round = partial(Quantity, unit="s", figure="Length of a round, as planned and as drawn")


@dataclass(frozen=True)
class Planned:
    """Under `plan`."""

    planned_s: Annotated[float | None, _Round("as planned, before the draw")]
    """Deadline of the plan, which a cohort keeps that needs the band it expects."""
    drawn_s: Annotated[float | None, _Round("of the clients drawn")]
    """Least latency of the clients that were drawn, which share the band anew."""
    expected_clients: Annotated[float | None, Quantity("clients expected", "clients")]
    """Sum of the probabilities."""
    expected_band_hz: Annotated[float | None, Quantity("band expected", "Hz")]
    """`sum_n q_n b_n`, what the plan expects to be used."""
    price: Annotated[float | None, Quantity("price of bandwidth", "1/Hz")]
    """Fall of the variance term per hertz; 0 where all take part."""
    expected_time: Annotated[float | None, Quantity("objective", "s", comparable=False)]
    """`tau (a0 + sum_n v_n / q_n)`, in proportion to the time to a target."""
    expected_time_bound: Annotated[float | None, Quantity("its bound", "s", comparable=False)]
    """No plan has less."""


@dataclass(frozen=True)
class Measured:
    """Under `measured`."""

    update_norm: Annotated[
        Mapping[str, float] | None, Quantity("norms of the updates", DIMENSIONLESS)
    ]
    """Client -> estimated norm of its whole update: of the update as decoded, times `sqrt(k / r)`
    for k of r random ranks."""
    alignment: Annotated[float | None, Quantity("mean cosine of the updates", DIMENSIONLESS)]
    """Between updates of different clients, as decoded; null for fewer than two."""
