"""The section `epsl` of an experiment."""

from typing import Literal

from pydantic import Field

from airtune.methods.split_options import CutFormatsSection, HalvesSection, ServersSection
from airtune.section import Section


class AggregationSection(Section):
    """What is aggregated."""

    aggregation_ratio: float = Field(
        0.5, ge=0, le=1, description="share of a batch's rows whose gradients are aggregated"
    )
    split_point: int | None = Field(None, ge=1, description="blocks on every client; null: planned")
    cosine: Literal["measured", "off"] = Field(
        "measured",
        description="of the aggregated gradients to the exact ones, in the first step of a round: "
        "measured (a backward pass more, not charged) | off",
    )


class EpslSection(ServersSection, CutFormatsSection, HalvesSection, AggregationSection):
    unusual_values: list[str] = Field(
        [], description="keys of this section that are meant although outside their usual range"
    )
