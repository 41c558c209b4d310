"""Sections that problem files of split models share."""

from typing import Annotated, Literal

from pydantic import Field

from airtune.planning.sections import (
    POSITIVE,
    CellSection,
    ClientSection,
    Count,
    NotNegative,
    Positive,
    ProblemSection,
)
from airtune.quantities import SERVER_FLOP_RATE
from airtune.section import Words


class CutSection(ProblemSection):
    """A split point; FLOPs and bits are those of one sample."""

    split_point: Count = Field(description="blocks on the client")
    client_forward_flops: NotNegative = Field(description="of the client's half")
    client_backward_flops: NotNegative = Field(description="of the client's half")
    server_forward_flops: NotNegative = Field(description="of the server's half")
    server_backward_flops: NotNegative = Field(description="of the server's half")
    activation_bits: NotNegative = Field(description="across the cut, forward")
    gradient_bits: NotNegative = Field(0.0, description="across the cut, back; 0: not charged")


class ClientAtRates(ClientSection):
    """A client with given rates to and from the main server."""

    uplink_rate_bps: Positive = Field(description="to the main server [bit/s]")
    downlink_rate_bps: Positive | None = Field(
        None, description="from it; null: the download is not charged [bit/s]"
    )


class CellServer(ProblemSection):
    """A main server beside a cell."""

    flop_rate: Annotated[float, POSITIVE, SERVER_FLOP_RATE] = Field(description="[FLOP/s]")
    unusual_values: str | list[str] | None = Field(
        None, description="flop_rate, where it is meant although outside its usual range"
    )


class CellWithoutUpdates(CellSection):
    """A cell in which nothing but messages across the cut is planned."""

    uplink_dtype: Annotated[
        Literal["fp32"], Words("left out of a problem in which no update is sent")
    ] = Field("fp32", description="no update is sent here")
