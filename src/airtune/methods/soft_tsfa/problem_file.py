"""The sections of TSFA's problem files."""

from typing import Annotated, Any, Literal

from pydantic import Field

from airtune.planning.sections import (
    NOT_NEGATIVE,
    SMALLEST,
    Index,
    NotNegative,
    NotNegatives,
    NumbersSection,
    Positive,
    ProblemSection,
    Share,
    WeightedCell,
    WeightedClient,
)
from airtune.planning.table import ClientTable, TableOf
from airtune.ranges import Numbers, Range
from airtune.section import Word, Words

PositiveOrInfinite = Annotated[
    float, Range(above=0, smallest=SMALLEST, infinity=1, note=", or .inf for no outage")
]


class ChannelSection(ProblemSection):
    """How the channel changes from round to round in a simulation."""

    fading: Literal["rayleigh", "none"] | None = Field(
        None, description="around the problem's own gains: rayleigh (null) | none"
    )
    seed: Index = Field(0, description="of the fading")
    trace: Word | None = Field(
        None, description="instead of fading: a recording of airtune channel, or a csv of rounds"
    )


class TsfaClient(WeightedClient):
    compute_delay_s: NotNegative = Field(description="all that comes before its upload [s]")
    rank_energy: NotNegatives = Field(description="energy of its update, rank by rank")
    rank_payload_bits: Annotated[Any, Numbers(NOT_NEGATIVE, one=True)] = Field(
        description="bits of a rank, or of each"
    )
    fixed_payload_bits: NotNegative = Field(0.0, description="bits that every update has")


class TsfaKeys(ProblemSection):
    """The keys of its own, however the clients are given."""

    latency_target_s: Positive = Field(description="long-term limit of the mean round latency")
    v: NotNegative = Field(description="what a share of energy is worth [s^2]")
    virtual_queue: Annotated[Any, Numbers(NOT_NEGATIVE, one=True)] = Field(
        0.0, description="before the round [s]; a list per client for solver per-client-queues"
    )
    outage_latency_s: PositiveOrInfinite | None = Field(
        None, description="a client that would end later is skipped; null: 5 x the target"
    )
    sparsity: Share = Field(0.5, description="share of ranks removed (solver fixed-sparsity)")
    bandwidth_floor_hz: Positive | None = Field(
        None, description="of a client (solver per-client-queues); null: a tenth of an equal part"
    )
    channel: ChannelSection = Field(default_factory=ChannelSection, description="for --rounds")


class TsfaFile(TsfaKeys, NumbersSection):
    """TSFA in explicit numbers."""

    bandwidth_hz: Positive = Field(description="the band that the clients share [Hz]")
    clients: Annotated[ClientTable, TableOf(TsfaClient)] = Field(description="one mapping each")


class TsfaCell(TsfaKeys, WeightedCell):
    """TSFA from a model, a cell and devices."""

    rank_energy: Annotated[Any, Words("a list of numbers, or one list for each client")] = Field(
        None, description="energy rank by rank, for all clients or a list for each; null: k^-1.5"
    )
