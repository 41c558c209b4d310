"""The sections of problem files that choose a cut for every client."""

from typing import Annotated, ClassVar

from pydantic import Field

from airtune.planning.sections import (
    Count,
    Dtype,
    NotNegative,
    Positive,
    ProblemSection,
)
from airtune.planning.split_sections import (
    CellServer,
    CellWithoutUpdates,
    ClientAtRates,
    CutSection,
)
from airtune.planning.table import ClientTable, TableOf
from airtune.section import Words


class CutClient(ClientAtRates):
    flop_rate: Positive = Field(description="of the client [FLOP/s]")
    most_blocks: Count | None = Field(
        None, description="that its memory holds; null: as many as a cut has"
    )


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


class HsflCell(CellWithoutUpdates):
    """A cut for every client from a model, a cell and devices, at equal shares of the band."""

    activation_dtype: Dtype = Field("fp32", description="what crosses the cut, both ways")
    main_server: CellServer = Field(description="has the rest of the model")
