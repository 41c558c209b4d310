"""The section `sflllm` of an experiment."""

from typing import Annotated, Literal

from pydantic import Field

from airtune.quantities import SERVER_FLOP_RATE, UsualRange
from airtune.section import Section

_ALL_CLIENTS = UsualRange(-50.0, 90.0, "it is read in dBm: 30 for 1 W", decibels=True)
_SERVER_POWER = UsualRange(1.0, 1e7, "it is read in watts", or_zero=True)


class SflllmSection(Section):
    solver: Literal[
        "joint",
        "greedy",
        "random",
        "random-subchannels",
        "random-power",
        "random-split-point",
        "random-rank",
    ] = Field("joint", description="as in airtune plan: joint | greedy | random | random-...")
    split_point: int | None = Field(
        None, ge=1, description="blocks on every client; null: planned in every round"
    )
    split_points: Literal["common", "own"] = Field(
        "common", description="common (one cut for all) | own (every client its own)"
    )
    server_side: Literal["shared", "copies"] = Field(
        "shared", description="shared (SplitFed v2) | copies (v1: one per client, averaged)"
    )
    labels_at: Literal["server", "client"] = Field(
        "server", description="server | client (U-shaped: LM head and loss stay with the labels)"
    )
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
    rounds_table: str | dict[int, float] | None = Field(
        None,
        description="rounds to the target by rank, {4: 60, 8: 50} or the file of airtune "
        "rank-search --out: adapter.rank is then chosen before round 1",
    )
    accuracy_a: float | None = Field(
        None, gt=0, description="FedsLLM's a: local_steps and rounds follow from a local accuracy"
    )
    accuracy_v: float | None = Field(
        None, gt=0, description="FedsLLM's v: local steps per halving of the local error"
    )
    unusual_values: list[str] = Field(
        [], description="keys of this section that are meant although outside their usual range"
    )


PLANNER_OPTIONS = ("solver", "split_point", "split_points")
