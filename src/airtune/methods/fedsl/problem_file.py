"""The sections of problem files that choose what crosses the cut."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from airtune.planning.sections import (
    Count,
    NotNegative,
    PlannedTraining,
    Positive,
    ProblemSection,
)
from airtune.planning.split_sections import CellWithoutUpdates, ClientAtRates
from airtune.planning.table import ClientTable, TableOf
from airtune.ranges import Range
from airtune.section import Words

Kept = Annotated[float, Range(above=0, most=1)]


class ThinnedClient(ClientAtRates):
    before_s: NotNegative = Field(description="of a step, before the activations go up [s]")
    after_s: NotNegative = Field(description="of a step, after the gradient came down [s]")
    tokens: Positive = Field(description="of a step")
    fixed_bits: NotNegative = Field(0.0, description="of a message beside its numbers [bit]")
    weight: NotNegative = Field(
        1.0, description="what the client counts, most often its examples; divided by the sum"
    )


class ThinningKeys(ProblemSection):
    """Keys that explicit numbers and cells share."""

    window_s: Positive = Field(
        description="of a step, without the server: the slowest way up and the slowest back [s]"
    )
    least_kept_share: Kept = Field(0.1, description="of a token's numbers, for every client")


class FedslFile(ThinningKeys):
    """What crosses the cut, in explicit numbers."""

    as_given: ClassVar[tuple[str, ...]] = ("clients",)

    method: str = Field(description="the planner")
    hidden_size: Count = Field(description="numbers of a token at the cut")
    clients: Annotated[ClientTable, TableOf(ThinnedClient)] = Field(description="one mapping each")


class OneStep(PlannedTraining):
    local_steps: Annotated[
        Literal[1], Words("the whole number 1, or left out, for window_s is that of one step")
    ] = Field(1, description="window_s is that of one step")


class FedslCell(ThinningKeys, CellWithoutUpdates):
    """What crosses the cut from a model, a cell and devices, at equal shares of the band."""

    training: OneStep = Field(description="a step")
    split_point: Count = Field(description="blocks on every client")
