"""The options of each learning method: a section of the experiment file per method."""

from typing import Literal

from pydantic import Field

from airtune.config_section import Section


class FedloraSection(Section):
    bandwidth: Literal["minmax", "equal"] = Field(
        "minmax", description="minmax (least round latency) | equal"
    )
    uplink_dtype: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="updates on the air")
    downlink_dtype: Literal["fp32", "fp16", "bf16"] = Field(
        "fp32", description="the broadcast adapter on the air"
    )


class JcpbaSection(Section):
    solver: Literal["exact", "bcd", "equal", "uniform-pruning", "no-pruning", "none"] = Field(
        "exact", description="as in airtune plan: exact | bcd | equal | uniform-pruning | ..."
    )
    pruning_budget: float = Field(
        0.3, ge=0, lt=1, description="the mean pruning rate (by weight) may not exceed it"
    )
    pruning_rate_max: float = Field(0.9, ge=0, lt=1, description="no client is pruned further")
    importance: Literal["weights", "random"] = Field(
        "weights", description="which units go first: weights (small norms) | random"
    )
    uplink_dtype: Literal["fp32", "fp16", "bf16", "int8"] = Field(
        "fp32", description="updates on the air"
    )
