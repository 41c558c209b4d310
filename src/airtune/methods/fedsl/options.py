"""The section `fedsl` of an experiment."""

from typing import Literal

from pydantic import Field

from airtune.methods.split_options import CutFormatsSection, ServersSection
from airtune.section import Section


class ThinningSection(Section):
    """What is left out, and when halves are averaged."""

    latency_target_s: float | None = Field(
        None,
        gt=0,
        description="of a round: share and format of each client's tokens are planned "
        "for it; null: they are given",
    )
    cut_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of a token's numbers that does not cross the cut"
    )
    least_kept_share: float = Field(
        0.1, gt=0, le=1, description="of a token, where shares are planned"
    )
    pruning_rate: float = Field(
        0.0, ge=0, lt=1, description="share of the units left out of the blocks on the clients"
    )
    aggregate_every: int = Field(
        1, ge=1, description="rounds from one averaging of the client halves to the next"
    )
    split_point: int | None = Field(None, ge=1, description="blocks on every client; null: planned")


class FedslSection(ServersSection, CutFormatsSection, ThinningSection):
    gradient_dtype: Literal["fp32", "fp16", "bf16", "int8"] = Field(
        "int8", description="what comes back across the cut; int8 rounds at random"
    )
    unusual_values: list[str] = Field(
        [], description="keys of this section that are meant although outside their usual range"
    )


PLANNER_OPTIONS = (
    "latency_target_s",
    "cut_dropout",
    "least_kept_share",
    "pruning_rate",
    "split_point",
)
"""What its planner decides by."""
