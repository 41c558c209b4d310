"""The sections of SflLLM's problem files."""

from typing import Annotated, Any, Literal

from pydantic import Field

from airtune.planning.sections import (
    COUNT,
    LEVEL,
    NOT_NEGATIVE,
    POSITIVE,
    CellSection,
    ClientSection,
    Count,
    Dtype,
    Index,
    Level,
    NotNegative,
    NumbersSection,
    Positive,
    ProblemSection,
)
from airtune.planning.split_sections import CellServer, CutSection
from airtune.planning.table import ClientTable, TableOf
from airtune.ranges import Numbers, Range
from airtune.section import Real, Words

MOST_SUBCHANNELS = 10_000
Subchannels = Annotated[int, Range(least=1, most=MOST_SUBCHANNELS, whole=True)]
Widths = Annotated[Any, Numbers(POSITIVE)]
Gains = Annotated[Any, Numbers(NOT_NEGATIVE, one=True)]
GainsDb = Annotated[Any, Numbers(LEVEL, one=True)]


class PoweredSection(ProblemSection):
    """The power that all clients together may have at a server."""

    levels = ("total_power_w",)

    total_power_w: NotNegative | None = Field(None, description="of all clients together [W]")
    total_power_dbm: Level | None = Field(None, description="of all clients together [dBm]")


class FederatedServer(PoweredSection):
    needed_levels = ("total_power_w",)

    subchannel_bandwidth_hz: Widths = Field(description="widths of its subchannels [Hz]")


class MainServer(FederatedServer):
    flop_rate: Positive = Field(description="of the main server [FLOP/s]")


class SplitClient(ClientSection):
    levels = needed_levels = ("power_max_w",)

    flop_rate: Positive = Field(description="of the client [FLOP/s]")
    power_max_w: NotNegative | None = Field(None, description="most that it radiates [W]")
    power_max_dbm: Level | None = Field(None, description="most that it radiates [dBm]")
    main_gain: Gains = Field(None, description="to the main server, one or one per subchannel")
    main_gain_db: GainsDb = Field(None, description="the same [dB]")
    federated_gain: Gains = Field(None, description="to the federated server, likewise")
    federated_gain_db: GainsDb = Field(None, description="the same [dB]")
    downlink_rate_bps: Positive | None = Field(
        None, description="of all clients or of none [bit/s]"
    )


class CandidateSection(CutSection):
    """A split point and a rank; FLOPs and bits are those of one sample."""

    rank: Count = Field(description="LoRA rank")
    rounds: Positive = Field(description="global rounds until the target loss")
    adapter_bits: NotNegative = Field(description="of the client's adapter")


class BlocksSection(ProblemSection):
    """How each block is decided, for solver blocks alone."""

    subchannels: Literal["joint", "greedy", "random"] = Field("joint", description="their owners")
    power: Literal["exact", "random"] = Field("exact", description="on each subchannel")
    split_point: Literal["search", "random"] = Field("search", description="among candidates")
    rank: Literal["search", "random"] = Field("search", description="among candidates")


class SflllmFile(NumbersSection):
    """SflLLM in explicit numbers."""

    needed_levels = ("noise_psd_w_hz",)

    local_steps: Count = Field(description="steps of a round")
    batch_size: Count = Field(description="samples of a step")
    seed: Index = Field(0, description="of the random baselines")
    blocks: BlocksSection | None = Field(None, description="for solver blocks alone")
    round_trip_s: NotNegative = Field(0.0, description="added to every transfer charged [s]")
    main_server: MainServer = Field(description="has the rest of the model")
    federated_server: FederatedServer = Field(description="averages the clients' adapters")
    clients: Annotated[ClientTable, TableOf(SplitClient)] = Field(description="one mapping each")
    candidates: Annotated[
        list[CandidateSection], Field(min_length=1), Words("a list with at least one entry")
    ] = Field(description="what may be chosen, one row per split point and rank")


class CellFederatedServer(PoweredSection):
    subchannels: Subchannels = Field(description="equal parts of the cell's band")


class CellMainServer(CellFederatedServer, CellServer):
    """A main server with a link of its own."""


class SflllmCell(CellSection):
    """SflLLM from a model, a cell and devices; the ranks are the keys of `rounds`."""

    rounds: Annotated[
        dict[Annotated[int, COUNT], Annotated[Real, POSITIVE]],
        Field(min_length=1),
        Words(
            "a table from rank to the rounds until the target loss, such as {4: 40, 8: 35}, "
            "measured with a run for each rank"
        ),
    ] = Field(description="LoRA rank -> rounds until the target loss, measured")
    split_points: Annotated[list[int] | None, Words("a list of whole numbers")] = Field(
        None, description="the split points to weigh; null: all that fit the smallest device"
    )
    activation_dtype: Dtype = Field("fp32", description="what crosses the cut, both ways")
    downlink: Literal["equal", "free"] = Field(
        "equal", description="shares of band and power: equal | free (not charged)"
    )
    main_server: CellMainServer = Field(description="has the rest of the model")
    federated_server: CellFederatedServer = Field(description="averages the clients' adapters")
    blocks: BlocksSection | None = Field(None, description="for solver blocks alone")
