"""The sections of problem files that choose a cut for every client."""

from typing import Annotated, ClassVar

from pydantic import Field

from airtune.planning.sections import (
    POSITIVE,
    CellSection,
    ClientSection,
    Count,
    Dtype,
    NotNegative,
    Positive,
    ProblemSection,
)
from airtune.planning.table import ClientTable, TableOf
from airtune.quantities import SERVER_FLOP_RATE
from airtune.section import Words


class CutClient(ClientSection):
    flop_rate: Positive = Field(description="of the client [FLOP/s]")
    uplink_rate_bps: Positive = Field(description="to the main server [bit/s]")
    downlink_rate_bps: Positive | None = Field(
        None, description="from it; null: the download is not charged [bit/s]"
    )
    most_blocks: Count | None = Field(
        None, description="that its memory holds; null: as many as a cut has"
    )


class CutSection(ProblemSection):
    """A cut; FLOPs and bits are those of one sample."""

    split_point: Count = Field(description="blocks on the client")
    client_forward_flops: NotNegative = Field(description="of the client's half")
    client_backward_flops: NotNegative = Field(description="of the client's half")
    server_forward_flops: NotNegative = Field(description="of the server's half")
    server_backward_flops: NotNegative = Field(description="of the server's half")
    activation_bits: NotNegative = Field(description="across the cut, forward")
    gradient_bits: NotNegative = Field(0.0, description="across the cut, back; 0: not charged")


class CutServer(ProblemSection):
    flop_rate: Positive = Field(description="of the main server, for all clients [FLOP/s]")


class HsflFile(ProblemSection):
    """A cut for every client, in explicit numbers."""

    as_given: ClassVar[tuple[str, ...]] = ("clients",)

    method: str = Field(description="the planner")
    local_steps: Count = Field(description="steps of a round")
    batch_size: Count = Field(description="samples of a step")
    round_trip_s: NotNegative = Field(0.0, description="added to every transfer charged [s]")
    main_server: CutServer = Field(description="has the rest of the model")
    clients: Annotated[ClientTable, TableOf(CutClient)] = Field(description="one mapping each")
    cuts: Annotated[
        list[CutSection], Field(min_length=1), Words("a list with at least one entry")
    ] = Field(description="what may be chosen, one row per split point")


class CellServer(ProblemSection):
    flop_rate: Annotated[float, POSITIVE, SERVER_FLOP_RATE] = Field(description="[FLOP/s]")
    unusual_values: str | list[str] | None = Field(
        None, description="flop_rate, where it is meant although outside its usual range"
    )


class HsflCell(CellSection):
    """A cut for every client from a model, a cell and devices, at equal shares of the band."""

    activation_dtype: Dtype = Field("fp32", description="what crosses the cut, both ways")
    main_server: CellServer = Field(description="has the rest of the model")
