"""Options that the methods share which split the model between clients and a main server."""

from typing import Annotated, Literal

from pydantic import Field

from airtune.quantities import SERVER_FLOP_RATE, UsualRange
from airtune.section import Section

_ALL_CLIENTS = UsualRange(-50.0, 90.0, "it is read in dBm: 30 for 1 W", decibels=True)
_SERVER_POWER = UsualRange(1.0, 1e7, "it is read in watts", or_zero=True)


class SidesSection(Section):
    """How the main server trains, and where labels are."""

    server_side: Literal["shared", "copies"] = Field(
        "shared", description="shared (SplitFed v2) | copies (v1: one per client, averaged)"
    )
    labels_at: Literal["server", "client"] = Field(
        "server", description="server | client (U-shaped: LM head and loss stay with the labels)"
    )


class HalvesSection(Section):
    """Whose the client halves are."""

    client_halves: Literal["own", "averaged"] = Field(
        "own", description="own (each stays at its client) | averaged (by the federated server)"
    )
    aggregate_every: int = Field(
        1, ge=1, description="rounds from one averaging of the client halves to the next"
    )


class CutFormatsSection(Section):
    """What crosses the cut, and the client half on the air."""

    activation_dtype: Literal["fp32", "fp16", "bf16", "int8"] = Field(
        "fp32", description="what crosses the cut forward; int8 rounds at random"
    )
    gradient_dtype: Literal["fp32", "fp16", "bf16", "int8"] = Field(
        "fp32", description="what comes back across the cut"
    )
    uplink_dtype: Literal["fp32", "fp16", "bf16", "int8"] = Field(
        "fp32", description="the client halves' updates on the air; int8 rounds at random"
    )
    downlink_dtype: Literal["fp32", "fp16", "bf16"] = Field(
        "fp32", description="the broadcast client half on the air"
    )


class ServersSection(Section):
    """The two servers and their links."""

    downlink: Literal["planned", "equal", "free"] = Field(
        "planned",
        description="shares of the downlink: planned | equal | free (not charged, the paper's)",
    )
    server_flop_rate: Annotated[float, SERVER_FLOP_RATE] = Field(
        1e13, gt=0, description="of the main server [FLOP/s]"
    )
    server_power_w: Annotated[float, _SERVER_POWER] = Field(
        0.0, ge=0, description="drawn by the main server while it computes [W]; 0: not counted"
    )
    main_subchannels: int = Field(
        20, ge=1, le=100_000, description="of the uplink to the main server, at least one a client"
    )
    federated_subchannels: int = Field(
        20,
        ge=1,
        le=100_000,
        description="of the uplink to the federated server, at least one a client",
    )
    main_total_power_dbm: Annotated[float | None, _ALL_CLIENTS] = Field(
        None, description="of all clients together to the main server; null: each its full power"
    )
    federated_total_power_dbm: Annotated[float | None, _ALL_CLIENTS] = Field(
        None, description="of all clients together to the federated server"
    )
