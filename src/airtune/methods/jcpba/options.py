"""The section `jcpba` of an experiment."""

from typing import Literal

from pydantic import Field

from airtune.section import Section


class JcpbaSection(Section):
    solver: Literal["exact", "bcd", "equal", "uniform-pruning", "no-pruning", "none"] = Field(
        "exact", description="as in airtune plan: exact | bcd | equal | uniform-pruning | ..."
    )
    pruning_budget: float = Field(
        0.3, ge=0, lt=1, description="the mean pruning rate (by weight) may not exceed it"
    )
    budget_search: bool = Field(
        False, description="choose pruning_budget in short runs before round 1"
    )
    pruning_rate_max: float = Field(0.9, ge=0, lt=1, description="no client is pruned further")
    importance: Literal["weights", "activations", "random"] = Field(
        "weights", description="which units go first: small weights | small activations | random"
    )
    calibration: str = Field(
        "builtin", description="public rows for importance: activations; a source as in data.train"
    )
    calibration_rows: int = Field(32, ge=1, le=1_000_000, description="how many of them")
    uplink_dtype: Literal["fp32", "fp16", "bf16", "int8"] = Field(
        "fp32", description="updates on the air; int8 rounds at random"
    )
    downlink_dtype: Literal["fp32", "fp16", "bf16"] = Field(
        "fp32", description="the broadcast adapter on the air"
    )


class PrunedOptions(Section):
    """Options of the pruned tuner where it is named by itself."""

    importance: Literal["weights", "activations", "random"] | None = Field(
        None, description="which units go first; null: as jcpba.importance"
    )


PLANNER_OPTIONS = ("solver", "pruning_budget", "pruning_rate_max")
