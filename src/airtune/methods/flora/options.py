"""The section `flora` of an experiment."""

from typing import Literal

from pydantic import Field

from airtune.section import Section


class FloraSection(Section):
    bandwidth: Literal["minmax", "equal", "random"] = Field(
        "minmax", description="minmax (least round latency) | equal | random"
    )
    uplink_dtype: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="updates on the air")
    rank_min: int | None = Field(
        None,
        ge=1,
        description="rank of the slowest device, the fastest gets adapter.rank; null: all get it",
    )
